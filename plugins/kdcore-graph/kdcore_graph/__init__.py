"""kdcore-graph: a graph neural network teaches, a plain MLP answers."""

"""Where a graph comes from: the ``source:`` of the graph data sets."""

from __future__ import annotations

from functools import cached_property

from lightning.pytorch import LightningDataModule

from kdcore_graph.graph import Graph, check_graph, largest_component


class Source(LightningDataModule):
    """Reads one graph. A subclass implements :meth:`read` and says in ``where`` what messages call it.

    It is of the kind ``data`` so that a recipe can nest it, and it gives no batches: ``graph.nodes`` and
    ``graph.links`` do.

    Attributes:
        seed: the recipe's seed; set by the builder.
    """

    seed: int = 0
    where: str = "graph"
    only_largest: bool = False

    def read(self) -> Graph:
        """The graph as it is stored."""
        raise NotImplementedError(f"{type(self).__name__} does not implement read()")

    @cached_property
    def graph(self) -> Graph:
        """The graph, checked; read once.

        Raises:
            RunError: something is wrong with it; the message says what.
        """
        graph = check_graph(self.read(), self.where)
        return largest_component(graph) if self.only_largest else graph

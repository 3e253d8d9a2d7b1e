"""A multilayer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """``hidden.0`` ... (linear, ReLU, dropout), then ``head``. The input is flattened.

    Shape: (N, ...) with ``features`` numbers a sample -> logits (N, classes), in train and eval mode.

    Args:
        classes: number of classes.
        features: numbers in one sample (channels * height * width for an image).
        hidden: width of each hidden layer; empty for a linear classifier.
        dropout: share of each hidden layer's outputs set to 0 in training.

    Raises:
        ValueError: a hidden width below 1, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        *,
        classes: int,
        features: int,
        hidden: list[int] = [128, 128],  # noqa: B006  read, never changed
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden={list(hidden)}: every layer needs a width of at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not in [0, 1)")
        self.hidden = nn.Sequential(*(_layer(*sizes, dropout) for sizes in pairwise([features, *hidden])))
        self.head = nn.Linear(hidden[-1] if hidden else features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(x.flatten(1)))
        return logits


def _layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(inputs, outputs), relu=nn.ReLU())
    if dropout:
        parts["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(parts)

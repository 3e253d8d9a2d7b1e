"""A queue of vectors for each class, written and drawn from without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassQueue(nn.Module):
    """The last ``length`` vectors of each class.

    How many there are is known to the device only, so everything has the shape of the largest case: what is not to be
    kept is written to a row behind the queue, and what is drawn from an empty class is said not to be there.

    Args:
        classes: number of queues.
        length: how many vectors each holds; a newer one takes the place of the oldest.
        channels: size of a vector.
    """

    vectors: Tensor
    seen: Tensor

    def __init__(self, classes: int, length: int, channels: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("vectors", torch.zeros(classes, length + 1, channels))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def put(self, vectors: Tensor, kept: Tensor) -> None:
        """Append those that are ``kept``, in their order.

        Args:
            vectors: (classes, M, channels).
            kept: (classes, M) bool.

        Raises:
            ValueError: M is more than a queue holds.
        """
        if vectors.shape[1] > self.length:
            raise ValueError(
                f"one batch adds up to {vectors.shape[1]} vectors of a class to a queue of {self.length}: make the "
                "queue longer, or add fewer (`pixels_per_image`)"
            )
        nth = kept.cumsum(1) - 1  # of those that are kept, which one is it
        row = torch.where(kept, (self.seen.unsqueeze(1) + nth) % self.length, self.length)
        self.vectors.scatter_(1, row.unsqueeze(2).expand_as(vectors), vectors.to(self.vectors.dtype))
        self.vectors[:, -1] = 0.0  # several were written there, in no order
        self.seen += kept.sum(1)

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """So many of each class at random, with repeats.

        Returns:
            vectors (classes * number, channels), and which of them are there (bool): none of a class that has none.
        """
        held = self.seen.clamp(max=self.length).unsqueeze(1)  # (classes, 1)
        chance = torch.rand(len(held), number, device=held.device)
        # a chance just below 1, times many, may be rounded up to all of them
        row = torch.minimum((chance * held).long(), (held - 1).clamp(min=0))
        drawn = self.vectors.gather(1, row.unsqueeze(2).expand(-1, -1, self.vectors.shape[2]))
        return drawn.flatten(0, 1), (held > 0).expand(-1, number).flatten()

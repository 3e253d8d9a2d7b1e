"""Losses that run parts of the nets themselves."""

from __future__ import annotations

from typing import Generic, TypeVar

from kdcore.losses.base import Loss
from torch import nn

Part = TypeVar("Part", bound=nn.Module)


class Borrowing(Loss, Generic[Part]):
    """A loss whose ``setup`` takes modules of the nets, until the stage is over.

    They are no part of the loss: in a tuple they are neither stored with it nor put into train mode.
    """

    _borrowed: tuple[Part, ...] = ()

    def borrowed(self) -> tuple[Part, ...]:
        """What ``setup`` has taken.

        Raises:
            ValueError: nothing.
        """
        if not self._borrowed:
            raise ValueError(f"{type(self).__name__} finds its nets in setup(), which was not called")
        return self._borrowed

    def close(self) -> None:
        self._borrowed = ()

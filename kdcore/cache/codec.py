"""A signal as arrays on disk, and back: dense in a chosen type, or the top k classes with the mass of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

LENGTHS = ".lengths"
"""What follows the name of a packed signal in the name of the tensor that says how long each sample is."""

# numpy knows no bfloat16: its bits are kept as integers
_NUMPY = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<i2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One array of a shard: its type as numpy writes it, and the shape of a row."""

    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Of one row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """How one signal is kept.

    Top-k keeps, wherever there is a distribution over C classes, the log-probabilities of the k likeliest, their
    numbers, the log of what all others have together, and the log-sum-exp of the logits. Reading it back gives the
    others equal shares of the rest. So the softmax of what is read has the teacher's own probability at the k
    classes and for the others together (to the rounding of ``stored``), the logits there are the teacher's own, and
    a masked class (-inf) outside of the k is masked no more. At a temperature other than 1 the rest is flatter than
    the teacher's, and a loss that reads it sees a flatter teacher: choose k so that little is left there too.

    Args:
        name: of the signal.
        shape: of one sample, or of one row of a packed signal.
        given: type in which the teacher gives it, and in which it is read.
        stored: type on disk; integers are kept as they are.
        packed: the samples have different lengths and lie one after the other along the first axis.
        topk: keep so many classes; ``None`` for all.
        axis: of the classes in ``shape``, counted from its end.
    """

    name: str
    shape: tuple[int, ...]
    given: str
    stored: str
    packed: bool = False
    topk: int | None = None
    axis: int = -1

    @classmethod
    def of(
        cls, name: str, value: Tensor, *, stored: str, packed: bool = False, topk: int | None = None, axis: int = -1
    ) -> Layout:
        """The layout of a signal like this batch of it: (N, ...), or (sum of lengths, ...) where it is packed.

        Raises:
            ValueError: it cannot be kept so; the message says why.
        """
        given = str(value.dtype).removeprefix("torch.")
        if given not in _NUMPY:
            raise ValueError(f"`{name}` is {given}, which is not kept: known are {', '.join(_NUMPY)}")
        shape = tuple(value.shape[1:])
        if topk is None:
            return cls(name, shape, given, stored if value.is_floating_point() else given, packed)
        axis = axis - value.ndim if axis >= 0 else axis
        if not value.is_floating_point() or not -len(shape) <= axis:
            raise ValueError(f"`{name}` of shape {tuple(value.shape)}, {given}, holds no scores of classes to rank")
        if topk >= shape[axis]:
            raise ValueError(f"`{name}` has {shape[axis]} classes, and topk: {topk} keeps no fewer: leave `topk` out")
        return cls(name, shape, given, stored, packed, topk, axis)

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Layout:
        """From a manifest."""
        return cls(**{**said, "shape": tuple(said["shape"])})

    def said(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    @property
    def columns(self) -> dict[str, Column]:
        """The arrays that hold it, by name; ``<name>.lengths``, one number a sample, is the format's own."""
        if self.topk is None:
            return {self.name: Column(_NUMPY[self.stored], self.shape)}
        rest = self._rest
        return {
            self.name: Column(_NUMPY[self.stored], (*rest, self.topk)),
            f"{self.name}/classes": Column(_NUMPY[_smallest(self.shape[self.axis])], (*rest, self.topk)),
            f"{self.name}/rest": Column("<f4", rest),
            f"{self.name}/scale": Column("<f4", rest),
        }

    @property
    def bytes(self) -> int:
        """Of one row on disk."""
        return sum(column.bytes for column in self.columns.values())

    @property
    def _rest(self) -> tuple[int, ...]:
        """The shape without the classes."""
        shape = list(self.shape)
        del shape[self.axis]
        return tuple(shape)

    def encode(self, value: Tensor) -> dict[str, Array]:
        """The arrays of a batch.

        Args:
            value: (N, *shape), on any device.

        Raises:
            ValueError: it has another shape or type than the layout, or is too large for ``stored``.
        """
        if tuple(value.shape[1:]) != self.shape:
            hint = "give every sample one shape, or pack the signal and say its `.lengths`"
            raise ValueError(
                f"`{self.name}` has the shape {tuple(value.shape[1:])} in one batch and {self.shape} before: {hint}"
            )
        if str(value.dtype) != f"torch.{self.given}":
            raise ValueError(f"`{self.name}` is {value.dtype} in one batch and {self.given} before")
        if self.topk is None:
            return {self.name: _to_numpy(self._narrow(value))}
        scores = value.movedim(self.axis, -1).float()
        scale = scores.logsumexp(-1)
        top = scores.topk(self.topk, -1)
        rest = scores.scatter(-1, top.indices, -math.inf).logsumexp(-1) - scale
        return {
            self.name: _to_numpy(self._narrow(top.values - scale.unsqueeze(-1))),
            f"{self.name}/classes": _to_numpy(top.indices.to(getattr(torch, _smallest(self.shape[self.axis])))),
            f"{self.name}/rest": _to_numpy(rest),
            f"{self.name}/scale": _to_numpy(scale),
        }

    def decode(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The signal of a batch, (N, *shape) in the type the teacher gave it, on the device of the columns.

        Args:
            columns: what :meth:`encode` made, as :func:`to_tensor` reads it.
        """
        given = getattr(torch, self.given)
        value = columns[self.name]
        if self.topk is None:
            return value.to(given)
        # in float32: the log-probabilities of unlikely classes are far from 0
        scale, share = columns[f"{self.name}/scale"], math.log(self.shape[self.axis] - self.topk)
        even = (columns[f"{self.name}/rest"] - share + scale).unsqueeze(-1)
        scores = even.expand(*even.shape[:-1], self.shape[self.axis]).contiguous()
        scores.scatter_(-1, columns[f"{self.name}/classes"].long(), value.float() + scale.unsqueeze(-1))
        return scores.movedim(-1, self.axis).to(given)

    def to_tensor(self, column: str, array: Array) -> Tensor:
        """A column as it was read from disk, in its own type, without copying."""
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if column == self.name and self.stored == "bfloat16" else tensor

    def _narrow(self, value: Tensor) -> Tensor:
        narrow = value.to(getattr(torch, self.stored))
        if value.is_floating_point() and bool((narrow.isinf() & ~value.isinf()).any()):
            largest = float(value[~value.isinf()].abs().max())
            raise ValueError(
                f"`{self.name}` holds {largest:.3g}, more than {self.stored} can: cache it with "
                "`dtype: bfloat16` or `dtype: float32`"
            )
        return narrow


def _smallest(classes: int) -> str:
    """The smallest integer type that numbers them all."""
    return "uint8" if classes <= 1 << 8 else "int16" if classes <= 1 << 15 else "int32"


def _to_numpy(value: Tensor) -> Array:
    value = value.detach().cpu().contiguous()
    array: Array = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    return array

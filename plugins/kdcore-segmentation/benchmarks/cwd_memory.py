"""What channel-wise distillation allocates on a map of 19 x 512 x 1024, forward and backward, beyond its inputs.

    python benchmarks/cwd_memory.py

On a GPU the allocator's own peak is read. On a CPU every tensor that torch makes is followed until it is freed; what a
kernel allocates inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcore_segmentation.losses.cwd import ChannelWise

SHAPE = (1, 19, 512, 1024)


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive, of those made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self._now = 0
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._follow(x.untyped_storage(), known)
        return out

    def _follow(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key = storage._cdata
        if key in known or key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)


def peak_of(step: Callable[[], object], device: str = "cpu") -> int:
    """Bytes that a step has at once beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return int(torch.cuda.max_memory_allocated() - before)
    peak = Peak()
    with peak:
        step()
    return peak.bytes


def ratio(loss: Callable[[Tensor, Tensor], Tensor], device: str = "cpu", shape: tuple[int, ...] = SHAPE) -> float:
    """What forward and backward allocate, the student's gradient included, as a share of both inputs."""
    student, teacher = torch.randn(2, *shape, device=device).unbind()
    student = student.clone().requires_grad_()
    inputs: int = student.nbytes + teacher.nbytes
    return peak_of(lambda: loss(student, teacher).backward(), device) / inputs  # type: ignore[no-untyped-call]


def ours(student: Tensor, teacher: Tensor) -> Tensor:
    total = ChannelWise().forward({"logits": student}, {"logits": teacher}, {})
    return total.sum


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """The same, as one writes it down."""
    log_q, p = (student.flatten(2) / 4).log_softmax(-1), (teacher.flatten(2) / 4).softmax(-1)
    return 16 * torch.nn.functional.kl_div(log_q, p, reduction="sum")


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, loss in (("ours", ours), ("plain", plain)):
        print(f"{name}: {ratio(loss, device):.2f} x its inputs ({device})")

"""Memory and time of the chunked divergence against the plain form, on this CPU.

    python benchmarks/chunked.py [--vocabulary 32000] [--width 256] [--tokens 2048] [--rounds 5]

Memory: the most that tensors take on top of the inputs, forward and backward, for T and for 8 T tokens; and by how much
the process grows, which the C library's way of keeping freed memory adds to. Gradients at the hidden states grow with
the tokens in any case, as the hidden states themselves do; they are subtracted.
Time: CPU seconds of forward and backward, which other processes do not disturb, the two forms in turns, after each was
run once uncounted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from kdcore_specdec.functional import DIVERGENCES, Rows, chunk_of, weighted_sum


class Peak(TorchDispatchMode):
    """The most bytes that storages made inside hold at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage not in self._seen and id(storage) not in given:
                    self._seen[storage] = Freed(self, storage.nbytes())
        return found


class Freed:
    """Counts its bytes for as long as it lives, which is as long as the storage that it is the value of."""

    def __init__(self, peak: Peak, size: int) -> None:
        self.peak, self.size = peak, size
        peak.now += size
        peak.most = max(peak.most, peak.now)

    def __del__(self) -> None:
        self.peak.now -= self.size


def inputs(tokens: int, width: int, vocabulary: int) -> tuple[Rows, Rows]:
    generator = torch.Generator().manual_seed(0)

    def rows(learns: bool) -> Rows:
        hidden = torch.randn(tokens, width, generator=generator)
        head = torch.randn(vocabulary, width, generator=generator) / width**0.5
        return Rows(hidden.requires_grad_(learns), head.requires_grad_(learns))

    return rows(True), rows(False)


def plain(kind: str, student: Rows, teacher: Rows) -> Tensor:
    logits = student.values @ student.head.T
    with torch.no_grad():
        target = teacher.values @ teacher.head.T
    return DIVERGENCES[kind](logits, target).sum()


def chunked(kind: str, student: Rows, teacher: Rows) -> Tensor:
    return weighted_sum(DIVERGENCES[kind], student, teacher, weights=torch.ones(len(student)))


def gradients(form: Callable[[str, Rows, Rows], Tensor], kind: str, rows: tuple[Rows, Rows]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(form(kind, *rows), (rows[0].values, rows[0].head))


def peak(form: Callable[[str, Rows, Rows], Tensor], kind: str, rows: tuple[Rows, Rows]) -> int:
    """Bytes, without the gradient at the hidden states."""
    with Peak() as found:
        gradients(form, kind, rows)
    return found.most - rows[0].values.nbytes


def seconds(form: Callable[[str, Rows, Rows], Tensor], kind: str, rows: tuple[Rows, Rows]) -> float:
    start = time.process_time()
    gradients(form, kind, rows)
    return time.process_time() - start


def resident(kind: str, tokens: int, width: int, vocabulary: int) -> int:
    """Bytes by which a fresh process grows, without the gradient at the hidden states."""
    given = ["--tokens", str(tokens), "--width", str(width), "--vocabulary", str(vocabulary)]
    command = [sys.executable, __file__, "--resident", kind, *given]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) - 4 * tokens * width


def grown(kind: str, rows: tuple[Rows, Rows]) -> int:
    """Bytes by which this process grows."""
    before = _most_resident()
    gradients(chunked, kind, rows)
    return _most_resident() - before


def _most_resident() -> int:
    """As Linux tells it; `getrusage` would count what the parent had as well."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vocabulary", 32000), ("width", 256), ("tokens", 2048), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--resident", metavar="KIND", help="only say by how many bytes this process grows")
    options = parser.parse_args()
    if options.resident:
        print(grown(options.resident, inputs(options.tokens, options.width, options.vocabulary)))
        return
    shape = options.width, options.vocabulary
    few, many = inputs(options.tokens, *shape), inputs(8 * options.tokens, *shape)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.tokens} tokens, width {shape[0]}, "
          f"vocabulary {shape[1]}, {chunk_of(few[0], None)} tokens a chunk, float32")  # fmt: skip
    for kind in DIVERGENCES:
        for one, other in zip(*(gradients(form, kind, few) for form in (plain, chunked)), strict=True):
            assert torch.allclose(one, other, atol=1e-5), f"{kind}: the gradients differ"
        small, large = peak(chunked, kind, few), peak(chunked, kind, many)
        times = [(seconds(plain, kind, few), seconds(chunked, kind, few)) for _ in range(options.rounds)]
        ratios = sorted(chunk / whole for whole, chunk in times)
        whole = peak(plain, kind, few)
        process = [resident(kind, tokens, *shape) for tokens in (options.tokens, 8 * options.tokens)]
        print(f"{kind:>10}: {_mb(small)} for {options.tokens} tokens, {_mb(large)} for {8 * options.tokens} "
              f"({large / small - 1:+.1%}), the process {_mb(process[0])} and {_mb(process[1])} "
              f"({process[1] / process[0] - 1:+.1%}), the plain form {_mb(whole)} for {options.tokens}; "
              f"{statistics.median(ratios):.2f} of the plain form's time ({ratios[0]:.2f} to {ratios[-1]:.2f}, "
              f"{statistics.median(time for time, _ in times):.2f} s)")  # fmt: skip


def _mb(size: int) -> str:
    return f"{size / 2**20:.1f} MB"


if __name__ == "__main__":
    main()

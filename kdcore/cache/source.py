"""A frozen teacher's signals over the training data: written in one pass, then read instead of running it."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcore.cache.codec import LENGTHS, Layout
from kdcore.cache.format import Facts, Manifest, Writer
from kdcore.cache.reader import Reader
from kdcore.errors import RunError
from kdcore.recipe.schema import Cache
from kdcore.signals import Batch, Signals, select_view

CACHE = "kdcore.cache"
"""Key under which a training batch carries what was stored of it, by view, still packed up."""

TIMED = 4
"""Batches after which the time of the whole pass is said."""


class CachedTeacher:
    """A teacher that is read from disk, under each view it is seen through.

    Args:
        of: its name in the recipe.
        views: ``None`` is the batch itself.
    """

    def __init__(self, of: str, views: Iterable[str | None]) -> None:
        self.of = of
        self.views = tuple(sorted(set(views), key=lambda view: view or ""))
        self._readers: dict[str | None, Reader] = {}

    def open(self, readers: Mapping[str | None, Reader]) -> None:
        """Read from these from now on, one for each view."""
        self._readers = dict(readers)

    def attach(self, batch: Batch) -> Batch:
        """The batch with what is stored of its samples, to be moved to the device with it.

        On the CPU: looking ids up after the move would wait for the device in every step.

        Raises:
            RunError: a sample is not in the cache.
        """
        return {
            **batch,
            CACHE: {view or "": reader.gather(*keys(batch, view)) for view, reader in self._readers.items()},
        }

    def signals(self, view: str | None, batch: Batch) -> Signals:
        """The teacher's signals of a batch that :meth:`attach` has seen, on the device where the batch is now."""
        return self._readers[view].decode(batch[CACHE][view or ""])


def keys(batch: Batch, view: str | None) -> tuple[Tensor, Tensor]:
    """Sample ids and augmentation seeds, int64 (N,) each; seed 0 where the data applies no transform."""
    seen = select_view(batch, view)
    ids: Tensor = seen["id"]
    return ids, seen["seed"] if "seed" in seen else torch.zeros_like(ids)


@dataclass(frozen=True)
class Pass:
    """One pass of a teacher over the training data.

    Attributes:
        of: the teacher's name.
        cache: what to keep, and how.
        axis: of the classes in its logits.
        samples: how many there are.
        batches: gives the batches after so many samples, always in the same order.
        run: the teacher's signals of a batch under a view.
        say: prints a line.
    """

    of: str
    cache: Cache
    axis: int
    samples: int
    batches: Callable[[int], Iterator[Batch]]
    run: Callable[[Batch, str | None], Signals]
    say: Callable[[str], None]

    @torch.no_grad()
    def write(self, folder: Path, facts: Mapping[str | None, Facts]) -> dict[str | None, Reader]:
        """Write what is not yet there, and open it. Another run that writes the same cache is waited for.

        Args:
            folder: of the cache; each view has a folder of its own in it.
            facts: what the signals depend on, by view.

        Raises:
            RunError: what is there is another's or damaged, the rest does not fit on the disk, or the teacher gives
                what cannot be kept.
        """
        places = {view: folder / f"view-{view}" if view else folder for view in facts}
        with _alone(folder, self.say):
            missing = [view for view in facts if not _complete(places[view], facts[view])]
            if missing:
                first = next(self.batches(0))
                said = {view: self.run(first, view) for view in missing}
                layouts = {view: self._layouts(signals) for view, signals in said.items()}
                writers = {
                    view: Writer(places[view], Manifest(facts[view], layouts[view], self.samples)) for view in missing
                }
                sizes = {view: _bytes(layouts[view], signals, len(first["id"])) for view, signals in said.items()}
                self._announce(folder, sizes, writers)
                self._say_kept(said[missing[0]])
                for view, writer in writers.items():
                    self._write(writer, view)
        return {view: Reader(places[view], facts[view]) for view in facts}

    def _layouts(self, signals: Signals) -> tuple[Layout, ...]:
        names = [name for kept in self.cache.keep for name in _named(self.of, kept, signals)]
        return tuple(self._layout(name, signals) for name in dict.fromkeys(names))

    def _layout(self, name: str, signals: Signals) -> Layout:
        try:
            return Layout.of(
                name,
                signals[name],
                stored=self.cache.dtype,
                packed=name + LENGTHS in signals,
                topk=self.cache.topk if name == "logits" else None,
                axis=self.axis,
            )
        except ValueError as error:
            raise RunError(f"the teacher `{self.of}` cannot be cached: {error}") from error

    def _announce(self, folder: Path, sizes: Mapping[str | None, int], writers: Mapping[str | None, Writer]) -> None:
        free = shutil.disk_usage(folder).free
        done = min(writer.done for writer in writers.values())
        needed = sum(size * (self.samples - writers[view].done) for view, size in sizes.items())
        views = f"{len(sizes)} view{'s' * (len(sizes) > 1)}"
        what = f"{self.samples - done} samples x {views} x {sum(sizes.values()) // len(sizes)} bytes = {_size(needed)}"
        if needed > free:
            raise RunError(
                f"the cache of `{self.of}` does not fit on the disk: {what}, and {_size(free)} are free in {folder}. "
                "Keep less (`topk`, `keep`, `dtype: float16`), or choose another place with --runs DIR"
            )
        kept = f", {done} samples are there already" if done else ""
        self.say(f"caches `{self.of}`: {what} into {folder} ({_size(free)} free{kept})")

    def _say_kept(self, signals: Signals) -> None:
        """A rest that is large at the loss's temperature is a teacher that is not heard."""
        if self.cache.topk is None:
            return
        shares = []
        for temperature in (1, 2, 4):
            probabilities = (signals["logits"].float() / temperature).softmax(self.axis)
            share = probabilities.topk(self.cache.topk, self.axis).values.sum(self.axis).mean()
            shares.append(f"{100 * float(share):.1f} % at temperature {temperature}")
        hold = f"of what `{self.of}` says, the top {self.cache.topk} classes hold"
        self.say(f"{hold} {', '.join(shares)}; the rest is evened")

    def _write(self, writer: Writer, view: str | None) -> None:
        started, begun, done = time.monotonic(), writer.done, writer.done
        for index, batch in enumerate(self.batches(begun), start=1):
            signals = self.run(batch, view)
            ids, seeds = keys(batch, view)
            self._check(signals, ids)
            writer.append(ids, seeds, signals)
            done += len(ids)
            if index == TIMED and done < self.samples:
                seconds = (time.monotonic() - started) / (done - begun) * (self.samples - done)
                self.say(f"caching `{self.of}` takes about {seconds:.0f} s more")
        writer.finish()

    def _check(self, signals: Signals, ids: Tensor) -> None:
        """A wrong number in a cache would be met in every epoch. ``-inf`` is the logit of a masked class."""
        for kept in self.cache.keep:
            for name in _named(self.of, kept, signals):
                value = signals[name]
                if not value.is_floating_point():
                    continue
                wrong = (value.isnan() | value.isposinf()).flatten(1).any(1)
                if bool(wrong.any()):
                    row = int(wrong.nonzero()[0])
                    place = f", sample id {int(ids[row])}" if len(value) == len(ids) else ""
                    raise RunError(
                        f"the teacher `{self.of}` gives NaN or inf in `{name}`{place}: it is not cached. Were its "
                        "weights loaded (`weights`), and is its `dtype` wide enough?"
                    )


def _named(of: str, kept: str, signals: Signals) -> list[str]:
    """The signals that a word of ``keep`` means: itself, or each of a tap that yields several."""
    found = [kept] if kept in signals else [name for name in signals if name.startswith(f"{kept}@")]
    if not found:
        given = ", ".join(f"`{name}`" for name in sorted(signals))
        raise RunError(
            f"`cache.keep` names `{kept}`, and the teacher `{of}` gives {given}; a tap must be read by a loss"
        )
    return found


def _bytes(layouts: tuple[Layout, ...], signals: Signals, n: int) -> int:
    """Of one sample with its keys; the mean of these ``n`` where samples differ in length."""
    return 16 + sum(-(-layout.bytes * len(signals[layout.name]) // n) + 8 * layout.packed for layout in layouts)


def _complete(folder: Path, facts: Facts) -> bool:
    manifest = Manifest.read(folder, facts)
    return manifest is not None and manifest.complete


@contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a cache while it is written; the system lets go when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waits for another run that writes {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # said, not left to closing: a worker forked meanwhile has the file open too
            fcntl.flock(file, fcntl.LOCK_UN)


def _size(count: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"

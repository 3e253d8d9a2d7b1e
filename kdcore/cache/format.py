"""The folder of a teacher cache: a manifest that says what it is, and shards of plain arrays that are memory-mapped.

``manifest.json`` holds the facts the signals depend on, the layout of each signal and, for every finished shard, its
size and SHA-256. A shard is a file of arrays one after the other, each beginning at a multiple of 64 bytes: ``id`` and
``seed`` (int64, one a sample), then the columns of every signal. It is written beside its place, flushed and renamed
before the manifest names it, so whatever the manifest names is whole, and a writer that was killed goes on after it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kdcore.atomic import replacing
from kdcore.cache.codec import LENGTHS, Array, Column, Layout
from kdcore.errors import RunError

SCHEMA = 1
MANIFEST = "manifest.json"
ALIGNED = 64

Facts = dict[str, Any]
"""What the signals depend on, plain JSON values by name: if one differs, the cache is another teacher's or data's."""


@dataclass(frozen=True)
class Shard:
    """A finished shard. ``rows`` counts the rows of each packed signal; the others have one a sample."""

    samples: int
    rows: dict[str, int]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a cache says of itself."""

    facts: Facts
    layouts: tuple[Layout, ...]
    samples: int
    shards: tuple[Shard, ...] = ()

    @property
    def done(self) -> int:
        """Samples in finished shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def complete(self) -> bool:
        """Whether every sample is there."""
        return self.done == self.samples

    @classmethod
    def read(cls, folder: Path, facts: Facts) -> Manifest | None:
        """The manifest of a folder, ``None`` where there is none.

        Raises:
            RunError: it cannot be read, or its facts are not these; the message names what differs.
        """
        path = folder / MANIFEST
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise RunError(
                    f"{path} is written in schema {said['schema']}, this version reads {SCHEMA}: {delete_hint(folder)}"
                )
            manifest = cls(
                dict(said["facts"]),
                tuple(Layout.read(layout) for layout in said["signals"]),
                int(said["samples"]),
                tuple(Shard(**shard) for shard in said["shards"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is no manifest of a teacher cache ({error!r}): {delete_hint(folder)}") from error
        for name in sorted(facts.keys() | manifest.facts.keys()):
            mine, theirs = facts.get(name), manifest.facts.get(name)
            if mine != theirs:
                raise RunError(
                    f"the teacher cache {folder} was written with {name} = {theirs!r}, and this stage has {mine!r}: "
                    f"it is not used. {delete_hint(folder)}"
                )
        return manifest

    def write(self, folder: Path) -> None:
        """Write it, atomically."""
        said = {
            "schema": SCHEMA,
            "facts": self.facts,
            "samples": self.samples,
            "signals": [layout.said() for layout in self.layouts],
            "shards": [vars(shard) for shard in self.shards],
        }
        _write(folder / MANIFEST, [(json.dumps(said, indent=1, allow_nan=False) + "\n").encode()])


class Writer:
    """Adds batches to a cache, in one fixed order of the samples, a shard at a time.

    Args:
        folder: made where it is missing; what an interrupted writer finished there is kept.
        manifest: facts, layouts and number of samples, without shards.
        shard_bytes: a shard is closed when it has reached this size.

    Raises:
        RunError: the folder holds something else.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, shard_bytes: int = 64 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        found = Manifest.read(folder, manifest.facts)
        if found is not None and (found.layouts, found.samples) != (manifest.layouts, manifest.samples):
            raise RunError(f"the teacher cache {folder} has begun with other signals or samples: {delete_hint(folder)}")
        self._folder = folder
        self._manifest = found or manifest
        self._shard_bytes = shard_bytes
        self._waiting: list[dict[str, Array]] = []
        self._bytes = 0

    @property
    def done(self) -> int:
        """Samples in finished shards: go on after these."""
        return self._manifest.done

    def append(self, ids: Tensor, seeds: Tensor, signals: Mapping[str, Tensor]) -> None:
        """Add a batch; packed signals come with their ``<name>.lengths``.

        Args:
            ids, seeds: int64 (N,).
            signals: at least those that the manifest has layouts for.

        Raises:
            RunError: a signal does not fit its layout, or gives another number of samples.
        """
        arrays = {"id": ids.cpu().numpy(), "seed": seeds.cpu().numpy()}
        for layout in self._manifest.layouts:
            try:
                arrays |= layout.encode(signals[layout.name])
            except ValueError as error:
                raise RunError(f"the teacher cache cannot keep what the teacher gives: {error}") from error
            if layout.packed:
                arrays[layout.name + LENGTHS] = signals[layout.name + LENGTHS].cpu().numpy().astype("<i8")
            rows = int(arrays[layout.name + LENGTHS].sum()) if layout.packed else len(ids)
            if len(signals[layout.name]) != rows:
                raise RunError(
                    f"the teacher cache cannot keep `{layout.name}`: it has {len(signals[layout.name])} rows for a "
                    f"batch of {len(ids)} samples that should have {rows}; a signal whose samples differ in length is "
                    f"packed along the first axis and comes with `{layout.name}{LENGTHS}`"
                )
        self._waiting.append(arrays)
        self._bytes += sum(array.nbytes for array in arrays.values())
        if self._bytes >= self._shard_bytes:
            self._close_shard()

    def finish(self) -> None:
        """Write what is left.

        Raises:
            RunError: there were fewer or more samples than said.
        """
        if self._waiting:
            self._close_shard()
        if not self._manifest.complete:
            raise RunError(
                f"the teacher cache {self._folder} got {self.done} samples of {self._manifest.samples}: did the data "
                "change while it was written?"
            )

    def _close_shard(self) -> None:
        columns = columns_of(self._manifest.layouts)
        samples = sum(len(arrays["id"]) for arrays in self._waiting)
        rows = {
            layout.name: sum(len(arrays[layout.name]) for arrays in self._waiting)
            for layout in self._manifest.layouts
            if layout.packed
        }
        digest, written = hashlib.sha256(), 0

        def chunks() -> Iterator[bytes]:
            nonlocal written
            for name, column in columns.items():
                parts = (np.ascontiguousarray(arrays[name], column.dtype).tobytes() for arrays in self._waiting)
                for chunk in itertools.chain([bytes(-written % ALIGNED)], parts):
                    digest.update(chunk)
                    written += len(chunk)
                    yield chunk

        index = len(self._manifest.shards)
        _write(shard_path(self._folder, index), chunks())
        shard = Shard(samples, rows, written, digest.hexdigest())
        before = self._manifest
        self._manifest = Manifest(before.facts, before.layouts, before.samples, (*before.shards, shard))
        self._manifest.write(self._folder)
        self._waiting, self._bytes = [], 0


def columns_of(layouts: Sequence[Layout]) -> dict[str, Column]:
    """Every column of a shard, in the order of the file."""
    columns = {"id": Column("<i8"), "seed": Column("<i8")}
    for layout in layouts:
        if layout.packed:
            columns[layout.name + LENGTHS] = Column("<i8")
        columns |= layout.columns
    return columns


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard is; never read from the manifest."""
    return folder / f"shard-{index:05d}.bin"


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with replacing(path) as beside, beside.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


def delete_hint(folder: Path) -> str:
    """What to do about a cache that cannot be used."""
    return f"delete {folder}, and the next run writes it again"

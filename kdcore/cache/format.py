"""The folder of a teacher cache: a manifest that says what it is, and shards of plain arrays that are memory-mapped.

``manifest.json`` holds the facts the signals depend on, the layout of each signal and, for every finished shard, its
size and SHA-256. A shard is a file of arrays one after the other, each beginning at a multiple of 64 bytes: ``id`` and
``seed`` (int64, one a sample), then the columns of every signal. It is written beside its place, flushed and renamed
before the manifest names it, so whatever the manifest names is whole, and a writer that was killed goes on after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
                    f"{path} is written in schema {said['schema']}, this version reads {SCHEMA}: {_delete(folder)}"
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
            raise RunError(f"{path} is no manifest of a teacher cache ({error!r}): {_delete(folder)}") from error
        for name in sorted(facts.keys() | manifest.facts.keys()):
            mine, theirs = facts.get(name), manifest.facts.get(name)
            if mine != theirs:
                raise RunError(
                    f"the teacher cache {folder} was written with {name} = {theirs!r}, and this stage has {mine!r}: "
                    f"it is not used. {_delete(folder)}"
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
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        found = Manifest.read(folder, manifest.facts)
        if found is not None and (found.layouts, found.samples) != (manifest.layouts, manifest.samples):
            raise RunError(f"the teacher cache {folder} has begun with other signals or samples: {_delete(folder)}")
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
        columns = _columns(self._manifest.layouts)
        samples = sum(len(arrays["id"]) for arrays in self._waiting)
        rows = {
            layout.name: sum(len(arrays[layout.name]) for arrays in self._waiting)
            for layout in self._manifest.layouts
            if layout.packed
        }
        digest, written = hashlib.sha256(), 0

        def chunks() -> Iterator[bytes | memoryview]:
            nonlocal written
            for name, column in columns.items():
                pad = bytes(-written % ALIGNED)
                parts = [np.ascontiguousarray(a[name], column.dtype).reshape(-1).view(np.uint8) for a in self._waiting]
                for chunk in (pad, *(part.data for part in parts)):
                    digest.update(chunk)
                    written += len(chunk)
                    yield chunk

        index = len(self._manifest.shards)
        _write(_shard_path(self._folder, index), chunks())
        shard = Shard(samples, rows, written, digest.hexdigest())
        before = self._manifest
        self._manifest = Manifest(before.facts, before.layouts, before.samples, (*before.shards, shard))
        self._manifest.write(self._folder)
        self._waiting, self._bytes = [], 0


class Reader:
    """Reads batches of a finished cache, any samples in any order.

    Args:
        folder: of the cache.
        facts: what this stage's signals depend on.

    Raises:
        RunError: there is no cache, it is another's, it is not finished, or a shard is missing or damaged.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        manifest = Manifest.read(folder, facts)
        if manifest is None:
            raise RunError(f"there is no teacher cache in {folder}")
        if not manifest.complete:
            raise RunError(f"the teacher cache {folder} has {manifest.done} of {manifest.samples} samples")
        self.layouts = manifest.layouts
        self._folder = folder
        self._shards = [_map(folder, i, shard, manifest.layouts) for i, shard in enumerate(manifest.shards)]
        self._firsts = np.cumsum([0, *(shard.samples for shard in manifest.shards)])
        self._columns = _columns(manifest.layouts)
        self._packed = {
            column: layout.name for layout in manifest.layouts if layout.packed for column in layout.columns
        }
        # where the rows of each sample begin in its shard
        self._begins = [
            {name: np.cumsum(shard[name + LENGTHS]) - shard[name + LENGTHS] for name in set(self._packed.values())}
            for shard in self._shards
        ]
        self._ids = np.concatenate([shard["id"] for shard in self._shards])
        self._seeds = np.concatenate([shard["seed"] for shard in self._shards])
        self._sorted = np.argsort(_keys(self._ids, self._seeds), kind="stable")
        self._keys = _keys(self._ids, self._seeds)[self._sorted]

    def __len__(self) -> int:
        return len(self._ids)

    def gather(self, ids: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """The columns of a batch, in its order: one gather for each column and shard that it touches.

        Args:
            ids, seeds: int64 (N,), on the CPU.

        Raises:
            RunError: there is no such sample.
        """
        positions = self._positions(ids.numpy(), seeds.numpy())
        shards = np.searchsorted(self._firsts, positions, "right") - 1
        groups = [(int(i), np.flatnonzero(shards == i)) for i in np.unique(shards)]
        local = positions - self._firsts[shards]
        arrays = {
            name: self._take(name, column, len(positions), groups, local)
            for name, column in self._columns.items()
            if name not in ("id", "seed") and name not in self._packed
        }
        for column, name in self._packed.items():
            arrays[column] = self._take_packed(column, name, arrays[name + LENGTHS], groups, local)
        tensors = {
            column: layout.to_tensor(column, arrays[column]) for layout in self.layouts for column in layout.columns
        }
        return tensors | {name + LENGTHS: torch.from_numpy(arrays[name + LENGTHS]) for name in self._packed.values()}

    def decode(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The signals of a batch from its columns, wherever these have been moved to."""
        signals = {layout.name: layout.decode(columns) for layout in self.layouts}
        return signals | {name: value for name, value in columns.items() if name.endswith(LENGTHS)}

    def _positions(self, ids: Array, seeds: Array) -> Array:
        wanted = _keys(ids, seeds)
        found = self._sorted[np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)]
        lost = np.flatnonzero((self._ids[found] != ids) | (self._seeds[found] != seeds))
        if len(lost):
            sample, seed = int(ids[lost[0]]), int(seeds[lost[0]])
            raise RunError(
                f"the teacher cache {self._folder} has no sample with id {sample}"
                + (
                    f" and augmentation seed {seed}: the data draws other transforms than those"
                    if seed
                    else ": the data is not what"
                )
                + f" the teacher saw. Take `cache` out of the stage, or {_delete(self._folder)}"
            )
        return found

    def _take(self, name: str, column: Column, n: int, groups: list[tuple[int, Array]], local: Array) -> Array:
        if len(groups) == 1:
            return np.take(self._shards[groups[0][0]][name], local, axis=0)
        out = np.empty((n, *column.shape), column.dtype)
        for shard, mine in groups:
            out[mine] = self._shards[shard][name][local[mine]]
        return out

    def _take_packed(
        self, column: str, name: str, lengths: Array, groups: list[tuple[int, Array]], local: Array
    ) -> Array:
        out = np.empty((int(lengths.sum()), *self._columns[column].shape), self._columns[column].dtype)
        ends = np.cumsum(lengths)
        for shard, mine in groups:
            source = _ranges(self._begins[shard][name][local[mine]], lengths[mine])
            out[_ranges((ends - lengths)[mine], lengths[mine])] = self._shards[shard][column][source]
        return out


def _columns(layouts: Sequence[Layout]) -> dict[str, Column]:
    """Every column of a shard, in the order of the file."""
    columns = {"id": Column("<i8"), "seed": Column("<i8")}
    for layout in layouts:
        if layout.packed:
            columns[layout.name + LENGTHS] = Column("<i8")
        columns |= layout.columns
    return columns


def _map(folder: Path, index: int, shard: Shard, layouts: Sequence[Layout]) -> dict[str, Array]:
    """The columns of a shard, mapped into memory, after it was compared with its checksum."""
    path = _shard_path(folder, index)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            whole = size == shard.bytes and hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
    except OSError as error:
        raise RunError(
            f"the shard {path} of the teacher cache is missing ({error.strerror}): {_delete(folder)}"
        ) from error
    if not whole:
        what = f"has {size} bytes instead of {shard.bytes}" if size != shard.bytes else "is not what was written"
        raise RunError(f"the shard {path} of the teacher cache is damaged: it {what}. {_delete(folder)}")
    mapped = np.memmap(path, np.uint8, "r")
    packed = {column: shard.rows[layout.name] for layout in layouts if layout.packed for column in layout.columns}
    arrays, offset = {}, 0
    for name, column in _columns(layouts).items():
        offset += -offset % ALIGNED
        rows = packed.get(name, shard.samples)
        part = np.asarray(mapped[offset : offset + rows * column.bytes])
        arrays[name] = part.view(column.dtype).reshape(rows, *column.shape)
        offset += rows * column.bytes
    return arrays


def _keys(ids: Array, seeds: Array) -> Array:
    """One number for (id, seed); two that fall together would only be reported as missing."""
    keys: Array = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ seeds.astype(np.uint64)
    return keys


def _ranges(starts: Array, lengths: Array) -> Array:
    """``start, start + 1, ...`` for each length, one after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.bin"


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Beside its place, flushed to the disk, renamed: it is there whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems know no flushing of folders
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _delete(folder: Path) -> str:
    return f"delete {folder}, and the next run writes it again"

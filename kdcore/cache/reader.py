"""Reading a teacher cache: any samples in any order, from shards that are mapped into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcore.cache.codec import LENGTHS, Array, Column, Layout
from kdcore.cache.format import ALIGNED, Facts, Manifest, Shard, columns_of, delete_hint, shard_path
from kdcore.errors import RunError


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
        self._columns = columns_of(manifest.layouts)
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
        again = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(again):
            raise RunError(
                f"several training samples have the id {self._ids[self._sorted[again[0]]]}: a cache is read by id, so "
                "every sample needs one of its own"
            )

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
            which = f" and augmentation seed {seed}" if seed else ""
            raise RunError(
                f"the teacher cache {self._folder} has no sample with id {sample}{which}: the data gives others than "
                f"when it was written. Take `cache` out of the stage, or {delete_hint(self._folder)}"
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


def _map(folder: Path, index: int, shard: Shard, layouts: Sequence[Layout]) -> dict[str, Array]:
    """The columns of a shard, mapped into memory, after it was compared with its checksum."""
    path = shard_path(folder, index)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            whole = size == shard.bytes and hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
    except OSError as error:
        raise RunError(
            f"the shard {path} of the teacher cache is missing ({error.strerror}): {delete_hint(folder)}"
        ) from error
    if not whole:
        what = f"has {size} bytes instead of {shard.bytes}" if size != shard.bytes else "is not what was written"
        raise RunError(f"the shard {path} of the teacher cache is damaged: it {what}. {delete_hint(folder)}")
    mapped = np.memmap(path, np.uint8, "r")
    packed = {column: shard.rows[layout.name] for layout in layouts if layout.packed for column in layout.columns}
    arrays, offset = {}, 0
    for name, column in columns_of(layouts).items():
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

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdcore.cache.format import MANIFEST, Writer
from kdcore.cache.reader import Reader
from kdcore.errors import RunError

from .conftest import FACTS, SAMPLES, fill, ids_of, manifest, said


def read(reader: Reader, ids: Tensor, seeds: Tensor | None = None) -> dict[str, Tensor]:
    return reader.decode(reader.gather(ids, torch.zeros_like(ids) if seeds is None else seeds))


@pytest.mark.parametrize("shard_bytes", [1, 2000, 1 << 20])
@pytest.mark.parametrize("rows", [[3], [49, 0, 17, 17, 8, 30], list(range(SAMPLES)), list(range(SAMPLES))[::-1], []])
def test_any_samples_in_any_order(tmp_path: Path, shard_bytes: int, rows: list[int]) -> None:
    writer = Writer(tmp_path, manifest(), shard_bytes=shard_bytes)
    fill(writer)
    writer.finish()
    ids = ids_of()[rows]
    found = read(Reader(tmp_path, FACTS), ids)
    if not rows:
        assert found["logits"].shape == (0, 6)
        return
    expected = said(ids)
    assert sorted(found) == sorted(expected)
    assert torch.equal(found["logits"], expected["logits"])
    assert torch.equal(found["frames"], expected["frames"])
    assert torch.equal(found["frames.lengths"], expected["frames.lengths"])
    assert torch.equal(found["tap.deep"], expected["tap.deep"].bfloat16().float())


def test_what_is_read_is_the_callers_own(written: Path) -> None:
    reader, ids = Reader(written, FACTS), ids_of()[:4]
    read(reader, ids)["logits"].zero_()
    assert torch.equal(read(reader, ids)["logits"], said(ids)["logits"])


def test_topk_goes_through_the_folder(tmp_path: Path) -> None:
    writer = Writer(tmp_path, manifest(topk=2, stored="float16"))
    fill(writer)
    writer.finish()
    ids = ids_of()[5:25]
    found, expected = read(Reader(tmp_path, FACTS), ids)["logits"], said(ids)["logits"]
    torch.testing.assert_close(found.logsumexp(-1), expected.logsumexp(-1), atol=5e-3, rtol=0)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_the_augmentation_seed_is_part_of_the_key(tmp_path: Path) -> None:
    writer = Writer(tmp_path, manifest(samples=8))
    ids, seeds = torch.tensor([5, 5, 5, 5, 6, 6, 6, 6]), torch.tensor([1, 2, 3, 2**62, 1, 2, 3, 2**62])
    signals = said(torch.arange(8))
    writer.append(ids, seeds, signals)
    writer.finish()
    reader = Reader(tmp_path, FACTS)
    assert len(reader) == 8
    found = read(reader, torch.tensor([6, 5, 5]), torch.tensor([1, 2**62, 2]))
    assert torch.equal(found["logits"], signals["logits"][[4, 3, 1]])
    with pytest.raises(RunError, match="no sample with id 5 and augmentation seed 4: the data gives others"):
        read(reader, torch.tensor([6, 5]), torch.tensor([1, 4]))


def test_a_sample_that_is_not_there_is_named(written: Path) -> None:
    with pytest.raises(
        RunError, match=r"no sample with id 7777: the data gives others than when it was written. Take `cache`"
    ):
        read(Reader(written, FACTS), torch.tensor([int(ids_of()[0]), 7777]))


def test_ids_that_are_not_unique_are_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path, manifest(samples=4))
    writer.append(torch.tensor([1, 9, 2, 9]), torch.zeros(4, dtype=torch.long), said(torch.arange(4)))
    writer.finish()
    with pytest.raises(RunError, match="several training samples have the id 9: a cache is read by id"):
        Reader(tmp_path, FACTS)


def test_no_cache_and_half_a_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"there is no teacher cache in {tmp_path}"):
        Reader(tmp_path, FACTS)
    fill(Writer(tmp_path, manifest(samples=SAMPLES), shard_bytes=1), 16)
    with pytest.raises(RunError, match="has 16 of 50 samples"):
        Reader(tmp_path, FACTS)


def test_a_missing_shard_is_named(written: Path) -> None:
    (written / "shard-00001.bin").unlink()
    with pytest.raises(RunError, match=r"shard-00001.bin of the teacher cache is missing .*: delete"):
        Reader(written, FACTS)


@pytest.mark.parametrize("at", [0, 100, -1])
def test_one_flipped_bit_is_found(written: Path, at: int) -> None:
    path = written / "shard-00001.bin"
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RunError, match=r"shard-00001.bin of the teacher cache is damaged: it is not what was written"):
        Reader(written, FACTS)


def test_a_shard_cut_short_is_found(written: Path) -> None:
    path = written / "shard-00000.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"shard-00000.bin .* is damaged: it has \d+ bytes instead of \d+"):
        Reader(written, FACTS)


def test_a_manifest_cannot_point_elsewhere(written: Path) -> None:
    """The names of shards are not read from it."""
    assert "bin" not in (written / MANIFEST).read_text()

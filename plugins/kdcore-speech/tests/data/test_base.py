"""What all data of speech has in common, on telephone keys."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from kdcore.data.augment import Chain
from kdcore.data.base import Treatment
from kdcore.data.chosen import labelled_rows
from kdcore.data.mix import Mix

from kdcore_speech.data import tones
from kdcore_speech.data.tones import Tones
from kdcore_speech.transforms import spec_augment


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tones, "COUNTS", {"train": 24, "val": 6, "test": 6})


def epoch(data: Tones, number: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batches.set_epoch(number)
    return list(loader)


def test_a_batch_holds_as_many_seconds_as_allowed():
    batches = epoch(Tones(batch_size=8, batch_seconds=4.0))
    assert max(batch["audio"].numel() for batch in batches) <= 4 * 8000
    assert sum(len(batch["id"]) for batch in batches) == 24
    assert len(batches) > len(epoch(Tones(batch_size=8)))


def test_clips_with_a_transcript_only_are_batched_by_length_too():
    data = Tones(labels=7, batch_size=3)
    told = data.split("train")
    assert told is not None
    untold = [told[row] for row in range(24)]  # a list, whose clips are looked at
    assert labelled_rows(untold, data.without_labels).tolist() == told.labelled.nonzero().flatten().tolist()
    data.treatment = Treatment(labelled=True)
    batches = epoch(data)
    assert sorted(len(batch["id"]) for batch in batches) == [1, 3, 3]
    assert all((batch["tokens"] >= 0).any(1).all() for batch in batches)
    ordered = sorted(sorted(batch["audio_lengths"].tolist()) for batch in batches)
    assert all(first[-1] <= second[0] for first, second in pairwise(ordered))


def test_a_loader_goes_on_where_it_was():
    whole = [batch["id"].tolist() for batch in epoch(Tones(batch_size=4), 3)]
    loader = Tones(batch_size=4).train_dataloader()
    loader.load_state_dict({"epoch": 3, "batches": 2})
    assert [batch["id"].tolist() for batch in loader] == whole[2:]


def test_a_table_replaces_transcripts_and_leaves_others_out():
    data = Tones(batch_size=4)
    clips = data.split("train")
    assert clips is not None
    heard = torch.full((6, 9), -100)
    heard[:, 0] = torch.arange(1, 7)
    table = {"id": clips.ids[4:10], "tokens": heard}
    data.treatment = Treatment(stage="say", table=lambda: table)
    batches = epoch(data)
    found = {int(i): row.tolist() for batch in batches for i, row in zip(batch["id"], batch["tokens"], strict=True)}
    assert found == {int(i): [number] for i, number in zip(clips.ids[4:10], range(1, 7), strict=True)}


def test_the_student_s_view_is_augmented_and_the_batch_is_not():
    data = Tones(batch_size=4)
    chain = Chain({"mask": spec_augment(sample_rate=8000)})
    data.treatment = Treatment(views={"masked": chain})
    plain = {
        int(i): row for batch in epoch(Tones(batch_size=4)) for i, row in zip(batch["id"], batch["audio"], strict=True)
    }
    for batch in epoch(data):
        view = batch["views"]["masked"]
        assert torch.equal(view["audio_lengths"], batch["audio_lengths"])
        assert torch.equal(view["tokens"], batch["tokens"])
        assert not torch.equal(view["audio"], batch["audio"])
        for number, row in zip(batch["id"].tolist(), batch["audio"], strict=True):
            assert torch.equal(row, plain[number])


def test_labelled_and_unlabelled_clips_in_one_stream():
    mixed = Mix(labelled=Tones(), unlabelled=Tones(), batch_size=8)
    seen = list(mixed.train_dataloader())
    assert sum(len(batch["id"]) for batch in seen) == 48
    has = torch.cat([(batch["tokens"] != -100).any(1) for batch in seen])
    assert int(has.sum()) == 24
    assert int((torch.cat([batch["id"] for batch in seen])[has] < 1 << 40).sum()) == 24

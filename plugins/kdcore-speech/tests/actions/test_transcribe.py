from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from kdcore.data.digits import Digits
from kdcore.errors import RunError
from torch import Tensor, nn

from kdcore_speech.actions.transcribe import Transcribe
from spoken import Ears, Labelled, Spoken

SOUNDS = ([1, 1, 0, 1], [2, 0, 0, 3, 3, 3], [0, 0], [3], [1, 2])
"""Heard as `one one`, `two three`, nothing, `three`, `one two`."""
WRITTEN = ("one one", "two two", None, "three", None)
FOUND = [[1, 1], [2, 3], [-100, -100], [3, -100], [1, 2]]


def table(model: nn.Module | None = None, written: Any = WRITTEN, **options: Any) -> tuple[dict[str, Tensor], Spoken]:
    data = Spoken(SOUNDS, written)
    found = Transcribe(model="teacher", **{"batch_size": 2, **options})({"teacher": model or Ears()}.__getitem__, data)
    return found, data


def test_what_is_heard_replaces_what_was_written() -> None:
    found, data = table()
    assert found["id"].tolist() == [100, 101, 102, 103, 104]
    assert found["tokens"].tolist() == FOUND
    assert found["tokens"].dtype == torch.int64
    assert data.notes == [
        "`teacher` transcribed 5 training clips, with a word error rate of 0.200 in the 3 that are known"
    ]


def test_what_was_written_may_stay() -> None:
    found, _ = table(known="keep")
    assert found["tokens"].tolist() == [[1, 1], [2, 2], [-100, -100], [3, -100], [1, 2]]


@pytest.mark.parametrize(("limit", "left_out"), [(0.5, 0), (0.49, 1), (0.0, 1)])
def test_clips_that_are_misheard_are_left_out(limit: float, left_out: int) -> None:
    found, data = table(max_wer=limit)
    assert found["id"].tolist() == ([100, 102, 103, 104] if left_out else [100, 101, 102, 103, 104])
    assert found["tokens"].tolist() == [row for number, row in enumerate(FOUND) if number != 1 or not left_out]
    ending = f"; 1 above {limit} were left out" if left_out else "known"
    assert data.notes[0].endswith(ending)


def test_the_table_is_no_wider_than_what_stays() -> None:
    found, _ = table(written=("one", "one", "one", "three", "one"), max_wer=0.0)
    assert {name: column.tolist() for name, column in found.items()} == {"id": [103], "tokens": [[3]]}


def test_an_unknown_normaliser_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no normaliser `loud`"):
        table(normaliser="loud")


def test_nobody_knows_what_is_said() -> None:
    found, data = table(written=[None] * 5, max_wer=0.0)
    assert found["tokens"].tolist() == FOUND
    assert data.notes == ["`teacher` transcribed 5 training clips"]


def test_silence_leaves_one_empty_column() -> None:
    data = Spoken([[0], [0, 0]], [None, None])
    found = Transcribe(model="teacher")({"teacher": Ears()}.__getitem__, data)
    assert found["tokens"].tolist() == [[-100], [-100]]


def test_the_net_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    ears = Ears()
    table(ears)
    assert ears.training
    assert ears.calls == [(2, False, False), (2, False, False), (1, False, False)]


class Speaker(nn.Module):
    """A sequence-to-sequence net: says `three` for each sample."""

    def transcribe(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        place = torch.arange(audio.shape[1])
        return torch.where(place < audio_lengths.unsqueeze(1), 3, -100)


def test_a_sequence_to_sequence_net_is_asked_for_tokens() -> None:
    found, _ = table(Speaker())
    assert found["tokens"].tolist() == [[3] * len(sound) + [-100] * (6 - len(sound)) for sound in SOUNDS]


def test_a_net_that_is_no_recogniser() -> None:
    class Tagger(nn.Module):
        def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
            return audio

    message = (
        "`speech.transcribe`: `teacher` returned a Tensor; a CTC net returns `logits` and `frames`, a "
        "sequence-to-sequence net has a method `transcribe`"
    )
    with pytest.raises(RunError, match=re.escape(message)):
        table(Tagger())


def test_a_teacher_that_hears_nothing_right() -> None:
    message = (
        "`speech.transcribe`: `teacher` has a word error rate above 0.1 in all 5 clips: was it trained on this "
        "vocabulary? Raise `max_wer`, or leave it out"
    )
    with pytest.raises(RunError, match=re.escape(message)):
        table(written=["three three three"] * 5, max_wer=0.1)


def test_other_data() -> None:
    with pytest.raises(RunError, match=r"`speech\.transcribe` reads training clips of sound, and the data is a Digits"):
        Transcribe(model="teacher")({"teacher": Ears()}.__getitem__, Digits())
    message = "`speech.transcribe` reads clips with `tokens`, and the data (Labelled) gives `labels`"
    with pytest.raises(RunError, match=re.escape(message)):
        Transcribe(model="teacher")({"teacher": Ears()}.__getitem__, Labelled([1, 2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_wer": -0.1}, "max_wer=-0.1: give a rate of 0 or more, or leave it out to keep every clip"),
        (
            {"max_wer": 0.1, "known": "keep"},
            "max_wer=0.1: it judges by transcripts that are known, and `known: keep` keeps these",
        ),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Transcribe(model="teacher", **options)

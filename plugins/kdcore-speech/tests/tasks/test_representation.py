from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from kdcore.run.exporters import torch_export
from kdcore.testing import check_task
from torch import Tensor, nn

from kdcore_speech.models.representation import BareEncoder, Represented, conformer_encoder
from kdcore_speech.models.wav2vec2 import wav2vec2
from kdcore_speech.similarity import CKA
from kdcore_speech.tasks.representation import Representation
from small import SSL, clips


def task() -> Representation:
    made = Representation(sample_rate=8000)
    made.facts["audio_samples"] = 2400  # as the data completes them
    return made


def net(stride: int = 4) -> BareEncoder:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "kernel": 5, "mels": 20, "dropout": 0.0}
    return conformer_encoder(sample_rate=8000, stride=stride, **sizes)


def batch() -> dict[str, Tensor]:
    audio, lengths = clips(2400, 1600, 700)
    return {"audio": audio, "audio_lengths": lengths, "id": torch.arange(3)}


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Any:
        return self.output


class More(NamedTuple):
    hidden: Tensor
    frames: Tensor
    codes: Tensor


def test_it_keeps_what_a_task_promises():
    check_task(task(), net(), batch(), metric=CKA())


def test_signals_are_what_the_model_says():
    more = More(torch.zeros(3, 5, 2), torch.ones(3), torch.zeros(3, 5))
    assert task().signals(Returns(more), batch(), {}).keys() == {"hidden", "frames", "codes"}


@pytest.mark.parametrize("output", [torch.zeros(3, 5, 2), Represented(torch.zeros(3, 5), torch.ones(3))])
def test_a_net_of_another_kind(output: Any):
    kind = type(output).__name__
    says = rf"^the model returned a {kind}; a bare encoder returns `hidden` \(N, T, D\) and `frames` \(N,\) by name$"
    with pytest.raises(ValueError, match=says):
        task().signals(Returns(output), batch(), {})


def test_frames_that_count_are_compared_with_the_teacher_s_at_the_same_time():
    ours = {"hidden": torch.arange(8.0).view(2, 4, 1), "frames": torch.tensor([4, 2])}
    theirs = {"hidden": torch.arange(16.0).view(2, 8, 1), "frames": torch.tensor([8, 4])}
    found = task().observe(ours, {"teacher": theirs}, {})["hidden_hidden"]
    assert found[0].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert found[1].flatten().tolist() == [1, 3, 5, 7, 9, 11]


def test_without_a_teacher_it_is_held_against_itself():
    ours = {"hidden": torch.randn(2, 4, 3), "frames": torch.tensor([4, 2])}
    one, other = task().observe(ours, {}, {})["hidden_hidden"]
    assert torch.equal(one, other)
    assert len(one) == 6


def test_an_example_needs_a_length():
    with pytest.raises(ValueError, match="an example needs the fact audio_samples"):
        Representation(sample_rate=8000).example(2)


@torch.no_grad()
def test_deployed_it_says_nothing_of_padding():
    deployed = task().deploy(net())
    made = batch()
    hidden, frames = deployed(made["audio"], made["audio_lengths"])
    wanted = net().eval()(made["audio"], made["audio_lengths"])
    assert torch.equal(frames, wanted.frames)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(hidden[row, :count], wanted.hidden[row, :count])
        assert not hidden[row, count:].any()


def bare(kind: Literal["wav2vec2", "wavlm"]) -> BareEncoder:
    torch.manual_seed(0)
    return wav2vec2(sample_rate=8000, kind=kind, options=SSL)


@pytest.mark.slow
@pytest.mark.parametrize("made", [net(), bare("wav2vec2"), bare("wavlm")], ids=["conformer", "wav2vec2", "wavlm"])
@torch.no_grad()
def test_it_can_be_exported_for_clips_of_any_length(made: BareEncoder, tmp_path: Path):
    deployed, given = task().deploy(made), batch()
    (path,) = torch_export(deployed, (given["audio"], given["audio_lengths"]), tmp_path)
    shorter = given["audio"][1:, :1700], given["audio_lengths"][1:]
    found, wanted = torch.export.load(path).module()(*shorter), deployed(*shorter)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)

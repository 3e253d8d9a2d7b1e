from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.testing import check_task
from torch import Tensor, nn

from kdcore_speech.models.conv import conv_tagger
from kdcore_speech.models.nets import Tagger
from kdcore_speech.tasks.tagging import Tagging


def task() -> Tagging:
    made = Tagging(classes=3, sample_rate=8000)
    made.facts["audio_samples"] = 1600  # as the data completes them
    return made


def net(classes: int = 3) -> Tagger:
    torch.manual_seed(0)
    return conv_tagger(sample_rate=8000, classes=classes, width=8, depth=1, kernel=3, mels=12)


def batch() -> dict[str, Tensor]:
    audio = 0.2 * torch.randn(3, 1600, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([1600, 900, 500])
    audio = audio * (torch.arange(1600) < lengths.unsqueeze(1))
    return {"audio": audio, "audio_lengths": lengths, "labels": torch.tensor([2, -100, 0]), "id": torch.arange(3)}


class OnlyLogits(nn.Module):
    def __init__(self, inner: nn.Module, name: str = "logits") -> None:
        super().__init__()
        self.inner, self.name = inner, name

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Any:
        return getattr(self.inner(audio, audio_lengths), self.name)


def test_it_keeps_what_a_task_promises():
    check_task(task(), net(), batch())
    check_task(task(), OnlyLogits(net()), batch())


def test_signals_are_logits_and_frames():
    model, given = net(), batch()
    signals = task().signals(model, given, {})
    assert set(signals) == {"logits", "frames"}
    assert signals["logits"].shape == (3, 3)
    assert signals["frames"].tolist() == [model.frames(samples) for samples in (1600, 900, 500)]
    alone = task().signals(OnlyLogits(model), given, {})
    assert set(alone) == {"logits"}
    assert torch.equal(alone["logits"], signals["logits"])


def test_a_model_that_gives_something_else_is_named():
    message = "the model gives 4 classes, the task has 3: set `classes: 3` in the model's slot"
    with pytest.raises(ValueError, match=message):
        task().signals(net(4), batch(), {})
    with pytest.raises(
        ValueError, match=r"the model returned the shape \(3,\); a tagger returns logits \(N, 3\), alone"
    ):
        task().signals(OnlyLogits(net(), "frames"), batch(), {})


def test_a_batch_without_lengths_is_named():
    given = batch()
    del given["audio_lengths"]
    with pytest.raises(KeyError, match="tasks of speech read `audio_lengths`, the batch holds: audio, id, labels"):
        task().signals(net(), given, {})


def test_chance_and_classes():
    assert task().chance() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="classes=1: there must be at least two to tell apart"):
        Tagging(classes=1, sample_rate=8000)


def test_an_example():
    example = task().example(2)
    assert example["audio"].shape == (2, 1600)
    assert example["labels"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="an example needs the fact audio_samples; known are: classes, sample_rate"):
        Tagging(classes=3, sample_rate=8000).example(1)


def test_what_is_shipped_takes_raw_audio_and_gives_probabilities():
    model, given = net(), batch()
    deployed = task().deploy(model)
    found = deployed(given["audio"], given["audio_lengths"])
    torch.testing.assert_close(found, model(given["audio"], given["audio_lengths"]).logits.softmax(-1))
    assert not deployed.training


@pytest.mark.slow
def test_what_is_shipped_can_be_exported_and_takes_any_length(tmp_path: Any):
    from kdcore.run.exporters import torch_export

    given = batch()
    deployed = task().deploy(net())
    (path,) = torch_export(deployed, (given["audio"], given["audio_lengths"]), tmp_path)
    shorter = given["audio"][:, :1200], given["audio_lengths"].clamp(max=1200)
    torch.testing.assert_close(torch.export.load(path).module()(*shorter), deployed(*shorter), atol=1e-5, rtol=1e-4)

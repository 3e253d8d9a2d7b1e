from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.run.exporters import torch_export
from kdcore.testing import check_task
from torch import Tensor, nn

from kdcore_speech.metrics import EER
from kdcore_speech.models.speaker import Embedded, SpeakerNet, conformer_speaker
from kdcore_speech.tasks.speaker import Speaker
from small import clips


def task() -> Speaker:
    made = Speaker(classes=3, sample_rate=8000)
    made.facts["audio_samples"] = 2400  # as the data completes them
    return made


def net() -> SpeakerNet:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "kernel": 5, "mels": 20, "dropout": 0.0}
    return conformer_speaker(sample_rate=8000, size=6, **sizes)


def batch() -> dict[str, Tensor]:
    audio, lengths = clips(2400, 1600, 700, 2000)
    labels = torch.tensor([0, 0, 1, -100])
    return {"audio": audio, "audio_lengths": lengths, "labels": labels, "id": torch.arange(4)}


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Any:
        return self.output


def test_it_keeps_what_a_task_promises():
    check_task(task(), net(), batch(), metric=EER())


def test_what_the_net_says_is_passed_on():
    found = task().signals(net(), batch(), {})
    assert found["embedding"].shape == (4, 6)
    assert found["frames"].tolist() == net().frames(batch()["audio_lengths"]).tolist()


@pytest.mark.parametrize(
    "output",
    [torch.zeros(4, 6), Embedded(torch.zeros(4, 5, 6), torch.ones(4)), Embedded(torch.zeros(3, 6), torch.ones(3))],
)
def test_a_net_of_another_kind(output: Any):
    kind = type(output).__name__
    says = rf"^the model returned a {kind}; a net for speakers returns `embedding` \(N, D\) by name, a vector"
    with pytest.raises(ValueError, match=says):
        task().signals(Returns(output), batch(), {})


def test_only_clips_with_labels_are_compared():
    embedding = torch.randn(4, 6)
    found = task().observe({"embedding": embedding}, {}, batch())
    assert list(found) == ["embedding_labels"]
    assert torch.equal(found["embedding_labels"][0], embedding)
    assert task().observe({"embedding": embedding}, {}, {}) == {}


def test_guessing_is_half_of_the_pairs():
    generator = torch.Generator().manual_seed(0)
    metric = EER()
    metric.update(torch.randn(400, 8, generator=generator), torch.randint(0, 20, (400,), generator=generator))
    assert float(metric.compute()) == pytest.approx(task().chance(), abs=0.02)


@pytest.mark.parametrize("classes", [1, 0])
def test_fewer_than_two_speakers(classes: int):
    with pytest.raises(ValueError, match=rf"^classes={classes}: there must be at least two speakers to tell apart$"):
        Speaker(classes=classes, sample_rate=8000)


def test_an_example_needs_a_length():
    with pytest.raises(ValueError, match="an example needs the fact audio_samples"):
        Speaker(classes=3, sample_rate=8000).example(2)


@torch.no_grad()
def test_deployed_its_vectors_have_length_one():
    made = batch()
    found = task().deploy(net())(made["audio"], made["audio_lengths"])
    wanted = net().eval()(made["audio"], made["audio_lengths"]).embedding
    torch.testing.assert_close(found, wanted / wanted.norm(dim=1, keepdim=True))


@pytest.mark.slow
@torch.no_grad()
def test_it_can_be_exported_for_clips_of_any_length(tmp_path: Path):
    deployed, given = task().deploy(net()), batch()
    (path,) = torch_export(deployed, (given["audio"], given["audio_lengths"]), tmp_path)
    shorter = given["audio"][1:3, :1700], given["audio_lengths"][1:3]
    torch.testing.assert_close(torch.export.load(path).module()(*shorter), deployed(*shorter))

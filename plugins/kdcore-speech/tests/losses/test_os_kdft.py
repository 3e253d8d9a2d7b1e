"""OS-KDFT: the student without its adapters, held against the teacher."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kdcore.errors import RunError
from torch import Tensor, nn

from kdcore_speech.adapters import Adapted, adapters
from kdcore_speech.losses.os_kdft import OSKDFT
from kdcore_speech.models.nets import Recognised

FRAMES = torch.tensor([4, 2, 1])


class Net(nn.Module):
    """One frame for every two samples; two layers, of which the second may have an adapter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.layer, self.head = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 5)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Recognised:
        return Recognised(self.head(self.layer(self.stem(audio.unflatten(1, (-1, 2))))), audio_lengths // 2)


@pytest.fixture
def net() -> Net:
    made = Net()
    adapters(made, layers="layer", width=2)
    for part in (made.layer.adapter.up.weight, made.layer.adapter.up.bias):  # type: ignore[union-attr]
        nn.init.normal_(part)  # type: ignore[arg-type]
    return made


@pytest.fixture
def batch() -> dict[str, Any]:
    audio = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    return {"audio": audio, "audio_lengths": 2 * FRAMES}


@pytest.fixture
def teacher() -> dict[str, Tensor]:
    return {"feature": torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(2)), "frames": FRAMES}


def made(student: nn.Module, layer: str = "layer") -> OSKDFT:
    loss = OSKDFT(layer=layer)
    loss.setup({}, {}, {"student": student}.__getitem__)
    return loss


def plain(net: Net, batch: dict[str, Any]) -> Tensor:
    """What the shared layers alone say, (N, T, 3)."""
    return net.layer.shared(net.stem(batch["audio"].unflatten(1, (-1, 2))))  # type: ignore[union-attr,operator,no-any-return]


def test_the_value_is_that_of_the_definition(net: Net, batch: dict[str, Any], teacher: dict[str, Tensor]):
    total = made(net)({}, teacher, batch)
    ours, added = plain(net, batch), 0.0
    for clip, count in enumerate(FRAMES.tolist()):
        for moment in range(count):
            apart = ours[clip, moment] - teacher["feature"][clip, moment]
            added += sum(x * x for x in apart.tolist()) / 3
    assert total.sum.item() == pytest.approx(added, rel=1e-5)
    assert total.count.item() == 7


def test_it_goes_around_the_adapters_and_the_task_through_them(
    net: Net, batch: dict[str, Any], teacher: dict[str, Tensor]
):
    made(net)({}, teacher, batch).sum.backward()
    learnt = {name for name, p in net.named_parameters() if p.grad is not None}
    assert learnt == {f"{part}.{kind}" for part in ("stem", "layer.shared.0") for kind in ("weight", "bias")}
    net(batch["audio"], batch["audio_lengths"]).logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_students_own_answer_keeps_its_adapters(net: Net, batch: dict[str, Any], teacher: dict[str, Tensor]):
    before = net(batch["audio"], batch["audio_lengths"]).logits
    made(net)({}, teacher, batch)
    assert torch.equal(net(batch["audio"], batch["audio_lengths"]).logits, before)
    assert all(part.enabled for part in net.modules() if isinstance(part, Adapted))


def test_a_student_like_the_teacher_costs_nothing(net: Net, batch: dict[str, Any]):
    total = made(net)({}, {"feature": plain(net, batch).detach(), "frames": FRAMES}, batch)
    assert total.sum.item() == 0.0


@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_what_is_behind_a_clip_reaches_nothing(
    net: Net, batch: dict[str, Any], teacher: dict[str, Tensor], rubbish: float
):
    loss = made(net)
    known = loss({}, teacher, batch).sum.item()
    feature, audio = teacher["feature"].clone(), batch["audio"].clone()
    for clip, count in enumerate(FRAMES.tolist()):
        feature[clip, count:] = audio[clip, 2 * count :] = rubbish
    total = loss({}, {**teacher, "feature": feature}, {**batch, "audio": audio})
    assert total.sum.item() == pytest.approx(known, rel=1e-6)


def test_no_hook_stays_behind(net: Net):
    loss = made(net)
    assert len(net.layer._forward_hooks) == 1
    loss.close()
    assert len(net.layer._forward_hooks) == 0
    loss.close()


def test_the_student_is_no_part_of_the_loss(net: Net):
    assert list(made(net).parameters()) == []


def test_a_student_without_adapters_is_refused():
    words = (
        r"the student has no adapters, through which the task would teach it: give it `edits: \[{use: speech\.adapters"
    )
    with pytest.raises(ValueError, match=words):
        made(Net())


def test_another_shape_is_refused(net: Net, batch: dict[str, Any], teacher: dict[str, Tensor]):
    wide = {**teacher, "feature": torch.zeros(3, 4, 6)}
    words = r"the student's `layer` gives the shape \(3, 4, 3\), the teacher \(3, 4, 6\): both must be \(N, T, D\)"
    with pytest.raises(ValueError, match=words):
        made(net)({}, wide, batch)


def test_places_that_are_not_there_or_several_are_refused(net: Net, batch: dict[str, Any], teacher: dict[str, Tensor]):
    with pytest.raises(RunError, match="model `student` has no module `layers`: did you mean `layer`"):
        made(net, "layers")
    with pytest.raises(ValueError, match=r"`layer: \*` names 3 places of the student: name one"):
        made(net, "*")({}, teacher, batch)


def test_it_must_be_set_up_and_given_sound(net: Net, batch: dict[str, Any], teacher: dict[str, Tensor]):
    with pytest.raises(ValueError, match=r"the student is found in setup\(\), which was not called"):
        OSKDFT(layer="layer")({}, teacher, batch)
    with pytest.raises(KeyError, match="tasks of speech read `audio`"):
        made(net)({}, teacher, {})

"""Perceptual distance: through a frozen net, with a gradient to the student alone."""

from __future__ import annotations

import re

import pytest
import torch
from kdcore.errors import RunError
from torch import nn

from kdcore_segmentation.losses.perceptual import Perceptual

LAYERS = ["encoder.0", "encoder.2"]


class Judge(nn.Module):
    """Three parts, of which the first takes an image of two channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
        self.decoder = nn.Conv2d(3, 3, 1)
        self.requires_grad_(False).eval()


@pytest.fixture
def judge() -> Judge:
    return Judge()


def made(judge: nn.Module, layers: list[str] = LAYERS, part: str = "encoder", channels: int = 2) -> Perceptual:
    loss = Perceptual(part=part, layers=layers, channels=channels)
    loss.setup({}, {}, {"judge": judge}.__getitem__)
    return loss


def test_the_value_is_that_of_the_definition(run, judge: Judge):
    student, teacher = torch.randn(3, 6, 7, 8), torch.randn(3, 6, 7, 8)
    images = [torch.stack([x[:, :3].mean(1), x[:, 3:].mean(1)], 1) for x in (student, teacher)]
    mean = torch.stack([x.mean() for x in images[1]]).view(-1, 1, 1, 1)
    std = torch.stack([x.std() for x in images[1]]).view(-1, 1, 1, 1)
    first, _, second = judge.encoder
    seen = []
    for image in images:
        low = first((image - mean) / std)
        seen.append((low, second(low.clamp(min=0))))
    truth = sum(((ours - theirs) ** 2).mean().item() for ours, theirs in zip(*seen, strict=True))
    total = run(made(judge), student, teacher)
    assert (total.sum / total.count).item() == pytest.approx(truth, rel=1e-5)
    assert total.count.item() == 3


def test_as_many_channels_as_the_judge_takes_go_in_as_they_are(run, judge: Judge):
    teacher = torch.randn(2, 2, 7, 7)
    teacher = (teacher - teacher.mean((1, 2, 3), keepdim=True)) / teacher.std((1, 2, 3), keepdim=True)
    student = torch.randn(2, 2, 7, 7)
    truth = ((judge.encoder(student) - judge.encoder(teacher)) ** 2).mean().item()
    total = run(made(judge, ["encoder.2"]), student, teacher)
    assert (total.sum / total.count).item() == pytest.approx(truth, rel=1e-4)


def test_equal_maps_cost_nothing_and_a_step_along_the_gradient_lowers_it(run, judge: Judge):
    loss, teacher = made(judge), torch.randn(2, 4, 7, 7)
    assert run(loss, teacher.clone(), teacher).sum.item() == 0.0
    student = torch.randn(2, 4, 7, 7, requires_grad=True)
    total = run(loss, student, teacher)
    (gradient,) = torch.autograd.grad(total.sum, student)
    assert run(loss, student - 0.05 * gradient / gradient.norm(), teacher).sum < total.sum


def test_a_flat_teacher_map_stays_finite(run, judge: Judge):
    assert run(made(judge), torch.zeros(1, 4, 7, 7), torch.ones(1, 4, 7, 7)).sum.isfinite()


def test_a_judge_of_half_precision_is_fed_what_it_takes(run, judge: Judge):
    student, teacher = torch.randn(2, 4, 7, 7), torch.randn(2, 4, 7, 7)
    exact = run(made(judge), student, teacher).sum.item()
    assert run(made(judge.bfloat16()), student, teacher).sum.item() == pytest.approx(exact, rel=0.05)


def test_outside_of_the_loss_the_judge_keeps_nothing(judge: Judge):
    loss = made(judge)
    judge.encoder(torch.randn(1, 2, 7, 7))
    assert loss._judge is not None
    with pytest.raises(RunError, match=re.escape("the module `encoder.0` was not called")):
        loss._judge[1].take()


def test_when_the_stage_is_over_the_judge_is_as_it_was(judge: Judge):
    loss = made(judge)
    assert sum(len(module._forward_hooks) for module in judge.modules()) == 2
    loss.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in judge.modules())
    loss.close()


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match=re.escape("layers=[]: name the judge's modules whose outputs are compared")):
        Perceptual(layers=[], channels=3)


def test_an_unknown_part_is_named_with_those_there_are(judge: Judge):
    with pytest.raises(ValueError, match="the judge has no part `head`; its parts are encoder, decoder"):
        made(judge, part="head")


def test_an_unknown_layer_is_named(judge: Judge):
    with pytest.raises(RunError, match=re.escape("model `judge` has no module `encoder.9`")):
        made(judge, ["encoder.9"])


def test_a_layer_outside_of_the_part_is_named(run, judge: Judge):
    with pytest.raises(RunError, match="the module `decoder` was not called in the forward pass"):
        run(made(judge, ["decoder"]), torch.randn(1, 2, 7, 7), torch.randn(1, 2, 7, 7))


def test_too_few_channels_are_refused(run, judge: Judge):
    with pytest.raises(ValueError, match="a map of 1 channels makes no image of 2"):
        run(made(judge), torch.randn(1, 1, 7, 7), torch.randn(1, 1, 7, 7))


def test_without_setup_it_says_so(run):
    with pytest.raises(ValueError, match=re.escape("the judge is found in setup(), which was not called")):
        run(Perceptual(layers=["a"], channels=2), torch.randn(1, 2, 7, 7), torch.randn(1, 2, 7, 7))

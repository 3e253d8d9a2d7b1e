"""Channel-wise distillation: its formula, what a mask does to it, its memory."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from kdcore import schedules
from torch import Tensor

from kdcore_segmentation.losses import cwd
from kdcore_segmentation.losses.cwd import ChannelWise


def naive(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """(N, C), one term a channel, from the definition, in float64."""
    terms = torch.zeros(student.shape[:2], dtype=torch.float64)
    for n in range(student.shape[0]):
        for c in range(student.shape[1]):
            p, q = ((x[n, c].double() / temperature).exp() for x in (teacher, student))
            p, q = p / p.sum(), q / q.sum()
            terms[n, c] = temperature**2 * (p * (p / q).log()).sum()
    return terms


def mean(loss: ChannelWise, student: Tensor, teacher: Tensor, batch: dict[str, Any] | None = None) -> Tensor:
    total = loss({"logits": student}, {"logits": teacher}, batch or {})
    return total.sum / total.count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("chunk", [1, 150, 2**19])
def test_value_and_gradient_are_those_of_the_definition(
    student: Tensor, teacher: Tensor, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cwd, "CHUNK", chunk)
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    value = mean(ChannelWise(temperature=temperature), ours, teacher)
    truth = naive(exact, teacher, temperature).mean()
    value.backward()
    truth.backward()
    assert value.item() == pytest.approx(truth.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-7)


def test_the_default_temperature_is_the_papers(student: Tensor, teacher: Tensor):
    assert mean(ChannelWise(), student, teacher).item() == pytest.approx(naive(student, teacher, 4.0).mean().item())


@pytest.mark.skipif("KDCORE_REFERENCE" not in os.environ, reason="KDCORE_REFERENCE is unset")
def test_it_agrees_with_independent_implementations():
    np = pytest.importorskip("numpy")
    folder = Path(os.environ["KDCORE_REFERENCE"])
    case = json.loads((folder / "losses.json").read_text(encoding="utf-8"))["cwd_temperature4"]
    with np.load(folder / "losses.npz", allow_pickle=False) as arrays:
        given = {name: torch.from_numpy(arrays[key]) for name, key in case["inputs"].items()}
    student = given[case["student"]].requires_grad_()
    value = mean(ChannelWise(temperature=case["params"]["temperature"]), student, given["teacher_features"])
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(case["value"], rel=1e-5)
    assert gradient.norm().item() == pytest.approx(case["grad_norm"], rel=1e-5)


def test_the_gradient_is_that_of_the_value_to_double_precision(student: Tensor, teacher: Tensor, mask: Tensor):
    leaf, like = student.double().requires_grad_(), teacher.double()

    def added(s: Tensor) -> Tensor:
        return cwd._Divergence.apply(s, like, mask, 2.0)

    assert torch.autograd.gradcheck(added, leaf)


def test_a_shift_of_a_whole_channel_changes_nothing(student: Tensor, teacher: Tensor):
    shifted = student + torch.randn(3, 5, 1, 1)
    assert mean(ChannelWise(), shifted, teacher).item() == pytest.approx(
        mean(ChannelWise(), student, teacher).item(), rel=1e-4
    )


def test_nothing_where_both_are_equal(teacher: Tensor):
    leaf = teacher.clone().requires_grad_()
    value = mean(ChannelWise(), leaf, teacher)
    value.backward()
    assert value.item() == 0.0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_the_count_is_samples_times_channels(run, student: Tensor, teacher: Tensor, mask: Tensor):
    assert run(ChannelWise(), student, teacher).count.item() == 3 * 5
    assert run(ChannelWise(), student, teacher, {"mask": mask}).count.item() == 2 * 5


def test_positions_out_of_the_mask_might_as_well_not_exist(run, student: Tensor, teacher: Tensor, mask: Tensor):
    leaf = student.clone().requires_grad_()
    total = run(ChannelWise(), leaf, teacher, {"mask": mask})
    total.sum.backward()
    kept = mask[1].flatten()
    fewer = (x[1:2].flatten(2)[..., kept].unsqueeze(-1) for x in (student, teacher))
    truth = naive(student[:1], teacher[:1]).sum() + naive(*fewer).sum()
    assert total.sum.item() == pytest.approx(truth.item(), rel=1e-5)
    assert leaf.grad is not None
    assert not leaf.grad.masked_select(~mask.unsqueeze(1)).any()
    assert leaf.grad[1].any()


def test_a_tap_takes_the_mask_at_its_own_size(run, student: Tensor, teacher: Tensor):
    mask = torch.ones(3, 8, 12, dtype=torch.bool)
    mask[:, :, 6:] = False
    total = run(ChannelWise(), student, teacher, {"mask": mask})
    assert total.sum.item() == pytest.approx(naive(student[..., :3], teacher[..., :3]).sum().item(), rel=1e-5)


def test_a_nan_is_not_hidden(student: Tensor, teacher: Tensor):
    student[0, 0, 0, 0] = math.nan
    assert mean(ChannelWise(), student, teacher).isnan()


def test_any_memory_layout_gives_the_same(run, student: Tensor, teacher: Tensor):
    last = student.to(memory_format=torch.channels_last).requires_grad_()
    plain = student.clone().requires_grad_()
    for leaf, like in ((last, teacher.to(memory_format=torch.channels_last)), (plain, teacher)):
        run(ChannelWise(), leaf, like).sum.backward()
    torch.testing.assert_close(last.grad, plain.grad)


def test_a_scheduled_temperature_follows_the_progress(student: Tensor, teacher: Tensor):
    loss = ChannelWise(temperature=schedules.linear(start=1.0, end=3.0))
    loss.progress = schedules.Progress(0.5)
    assert mean(loss, student, teacher).item() == pytest.approx(naive(student, teacher, 2.0).mean().item(), rel=1e-5)


def test_a_schedule_may_give_a_device_tensor(student: Tensor, teacher: Tensor):
    loss = ChannelWise(temperature=lambda _: torch.tensor(2.0))
    leaf = student.clone().requires_grad_()
    value = mean(loss, leaf, teacher)
    value.backward()
    assert value.item() == pytest.approx(naive(student, teacher, 2.0).mean().item(), rel=1e-5)
    assert leaf.grad is not None


def test_a_temperature_that_wants_a_gradient_is_refused(student: Tensor, teacher: Tensor):
    loss = ChannelWise(temperature=lambda _: torch.tensor(2.0, requires_grad=True))
    with pytest.raises(ValueError, match="channel-wise distillation gets no gradient, and wants one: detach it"):
        mean(loss, student, teacher)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="temperature=0 is not above 0"):
        ChannelWise(temperature=0)


def test_other_channels_or_sizes_are_refused(student: Tensor, teacher: Tensor):
    with pytest.raises(ValueError, match=re.escape("project: conv1x1")):
        mean(ChannelWise(), student[:, :3], teacher)
    with pytest.raises(ValueError, match=re.escape("resize: student")):
        mean(ChannelWise(), student[..., :3], teacher)


def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "cwd_memory.py"
    spec = importlib.util.spec_from_file_location("cwd_memory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_on_a_cityscapes_map_it_allocates_less_than_its_inputs():
    measured = benchmark()
    assert measured.ratio(measured.ours) < 1.0  # the goal is 2; what is plainly written needs 2.5


def test_the_memory_gauge_sees_what_is_allocated_and_freed():
    measured = benchmark()
    x = torch.zeros(1000)

    def step() -> None:
        a = x + 1  # 4000 bytes
        b = a + 1  # 8000 at once
        del a
        b.add_(1)
        (b * 2).view(10, 100)  # again 8000

    assert measured.peak_of(step) == 8000

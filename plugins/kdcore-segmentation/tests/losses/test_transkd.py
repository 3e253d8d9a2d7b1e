"""TransKD's two parts: alignment of patch embeddings, and fusion of the stages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss, Total
from torch import Tensor, nn

from kdcore_segmentation.losses.transkd import CrossSelectiveFusion, PatchEmbeddingAlignment, hierarchical

STUDENT, TEACHER = (4, 6, 8), (5, 7, 9)
"""Channels of three stages."""


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def tokens(channels: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """Patch embeddings of two samples: 16, 4 and 1 of them."""
    return {f"feature@{i}": random(2, 16 // 4**i, c, seed=seed + i) for i, c in enumerate(channels)}


def maps(channels: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """Of two samples: 12 x 8, 6 x 4 and 3 x 2 positions."""
    return {f"feature@{i}": random(2, c, 12 // 2**i, 8 // 2**i, seed=seed + i) for i, c in enumerate(channels)}


def ready(loss: Any, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Any:
    torch.manual_seed(0)
    loss.setup({"student": student, "teacher": teacher}, {}, lambda _: nn.Identity())
    return loss


def value(loss: Loss, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
    total = loss(student, teacher, {})
    assert isinstance(total, Total)
    assert (total.sum.dtype, total.count.dtype, total.count.item()) == (torch.float32, torch.int64, 2)
    return total.sum / total.count


def learning(signals: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone().requires_grad_() for name, x in signals.items()}


# ---- patch embedding alignment


def test_patch_embeddings_are_mapped_and_compared_stage_by_stage():
    student, teacher = tokens(STUDENT, 1), tokens(TEACHER, 9)
    loss = ready(PatchEmbeddingAlignment(weights=(0.1, 0.5, 2.0)), student, teacher)
    truth = 0.0
    for i, weight in enumerate((0.1, 0.5, 2.0)):
        mapped = student[f"feature@{i}"] @ loss.linears[i].weight.T + loss.linears[i].bias
        difference = (mapped - teacher[f"feature@{i}"]).double()
        truth += weight * sum(d.item() ** 2 for d in difference.flatten()) / difference.numel()
    assert value(loss, student, teacher).item() == pytest.approx(truth, rel=1e-5)


def test_the_deepest_of_four_stages_weighs_most_by_default():
    assert PatchEmbeddingAlignment().weights == (0.1, 0.1, 0.5, 1.0)


def test_stages_are_in_the_order_of_their_numbers():
    many = {f"feature@{i}": torch.full((2, 1, 1), float(i)) for i in (10, 9, 2, 0, 1, 3, 4, 5, 6, 7, 8)}
    none = {name: torch.zeros(2, 1, 1) for name in many}
    loss = ready(PatchEmbeddingAlignment(weights=(*[0.0] * 10, 1.0)), many, none)
    nn.init.ones_(loss.linears[10].weight)
    nn.init.zeros_(loss.linears[10].bias)
    assert value(loss, many, none).item() == 100.0


def test_all_stages_and_linear_maps_get_a_gradient_and_the_teacher_none():
    student, teacher = learning(tokens(STUDENT, 1)), tokens(TEACHER, 9)
    loss = ready(PatchEmbeddingAlignment(weights=(1.0, 1.0, 1.0)), student, teacher)
    value(loss, student, teacher).backward()
    assert all(x.grad is not None and x.grad.any() for x in (*student.values(), *loss.parameters()))
    assert all(x.grad is None for x in teacher.values())


def test_as_many_weights_as_stages_are_wanted():
    with pytest.raises(ValueError, match="the tap gives 3 stages, and there are 4 `weights`"):
        ready(PatchEmbeddingAlignment(), tokens(STUDENT, 1), tokens(TEACHER, 9))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 5, 4, 4), (1, 16, 5)])
def test_embeddings_that_cannot_be_compared_are_refused(shape: tuple[int, ...]):
    student, teacher = tokens(STUDENT[:1], 1), {"feature@0": torch.zeros(shape)}
    said = (
        f"stage 0: the student's patch embeddings have shape (2, 16, 4), the teacher's {shape}; "
        "both are to be (N, T, C) with the same T"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        ready(PatchEmbeddingAlignment(weights=(1.0,)), student, teacher)


# ---- cross selective fusion


def normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation of a training step, channel by channel."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        out[:, c] = (x[:, c] - x[:, c].mean()) / (x[:, c].var(correction=0) + norm.eps).sqrt()
    return out * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def naive_fusion(loss: CrossSelectiveFusion, student: list[Tensor]) -> list[Tensor]:
    """The student's fused maps before the last convolution, deepest first."""
    fused: list[Tensor] = []
    for i in (2, 1, 0):
        conv, norm = loss.enter[i]  # type: ignore[misc]
        x = normalised(torch.einsum("dc,nchw->ndhw", conv.weight[:, :, 0, 0], student[i]), norm)
        if fused:
            deeper = fused[-1].repeat_interleave(2, 2).repeat_interleave(2, 3)
            mean = (x + deeper).mean((2, 3))
            first, layer_norm, _ = loss.select[i].squeeze  # type: ignore[union-attr, misc]
            hidden = (mean @ first.weight.T).clone()
            hidden = (hidden - hidden.mean(1, keepdim=True)) / (
                hidden.var(1, correction=0, keepdim=True) + layer_norm.eps
            ).sqrt()
            hidden = (hidden * layer_norm.weight + layer_norm.bias).clamp(min=0)
            excite: Any = loss.select[i].excite
            scores = hidden @ excite.weight.T + excite.bias
            a, b = scores[:, : loss.width].exp(), scores[:, loss.width :].exp()
            share = (a / (a + b))[..., None, None]
            x = share * x + (1 - share) * deeper
        fused.append(x)
    return fused


AVERAGES = {(12, 8): {4: 0.5, 2: 0.25, 1: 0.125}, (6, 4): {2: 0.5, 1: 0.25}, (3, 2): {1: 0.5}}
"""For each size of the maps here: to which sides they are averaged, and with what weight."""


def naive_distance(s: Tensor, t: Tensor) -> Tensor:
    weights = AVERAGES[s.shape[2], s.shape[3]]
    added = ((s - t) ** 2).mean()
    for side, weight in weights.items():
        pooled = [nn.functional.adaptive_avg_pool2d(x, side) for x in (s, t)]
        added = added + weight * ((pooled[0] - pooled[1]) ** 2).mean()
    return added / (1 + sum(weights.values()))


def test_fusion_goes_from_deep_to_shallow_and_is_compared_stage_by_stage():
    student, teacher = maps(STUDENT, 1), maps(TEACHER, 9)
    loss = ready(CrossSelectiveFusion(width=10), student, teacher)
    fused = naive_fusion(loss, [student[f"feature@{i}"] for i in range(3)])
    truth = 0.0
    for i, x in zip((2, 1, 0), fused, strict=True):
        conv, norm = loss.leave[i]
        out = normalised(nn.functional.conv2d(x, conv.weight, padding=1), norm)
        truth += naive_distance(out, teacher[f"feature@{i}"]).item()
    assert value(loss, student, teacher).item() == pytest.approx(truth, rel=1e-4)


def test_the_shallow_distance_reaches_the_deep_stages():
    student, teacher = learning(maps(STUDENT, 1)), maps(TEACHER, 9)
    loss = ready(CrossSelectiveFusion(width=10), student, teacher)
    value(loss, student, {**teacher, "feature@0": 10 * teacher["feature@0"]}).backward()
    with_shallow = student["feature@2"].grad
    other = learning(maps(STUDENT, 1))
    value(loss, other, teacher).backward()
    assert with_shallow is not None
    assert not torch.allclose(with_shallow, other["feature@2"].grad, rtol=1e-2)


def test_all_stages_and_all_parts_get_a_gradient_and_the_teacher_none():
    student, teacher = learning(maps(STUDENT, 1)), maps(TEACHER, 9)
    loss = ready(CrossSelectiveFusion(width=10), student, teacher)
    value(loss, student, teacher).backward()
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} == {"enter", "select", "leave"}
    assert all(x.grad is not None and x.grad.any() for x in (*student.values(), *loss.parameters()))
    assert all(x.grad is None for x in teacher.values())


def test_a_batch_of_one_sample_can_be_trained_with():
    student, teacher = ({k: v[:1] for k, v in maps(c, s).items()} for c, s in ((STUDENT, 1), (TEACHER, 9)))
    loss = ready(CrossSelectiveFusion(), student, teacher).train()
    assert loss(student, teacher, {}).sum.isfinite()


def test_a_run_all_in_half_precision_gives_nearly_the_same():
    cases = [
        (PatchEmbeddingAlignment(weights=(1.0, 1.0, 1.0)), tokens(STUDENT, 1), tokens(TEACHER, 9)),
        (CrossSelectiveFusion(width=10), maps(STUDENT, 1), maps(TEACHER, 9)),
    ]
    for loss, student, teacher in cases:
        exact = value(ready(loss, student, teacher), student, teacher).item()
        halves = [{k: v.bfloat16() for k, v in x.items()} for x in (student, teacher)]
        assert value(loss.bfloat16(), *halves).item() == pytest.approx(exact, rel=0.05)


def test_maps_of_other_sizes_are_refused():
    teacher = maps(TEACHER, 9)
    teacher["feature@1"] = teacher["feature@1"][..., :3]
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        ready(CrossSelectiveFusion(), maps(STUDENT, 1), teacher)


def test_no_width_is_refused():
    with pytest.raises(ValueError, match="width=0: stages are fused in at least one channel"):
        CrossSelectiveFusion(width=0)


# ---- the hierarchical distance


def test_hierarchical_by_hand():
    # 2 x 2: the map itself (every error 1), and its mean (no error), with weights 1 and 1/2
    student, teacher = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.zeros(1, 1, 2, 2)
    assert hierarchical(student, teacher).item() == pytest.approx(1 / 1.5)


@pytest.mark.parametrize("size", [(12, 8), (6, 4), (3, 2), (1, 5)])
def test_a_constant_error_is_its_square_at_every_size(size: tuple[int, int]):
    assert hierarchical(torch.full((1, 2, *size), 3.0), torch.zeros(1, 2, *size)).item() == pytest.approx(9.0)

"""Chunked cross-entropy is the core's cross-entropy."""

from __future__ import annotations

import pytest
import torch

from kdcore.losses.cross_entropy import CrossEntropy as Plain
from kdcore_specdec.losses.cross_entropy import CrossEntropy


def made() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((2, 5, 4), (9, 4)))
    labels = torch.randint(9, (2, 5), generator=generator)
    labels[0, 2:4] = -100
    return {"hidden": hidden, "head": head}, {"labels": labels}


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_parity_with_the_core(chunk):
    student, batch = made()
    found = CrossEntropy(chunk=chunk)(student, {}, batch)
    expected = Plain()({"logits": student["hidden"] @ student["head"].T}, {}, batch)
    assert found.sum.item() == pytest.approx(expected.sum.item(), rel=1e-6)
    assert found.count == expected.count == 8
    ours, theirs = (torch.autograd.grad(total.sum, list(student.values())) for total in (found, expected))
    assert all(torch.allclose(mine, other, atol=1e-6) for mine, other in zip(ours, theirs, strict=True))


def test_mask_weight_and_count():
    student, batch = made()
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, :3] = True
    weight = torch.rand(2, 5)
    found = CrossEntropy()(student, {}, {**batch, "mask": mask, "weight": weight})
    terms = -(student["hidden"] @ student["head"].T).log_softmax(-1).gather(-1, batch["labels"].clamp(min=0)[..., None])
    assert found.sum.item() == pytest.approx((terms[..., 0] * weight)[0, :2].sum().item(), rel=1e-5)
    assert found.count == 2 == CrossEntropy().count({**batch, "mask": mask})


def test_what_is_refused():
    student, batch = made()
    with pytest.raises(ValueError, match="chunk=-1 is no number of tokens from 1 on"):
        CrossEntropy(chunk=-1)
    with pytest.raises(ValueError, match=r"the model's `hidden` has shape \(2, 5, 4\), the labels have \(2, 4\)"):
        CrossEntropy()(student, {}, {"labels": batch["labels"][:, :4]})
    with pytest.raises(KeyError, match="reads the batch's `labels`"):
        CrossEntropy()(student, {}, {})

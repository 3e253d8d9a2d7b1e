# test_attention.py
import pytest
import torch
from attention import AttentionTransfer


def total(loss, student, teacher):
    return loss({"feature": student}, {"feature": teacher}, {})


def test_by_hand():
    student = torch.tensor([[[3.0, 0.0]]])  # one sample, one channel, two positions
    teacher = torch.tensor([[[0.0, 2.0]], [[3.0, 0.0]]]).transpose(0, 1)  # two channels
    found = total(AttentionTransfer(), student, teacher)
    map_of_teacher = torch.tensor([9.0, 4.0]) / (81 + 16) ** 0.5
    by_hand = 0.5 * (torch.tensor([1.0, 0.0]) - map_of_teacher).square().sum()
    assert found.sum.item() == pytest.approx(by_hand.item())
    assert found.count.item() == 1


def test_equal_maps_cost_nothing_and_have_a_gradient():
    feature = torch.rand(4, 3, 5, 5).requires_grad_()
    found = total(AttentionTransfer(), feature, 2 * feature.detach())
    found.sum.backward()
    assert found.sum.item() == pytest.approx(0.0, abs=1e-6)
    assert feature.grad.isfinite().all()


def test_a_batch_is_the_sum_of_its_parts():
    student, teacher = torch.randn(4, 3, 5, 5), torch.randn(4, 8, 5, 5)
    whole = total(AttentionTransfer(), student, teacher)
    parts = [total(AttentionTransfer(), student[at], teacher[at]) for at in ([0], [1, 2, 3])]
    assert sum(part.sum for part in parts).item() == pytest.approx(whole.sum.item(), rel=1e-5)
    assert sum(part.count for part in parts) == whole.count


def test_the_gradient_is_that_of_the_value():
    student = torch.randn(2, 2, 3, 3).double().requires_grad_()
    teacher = torch.randn(2, 2, 3, 3)
    assert torch.autograd.gradcheck(lambda s: total(AttentionTransfer(), s, teacher).sum, student, eps=1e-3, atol=1e-2)

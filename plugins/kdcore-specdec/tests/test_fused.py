"""Fused kernels are used where they exist and are faster, and mean what ours mean."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from kdcore.losses import functional
from kdcore_specdec import fused
from kdcore_specdec.functional import DIVERGENCES, Rows, weighted_sum
from kdcore_specdec.fused import Fused, fastest, fused_cross_entropy, fused_divergence

M, D, V = 6, 4, 9


class JSD(torch.nn.Module):
    """What Liger's kernel computes, by its documentation: a mean over rows; 0 and 1 are the two KLs."""

    def __init__(self, jsd_beta=0.5, ignore_index=-100, temperature=1.0):
        super().__init__()
        self.beta, self.temperature = jsd_beta, temperature

    def forward(self, student, student_head, teacher, teacher_head, labels):
        assert labels is None
        q = (student @ student_head.T / self.temperature).softmax(-1)
        p = (teacher @ teacher_head.T / self.temperature).softmax(-1)
        if self.beta == 0.0:
            return (p * (p / q).log()).sum(-1).mean()
        if self.beta == 1.0:
            return (q * (q / p).log()).sum(-1).mean()
        m = self.beta * p + (1 - self.beta) * q
        return (self.beta * p * (p / m).log() + (1 - self.beta) * q * (q / m).log()).sum(-1).mean()


class CE(torch.nn.Module):
    def __init__(self, ignore_index=-100, reduction="mean"):
        super().__init__()
        assert reduction == "sum"

    def forward(self, head, hidden, labels):
        return torch.nn.functional.cross_entropy(hidden @ head.T, labels, reduction="sum")


@pytest.fixture
def liger(monkeypatch):
    """A stand-in for the package, and rows on the CPU count as on CUDA."""
    for name, attribute, value in (
        ("fused_linear_jsd", "LigerFusedLinearJSD", JSD),
        ("fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyLoss", CE),
    ):
        module = ModuleType(name)
        setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, f"liger_kernel.transformers.{name}", module)
    for parent in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setattr(fused, "_suits", lambda rows: rows.head is not None)
    monkeypatch.setattr(fused, "_FASTER", {})


def rows() -> tuple[Rows, Rows]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in ((M, D), (V, D), (M, D + 1), (V, D + 1))]
    return Rows(made[0].requires_grad_(), made[1].requires_grad_()), Rows(*made[2:])


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_the_kernel_means_what_our_formula_means(liger, kind):
    student, teacher = rows()
    found = fused_divergence(kind, 0.3, 2.0, student, teacher)
    assert found is not None
    assert found.name == kind
    options = {"beta": 0.3} if kind == "jsd" else {}
    expected = weighted_sum(
        lambda a, b: DIVERGENCES[kind](a, b, temperature=2.0, **options), student, teacher, weights=torch.ones(M)
    )
    value = found.run()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    inputs = [student.values, student.head]
    ours = torch.autograd.grad(expected, inputs)
    for _ in range(2):  # a second backward finds the same
        mine = torch.autograd.grad(2 * value, inputs, retain_graph=True)
        assert all(torch.allclose(a, 2 * b, atol=1e-5) for a, b in zip(mine, ours, strict=True))


def test_cross_entropy(liger):
    student, _ = rows()
    labels = torch.tensor([0, 3, -100, 8, 1, -100])
    found = fused_cross_entropy(student, labels)
    assert found is not None
    expected = functional.cross_entropy(student.at(slice(M)), labels).sum()
    assert found.run().item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_frozen_head_gets_no_gradient(liger):
    student, teacher = rows()
    frozen = Rows(student.values, student.head.detach())
    found = fused_divergence("jsd", 0.5, 1.0, frozen, teacher)
    assert found is not None
    found.run().backward()
    assert student.values.grad is not None
    assert student.head.grad is None
    alone = fused_divergence("jsd", 0.5, 1.0, Rows(student.values.detach(), frozen.head), teacher)
    assert alone is not None
    assert not alone.run().requires_grad


def test_a_row_of_zeros_in_both_counts_for_nothing(liger):
    """This is how unlabelled tokens are left out where selecting would wait for the device."""
    student, teacher = rows()
    zeros = [Rows(torch.cat([one.values, torch.zeros(3, one.values.shape[1])]), one.head) for one in (student, teacher)]
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        short, long = (fused_divergence(kind, 0.4, 1.0, *pair) for pair in ((student, teacher), zeros))
        assert short is not None
        assert long is not None
        assert short.run().item() == pytest.approx(long.run().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "temperature", "bare"), [("tvd", 1.0, False), ("jsd", torch.tensor(1.0), False), ("jsd", 1.0, True)]
)
def test_what_there_is_no_kernel_for(liger, kind, temperature, bare):
    student, teacher = rows()
    if bare:
        teacher = Rows(teacher.at(slice(M)))
    assert fused_divergence(kind, 0.5, temperature, student, teacher) is None


def test_there_is_none_on_a_cpu():
    student, teacher = rows()
    assert fused_divergence("jsd", 0.5, 1.0, student, teacher) is None
    assert fused_cross_entropy(student, torch.zeros(M, dtype=torch.int64)) is None


@pytest.mark.parametrize("faster", ["plain", "fused"])
def test_the_faster_one_is_found_once_for_each_shape(monkeypatch, faster):
    monkeypatch.setattr(fused, "_FASTER", {})
    clock, calls = [0.0], []
    monkeypatch.setattr(fused.time, "perf_counter", lambda: clock[0])

    def way(name: str):
        def run() -> torch.Tensor:
            calls.append(name)
            clock[0] += 1.0 if name == faster else 2.0
            return torch.tensor(0.0 if name == "plain" else 1.0)

        return run

    student, _ = rows()
    offered = Fused("jsd", way("fused"))
    for _ in range(3):
        assert fastest(way("plain"), offered, student) == (1.0 if faster == "fused" else 0.0)
    assert calls == ["plain"] * 3 + ["fused"] * 3 + [faster] * 3
    fastest(way("plain"), offered, Rows(student.values[:4], student.head))
    assert len(calls) == 9 + 7
    calls.clear()
    fastest(way("plain"), None, student)
    assert calls == ["plain"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_liger_itself():
    pytest.importorskip("liger_kernel")
    student, teacher = (Rows(one.values.cuda(), one.head.cuda()) for one in rows())
    found = fused_divergence("jsd", 0.3, 2.0, student, teacher)
    assert found is not None
    expected = weighted_sum(lambda a, b: functional.jsd(a, b, beta=0.3, temperature=2.0), student, teacher,
                            weights=torch.ones(M, device="cuda"))  # fmt: skip
    assert found.run().item() == pytest.approx(expected.item(), rel=1e-4)

"""Divergences over labelled tokens: values that others agree on, the plain form, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.losses import functional
from kdcore_specdec.losses.divergence import Divergence

REFERENCE = os.environ.get("KDCORE_REFERENCE")
N, T, D, E, V = 2, 5, 4, 6, 9
KINDS = ["forward_kl", "reverse_kl", "jsd", "tvd"]


def signals(seed: int, width: int, *, requires_grad: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(shape, generator=generator) for shape in ((N, T, width), (V, width)))
    return {"hidden": hidden.requires_grad_(requires_grad), "head": head.requires_grad_(requires_grad)}


def labelled() -> dict[str, torch.Tensor]:
    labels = torch.randint(V, (N, T), generator=torch.Generator().manual_seed(5))
    labels[0, 3:] = -100
    labels[1, 0] = -100
    return {"labels": labels}


def logits(of: dict[str, torch.Tensor]) -> torch.Tensor:
    return of["hidden"] @ of["head"].T


def naive(kind: str, p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """One token, from probabilities."""
    m = beta * p + (1 - beta) * q
    return {
        "forward_kl": (p * (p / q).log()).sum(),
        "reverse_kl": (q * (q / p).log()).sum(),
        "jsd": beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum(),
        "tvd": (p - q).abs().sum() / 2,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_parity_with_a_loop_over_tokens(kind, temperature):
    student, teacher, batch = signals(0, D, requires_grad=True), signals(1, E), labelled()
    found = Divergence(kind=kind, beta=0.3, temperature=temperature, chunk=2)(student, teacher, batch)
    p, q = ((logits(of) / temperature).softmax(-1) for of in (teacher, student))
    where = [(n, t) for n in range(N) for t in range(T) if batch["labels"][n, t] != -100]
    expected = sum(naive(kind, p[at], q[at], 0.3) for at in where) * temperature ** (1 if kind == "tvd" else 2)
    assert found.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.sum.dtype == torch.float32
    assert found.count == len(where) == 7
    assert found.count.dtype == torch.int64
    ours, theirs = (torch.autograd.grad(value, list(student.values())) for value in (found.sum, expected))
    for mine, others in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, others, atol=1e-5)


@pytest.mark.skipif(REFERENCE is None, reason="KDCORE_REFERENCE names no folder with reference values")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 256])
def test_reference_values(kind, chunk):
    folder = Path(REFERENCE or "")
    case = json.loads((folder / "losses.json").read_text())[f"{kind}_tokens"]
    arrays = np.load(folder / "losses.npz")
    given = {name: torch.from_numpy(arrays[key]) for name, key in case["inputs"].items()}
    student, teacher, labels = (
        given[name].reshape(1, -1, *given[name].shape[given["labels"].ndim :])
        for name in ("student_logits", "teacher_logits", "labels")
    )
    student.requires_grad_()
    # a head that is the identity makes hidden states of logits
    head = torch.eye(student.shape[-1])
    loss = Divergence(kind=kind, chunk=chunk, **case["params"])
    total = loss({"hidden": student, "head": head}, {"hidden": teacher, "head": head}, {"labels": labels})
    value = total.sum / total.count
    assert value.item() == pytest.approx(case["value"], rel=1e-5)
    assert torch.autograd.grad(value, student)[0].norm().item() == pytest.approx(case["grad_norm"], rel=1e-4)


def test_a_teacher_from_a_cache_gives_logits():
    student, teacher, batch = signals(0, D, requires_grad=True), signals(1, E), labelled()
    loss = Divergence(teacher_signal="logits")
    assert loss.needs == {"student.hidden", "student.head", "teacher.logits"}
    assert Divergence.needs == {"student.hidden", "student.head", "teacher.hidden", "teacher.head"}
    found = loss(student, {"logits": logits(teacher)}, batch)
    assert found.sum.item() == pytest.approx(Divergence()(student, teacher, batch).sum.item(), rel=1e-6)


def test_mask_and_weight():
    student, teacher, batch = signals(0, D), signals(1, E), labelled()
    mask = torch.ones(N, T, dtype=torch.bool)
    mask[1] = False
    weight = torch.rand(N, T, generator=torch.Generator().manual_seed(0))
    terms = functional.kl(logits(student), logits(teacher))
    found = Divergence()(student, teacher, {**batch, "mask": mask, "weight": weight})
    assert found.sum.item() == pytest.approx((terms * weight)[0, :3].sum().item(), rel=1e-5)
    assert found.count == 3
    assert Divergence().count({**batch, "mask": mask}) == 3
    assert Divergence().count(batch) == 7
    assert Divergence().count({}) is None


def test_nan_where_there_is_no_label_reaches_nothing():
    student, teacher, batch = signals(0, D, requires_grad=True), signals(1, E), labelled()
    with torch.no_grad():
        student["hidden"][0, 4] = teacher["hidden"][0, 4] = torch.nan
    found = Divergence()(student, teacher, batch)
    found.sum.backward()
    assert found.sum.isfinite()
    assert student["hidden"].grad.isfinite().all()
    assert student["head"].grad.isfinite().all()


def test_a_schedule_may_set_the_temperature():
    student, teacher, batch = signals(0, D), signals(1, E), labelled()
    loss = Divergence(temperature=lambda progress: 1.0 + progress)
    loss.progress = 1.0
    assert loss(student, teacher, batch).sum == Divergence(temperature=2.0)(student, teacher, batch).sum


def test_what_is_refused():
    with pytest.raises(ValueError, match="kind='kl' is no divergence known here: use one of forward_kl, rev"):
        Divergence(kind="kl")
    with pytest.raises(ValueError, match=r"beta=1.0 is not in \(0, 1\)"):
        Divergence(kind="jsd", beta=1.0)
    with pytest.raises(ValueError, match=r"temperature=0.0 is not above 0"):
        Divergence(temperature=0.0)
    with pytest.raises(ValueError, match="chunk=0 is no number of tokens from 1 on"):
        Divergence(chunk=0)


def test_signals_that_do_not_fit_are_refused():
    student, teacher, batch = signals(0, D), signals(1, E), labelled()
    smaller = {"hidden": teacher["hidden"], "head": teacher["head"][:-1]}
    with pytest.raises(ValueError, match="the draft tells 9 tokens apart and the target 8: both must have"):
        Divergence()(student, smaller, batch)
    with pytest.raises(KeyError, match="reads the batch's `labels`, which this data does not give"):
        Divergence()(student, teacher, {})
    with pytest.raises(ValueError, match=r"the batch's `mask` has shape \(2, 4\), its `labels` have \(2, 5\)"):
        Divergence()(student, teacher, {**batch, "mask": torch.ones(2, 4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"the target's `hidden` has shape \(2, 4, 6\), the labels have \(2, 5\)"):
        Divergence()(student, {**teacher, "hidden": teacher["hidden"][:, :4]}, batch)

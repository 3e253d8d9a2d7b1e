"""Chunked sums over a vocabulary equal the plain form, value and gradients, whatever the chunk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdcore.losses import functional
from kdcore_specdec.functional import DIVERGENCES, Rows, chunk_of, chunks, token_terms, weighted_sum

M, D, E, V = 7, 4, 6, 13
"""Tokens, the student's width, the teacher's, the vocabulary."""


def made(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (M, D), "head": (V, D), "teacher": (M, E), "teacher_head": (V, E)}
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    tensors["weights"] = torch.rand(M, generator=generator)
    tensors["labels"] = torch.randint(V, (M,), generator=generator)
    for name in ("hidden", "head"):
        tensors[name].requires_grad_()
    return tensors


def plain(terms, t) -> torch.Tensor:
    logits = t["hidden"] @ t["head"].T
    return (terms(logits, t["teacher"] @ t["teacher_head"].T) * t["weights"]).sum()


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_value_and_gradients_are_those_of_the_plain_form(kind, chunk):
    t = made(torch.float64)
    expected = plain(DIVERGENCES[kind], t)
    found = weighted_sum(
        DIVERGENCES[kind], Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"]),
        weights=t["weights"], chunk=chunk,
    )  # fmt: skip
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(3 * value, (t["hidden"], t["head"])) for value in (found, expected))
    for mine, theirs_ in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, theirs_, rtol=1e-10, atol=1e-12)


def test_logits_themselves_may_be_the_rows():
    t = made(torch.float64)
    logits = (t["hidden"] @ t["head"].T).detach().requires_grad_()
    teacher = t["teacher"] @ t["teacher_head"].T
    found = weighted_sum(functional.kl, Rows(logits), Rows(teacher), weights=t["weights"], chunk=2)
    expected = (functional.kl(logits, teacher) * t["weights"]).sum()
    assert found.item() == pytest.approx(expected.item())
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (found, expected)))


def test_cross_entropy_by_hand():
    t = made()
    found = weighted_sum(
        functional.cross_entropy, Rows(t["hidden"], t["head"]), Rows(t["labels"]), weights=torch.ones(M), chunk=3
    )
    expected = F.cross_entropy(t["hidden"] @ t["head"].T, t["labels"], reduction="sum")
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_second_backward_finds_the_same_gradient():
    t = made()
    value = weighted_sum(
        functional.kl, Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"]), weights=t["weights"]
    )
    first, second = (torch.autograd.grad(5 * value, t["hidden"], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient(frozen):
    t = made()
    t[frozen].requires_grad_(False)
    learns = "head" if frozen == "hidden" else "hidden"
    value = weighted_sum(
        functional.kl,
        Rows(t["hidden"], t["head"]),
        Rows(t["teacher"], t["teacher_head"]),
        weights=t["weights"],
        chunk=2,
    )
    (found,) = torch.autograd.grad(value, t[learns])
    assert torch.allclose(found, torch.autograd.grad(plain(functional.kl, t), t[learns])[0], atol=1e-6)
    t[learns].requires_grad_(False)
    alone = weighted_sum(functional.kl, Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"]),
                         weights=t["weights"])  # fmt: skip
    assert not alone.requires_grad
    assert alone.item() == pytest.approx(value.item(), rel=1e-6)


def test_the_others_get_none():
    t = made()
    t["teacher"].requires_grad_()
    value = weighted_sum(functional.kl, Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"]),
                         weights=t["weights"])  # fmt: skip
    value.backward()
    assert t["teacher"].grad is None


def test_a_bfloat16_head_is_added_up_in_float32():
    """1024 tokens that each add 1e-3 to the same entry: in bfloat16 the sum stops growing at 0.25."""
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    head = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)

    def terms(logits):
        return 1e-3 * logits[:, 0].float()

    weighted_sum(terms, Rows(hidden, head), weights=torch.ones(1024), chunk=1).backward()
    assert head.grad is not None
    assert head.grad.dtype == torch.bfloat16
    assert head.grad[0].item() == pytest.approx(1.024, rel=0.01)


def test_bfloat16_is_near_float32():
    t, half = made(), made(torch.bfloat16)
    expected = plain(functional.kl, t)
    found = weighted_sum(functional.kl, Rows(half["hidden"], half["head"]), Rows(half["teacher"], half["teacher_head"]),
                         weights=half["weights"], chunk=2)  # fmt: skip
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
    gradient = torch.autograd.grad(found, half["hidden"])[0]
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient.float(), torch.autograd.grad(expected, t["hidden"])[0], atol=0.1)


def test_no_tokens_make_zero_with_a_graph():
    t = made()
    value = weighted_sum(functional.kl, Rows(t["hidden"][:0], t["head"]), Rows(t["teacher"][:0], t["teacher_head"]),
                         weights=t["weights"][:0])  # fmt: skip
    assert value.item() == 0
    assert torch.equal(torch.autograd.grad(value, t["head"])[0], torch.zeros(V, D))
    assert token_terms(functional.kl, Rows(t["hidden"][:0], t["head"]), Rows(t["teacher"][:0])).shape == (0,)


def test_token_terms_are_those_of_the_plain_form_without_a_graph():
    t = made()
    rows = Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"])
    found = token_terms(functional.tvd, *rows, chunk=3)
    assert not found.requires_grad
    assert torch.allclose(found, functional.tvd(rows[0].at(slice(M)), rows[1].at(slice(M))))


def test_one_chunk_of_logits_is_all_that_ever_exists():
    seen = []

    def terms(student, teacher):
        seen.append((tuple(student.shape), tuple(teacher.shape)))
        return functional.kl(student, teacher)

    t = made()
    weighted_sum(
        terms, Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"]), weights=t["weights"], chunk=3
    )
    assert seen == [((3, V), (3, V)), ((3, V), (3, V)), ((1, V), (1, V))]


def test_nan_is_not_hidden():
    t = made()
    with torch.no_grad():
        t["hidden"][2] = torch.nan
    value = weighted_sum(functional.kl, Rows(t["hidden"], t["head"]), Rows(t["teacher"], t["teacher_head"]),
                         weights=t["weights"], chunk=2)  # fmt: skip
    assert value.isnan()


def test_chunks_cover_everything_once():
    assert [(one.start, one.stop) for one in chunks(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert list(chunks(0, 3)) == []


def test_a_head_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"hidden states of width 4 do not fit a head of shape \(13, 6\)"):
        Rows(torch.zeros(2, 4), torch.zeros(13, 6))


def test_the_vocabulary_decides_how_many_tokens_are_a_chunk():
    assert chunk_of(Rows(torch.zeros(1, 2), torch.zeros(32000, 2)), None) == 131
    assert chunk_of(Rows(torch.zeros(1, 261)), None) == 16070
    assert chunk_of(Rows(torch.zeros(1, 1).expand(1, 2**24)), None) == 1
    assert chunk_of(Rows(torch.zeros(1, 261)), 7) == 7

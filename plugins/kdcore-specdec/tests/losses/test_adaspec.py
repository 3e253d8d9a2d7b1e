"""AdaSPEC learns from the tokens where a reference is furthest ahead, and from no others."""

from __future__ import annotations

import pytest
import torch

from kdcore.losses import functional
from kdcore_specdec.losses.adaspec import AdaSPEC, largest

N, T, V = 2, 6, 9


def signals(seed: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(shape, generator=generator) for shape in ((N, T, width), (V, width)))
    return {"hidden": hidden, "head": head}


def made():
    student = {name: tensor.requires_grad_() for name, tensor in signals(0, 4).items()}
    labels = torch.randint(V, (N, T), generator=torch.Generator().manual_seed(3))
    labels[1, 4:] = -100
    return student, signals(1, 5), signals(2, 3), {"labels": labels}


def logits(of: dict[str, torch.Tensor]) -> torch.Tensor:
    return of["hidden"] @ of["head"].T


@pytest.mark.parametrize(("keep", "count"), [(0.4, 4), (0.5, 5), (0.01, 1), (1.0, 10)])
@pytest.mark.parametrize("chunk", [3, 256])
def test_parity_with_sorting_all_tokens(keep, count, chunk):
    student, teacher, reference, batch = made()
    found = AdaSPEC(keep=keep, chunk=chunk)(student, teacher, batch, reference=reference)
    ours, before = (functional.kl(logits(of), logits(teacher)) for of in (student, reference))
    gaps = {
        (n, t): (ours[n, t] - before[n, t]).item() for n in range(N) for t in range(T) if batch["labels"][n, t] != -100
    }
    kept = sorted(gaps, key=lambda at: -gaps[at])[:count]
    expected = sum(ours[at] for at in kept)
    assert found.count == count
    assert found.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    mine, other = (torch.autograd.grad(value, list(student.values())) for value in (found.sum, expected))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, other, strict=True))
    if count < 10:
        untouched = [at for at in gaps if at not in kept]
        assert all(mine[0][at].abs().sum() == 0 for at in untouched)


def test_the_reference_decides_which():
    student, teacher, _, batch = made()
    # a reference that has learnt the second token of each row, and of the others the opposite
    learnt = logits(teacher) * torch.tensor([-9.0, 1.0] + [-9.0] * (T - 2))[:, None]
    found = AdaSPEC(keep=0.2)(student, teacher, batch, reference={"hidden": learnt, "head": torch.eye(V)})
    assert found.sum.item() == pytest.approx(functional.kl(logits(student), logits(teacher))[:, 1].sum().item())


@pytest.mark.parametrize(
    ("values", "among", "share", "expected"),
    [
        ([1.0, 4.0, 2.0, 3.0], [1, 1, 1, 1], 0.5, [0, 1, 0, 1]),
        ([1.0, 4.0, 2.0, 3.0], [1, 0, 1, 1], 0.5, [0, 0, 1, 1]),  # 1.5 of 3, rounded up
        ([2.0, 2.0, 2.0, 2.0, 2.0], [1] * 5, 0.4, [1, 1, 0, 0, 0]),  # ties: the first; 0.4 x 5 is 2
        ([1.0, 2.0], [0, 0], 0.5, [0, 0]),
        ([], [], 0.5, []),
    ],
)
def test_largest_by_hand(values, among, share, expected):
    found = largest(torch.tensor(values), share, among=torch.tensor(among, dtype=torch.bool))
    assert found.tolist() == [bool(one) for one in expected]


def test_what_is_refused():
    student, teacher, reference, batch = made()
    for keep in (0.0, 1.2):
        with pytest.raises(ValueError, match=rf"keep={keep} is not in \(0, 1\]: it is the share of tokens"):
            AdaSPEC(keep=keep)
    with pytest.raises(ValueError, match="chunk=0 is no number of tokens from 1 on"):
        AdaSPEC(chunk=0)
    smaller = {**reference, "head": reference["head"][1:]}
    with pytest.raises(ValueError, match="the draft tells 9 tokens apart and the reference 8"):
        AdaSPEC()(student, teacher, batch, reference=smaller)

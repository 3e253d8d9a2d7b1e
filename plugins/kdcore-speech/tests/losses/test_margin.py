from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kdcore.signals import IGNORE
from torch import Tensor, nn

from kdcore_speech.losses.margin import Margin

LABELS = torch.tensor([0, 2, IGNORE, 1])


def embeddings() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def made(**options: Any) -> Margin:
    loss = Margin(**options)
    torch.manual_seed(0)
    loss.setup({"student": {"embedding": embeddings()}}, {"classes": 3}, lambda role: nn.Identity())
    return loss


def slow(embedding: Tensor, vectors: Tensor, label: int, *, kind: str, margin: float, scale: float) -> float:
    """The papers' formula for one clip, in plain numbers."""
    e = embedding.double().tolist()

    def cosine(v: list[float]) -> float:
        dot = sum(a * b for a, b in zip(e, v, strict=True))
        return dot / math.sqrt(sum(a * a for a in e)) / math.sqrt(sum(b * b for b in v))

    cosines = [cosine(vector) for vector in vectors.double().tolist()]
    own = cosines[label]
    shifted = own - margin if kind == "additive" else math.cos(math.acos(own) + margin)
    others = sum(math.exp(scale * one) for place, one in enumerate(cosines) if place != label)
    return -math.log(math.exp(scale * shifted) / (math.exp(scale * shifted) + others))


@pytest.mark.parametrize("kind", ["angular", "additive"])
@pytest.mark.parametrize(("margin", "scale"), [(0.2, 30.0), (0.0, 1.0), (0.5, 10.0)])
def test_it_is_the_paper_s_formula(kind: Any, margin: float, scale: float):
    loss = made(kind=kind, margin=margin, scale=scale)
    total = loss({"embedding": embeddings()}, {}, {"labels": LABELS})
    given = {"kind": kind, "margin": margin, "scale": scale}
    wanted = sum(slow(embeddings()[row], loss.classes.detach(), int(LABELS[row]), **given) for row in (0, 1, 3))
    assert total.sum.item() == pytest.approx(wanted, rel=1e-4)
    assert int(total.count) == 3


def test_without_a_margin_it_is_softmax_of_cosines():
    angular, additive = (made(kind=kind, margin=0.0) for kind in ("angular", "additive"))
    one, other = (loss({"embedding": embeddings()}, {}, {"labels": LABELS}).sum for loss in (angular, additive))
    torch.testing.assert_close(one, other)


def test_beyond_the_largest_angle_the_margin_goes_on():
    loss = made(margin=0.5)
    cosine = torch.linspace(-1, 1, 2001)
    shifted = loss._with_margin(cosine)
    assert (shifted.diff() > 0).all()  # nearer is always better
    behind = cosine < -math.cos(0.5)
    torch.testing.assert_close(shifted[behind], cosine[behind] - 0.5 * math.sin(0.5))


@pytest.mark.parametrize("kind", ["angular", "additive"])
def test_gradients_are_finite_where_an_embedding_is_its_class_or_its_opposite(kind: Any):
    loss = made(kind=kind)
    vectors = loss.classes.detach()
    embedding = torch.stack([3 * vectors[0], -vectors[2], torch.zeros(5), vectors[1]]).requires_grad_()
    loss({"embedding": embedding}, {}, {"labels": torch.tensor([0, 2, 1, 0])}).sum.backward()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()


def test_a_larger_margin_is_harder():
    values = [
        made(margin=margin)({"embedding": embeddings()}, {}, {"labels": LABELS}).sum.item() for margin in (0, 0.2)
    ]
    assert values[0] < values[1]


def test_the_length_of_an_embedding_does_not_matter():
    loss = made()
    one, other = (loss({"embedding": s * embeddings()}, {}, {"labels": LABELS}).sum for s in (1.0, 7.0))
    torch.testing.assert_close(one, other)


def test_its_vectors_learn():
    loss = made()
    loss({"embedding": embeddings()}, {}, {"labels": LABELS}).sum.backward()
    assert [name for name, _ in loss.named_parameters()] == ["classes"]
    assert loss.classes.grad is not None
    assert loss.classes.grad.any()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": 4.0}, {"kind": "additive", "margin": float("nan")}])
def test_margins(options: dict[str, Any]):
    with pytest.raises(ValueError, match=rf"^margin={options['margin']}: give 0 or more, and an angle of pi at most$"):
        Margin(**options)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scales(scale: float):
    with pytest.raises(ValueError, match=rf"^scale={scale} is not above 0: cosines are multiplied by it$"):
        Margin(scale=scale)


def test_data_without_labels():
    with pytest.raises(KeyError, match=r"`speech\.margin` reads the batch's `labels`, which this data does not give"):
        made()({"embedding": embeddings()}, {}, {})


def test_data_without_classes():
    with pytest.raises(
        KeyError, match=r"`speech\.margin` needs the number of `classes`, which this data does not tell"
    ):
        Margin().setup({"student": {"embedding": embeddings()}}, {}, lambda role: nn.Identity())

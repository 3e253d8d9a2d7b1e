"""CED: scores as targets, against a slow formula; and what the core's cache makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from kdcore.cache.codec import Layout
from torch import Tensor

from embedded import normal
from kdcore_speech.losses.ced import CED


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slowly(ours: Tensor, targets: list[list[float]]) -> float:
    added = 0.0
    for row, scores in zip(ours.tolist(), targets, strict=True):
        terms = [
            p * math.log(sigmoid(x)) + (1 - p) * math.log(1 - sigmoid(x)) for x, p in zip(row, scores, strict=True)
        ]
        added -= sum(terms) / len(terms)
    return added


def test_the_value_is_that_of_the_definition():
    ours, theirs = 2 * normal(1, 4, 7), 2 * normal(2, 4, 7)
    total = CED()({"logits": ours}, {"logits": theirs}, {})
    assert total.count.item() == 4
    expected = slowly(ours, [[sigmoid(x) for x in row] for row in theirs.tolist()])
    assert total.sum.item() == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_chose_one_class_gives_shares():
    ours, theirs = 2 * normal(1, 4, 7), 2 * normal(2, 4, 7)
    total = CED(scores="softmax")({"logits": ours}, {"logits": theirs}, {})
    shares = []
    for row in theirs.tolist():
        whole = sum(math.exp(x) for x in row)
        shares.append([math.exp(x) / whole for x in row])
    assert total.sum.item() == pytest.approx(slowly(ours, shares), rel=1e-5)


def test_the_gradient_is_the_difference_of_scores():
    ours, theirs = normal(1, 3, 5).requires_grad_(), normal(2, 3, 5).requires_grad_()
    CED()({"logits": ours}, {"logits": theirs.detach()}, {}).sum.backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, (ours.detach().sigmoid() - theirs.detach().sigmoid()) / 5)


def test_labels_are_not_read():
    ours, theirs = {"logits": normal(1, 3, 5)}, {"logits": normal(2, 3, 5)}
    plain = CED()(ours, theirs, {})
    labelled = CED()(ours, theirs, {"labels": torch.tensor([0, -100, 3])})
    assert torch.equal(plain.sum, labelled.sum)
    assert plain.count == labelled.count == 3


def test_logits_beyond_all_measure_stay_finite():
    ours = torch.tensor([[1e4, -1e4]], requires_grad=True)
    total = CED()({"logits": ours}, {"logits": torch.tensor([[-1e4, 1e4]])}, {})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(1e4)
    assert ours.grad is not None
    assert ours.grad.isfinite().all()


def test_the_cache_keeps_what_the_loss_needs():
    """20 of 527 scores, as in the paper: exact where they are, and as much mass in the others as there was."""
    ours, theirs = normal(1, 3, 527), 3 * normal(2, 3, 527) - 7
    layout = Layout.of("logits", theirs, stored="float16", topk=20)
    kept = layout.decode({name: layout.to_tensor(name, array) for name, array in layout.encode(theirs).items()})
    top = theirs.topk(20).indices
    torch.testing.assert_close(kept.gather(1, top).sigmoid(), theirs.gather(1, top).sigmoid(), atol=2e-3, rtol=0)
    exact, cached = (CED()({"logits": ours}, {"logits": x}, {}).sum.item() for x in (theirs, kept))
    assert cached == pytest.approx(exact, rel=0.02)
    assert layout.bytes < 527 * 4 / 16


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 2)])
def test_other_classes_are_refused(shape: tuple[int, ...]):
    words = r"the student's logits have shape \(3, 5\), the teacher's \(3, .*\): both must be \(N, C\), over the same"
    with pytest.raises(ValueError, match=words):
        CED()({"logits": torch.zeros(3, 5)}, {"logits": torch.zeros(shape)}, {})

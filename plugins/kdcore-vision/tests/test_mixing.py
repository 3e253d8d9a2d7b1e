from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.losses.cross_entropy import CrossEntropy
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdcore_vision.mixing import CutMix, Mixup


def batch(n: int = 6, *, labels: Tensor | None = None, views: bool = False) -> dict[str, Any]:
    """Picture i has the value 10 * i everywhere."""
    image = (10 * torch.arange(n, dtype=torch.uint8)).view(n, 1, 1, 1).expand(n, 1, 8, 8).clone()
    made: dict[str, Any] = {
        "image": image,
        "labels": torch.arange(n) % 3 if labels is None else labels,
        "id": torch.arange(n),
    }
    if views:
        made["views"] = {
            "small": {"image": image[..., :4, :4].clone(), "labels": made["labels"]},
            "ids": {"id": made["id"]},
        }
    return made


def run(component: torch.nn.Module, given: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    return component(given, lambda name: None)


def test_mixup_is_the_same_sum_for_pictures_and_labels():
    given = batch()
    found = run(Mixup(classes=3, alpha=1.0), given)
    pixels, shares = found["image"], found["labels"]
    assert pixels.dtype == torch.float32
    assert shares.shape == (6, 3)
    assert torch.allclose(shares.sum(1), torch.ones(6))
    torch.manual_seed(0)
    torch.rand(())
    share = float(torch.distributions.Beta(1.0, 1.0).sample())
    partner = torch.randperm(6)
    floats = given["image"].float() / 255
    assert torch.allclose(pixels, share * floats + (1 - share) * floats[partner])
    for row in range(6):
        expected = torch.zeros(3)
        expected[given["labels"][row]] += share
        expected[given["labels"][partner[row]]] += 1 - share
        assert torch.allclose(shares[row], expected)


def test_cutmix_cuts_a_box_and_labels_follow_its_area():
    given = batch()
    for seed in range(20):
        found = run(CutMix(classes=3), given, seed)
        assert found["image"].dtype == torch.uint8
        for row in range(6):
            foreign = found["image"][row, 0] != given["image"][row, 0]
            rows, columns = foreign.any(1).nonzero().flatten(), foreign.any(0).nonzero().flatten()
            if len(rows):  # one box, without holes
                assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
                other = int(found["image"][row, 0][foreign][0]) // 10
                expected = torch.zeros(3)
                expected[row % 3] += 1 - foreign.float().mean()
                expected[other % 3] += foreign.float().mean()
                assert torch.allclose(found["labels"][row], expected, atol=1e-6)


def test_boxes_have_the_drawn_area_where_they_are_not_cut_off():
    image, other = torch.zeros(1, 1, 100, 50), torch.ones(1, 1, 100, 50)
    mixed, kept = CutMix(classes=2).mix(image, other, 0.75, (0.5, 0.5))
    assert kept == pytest.approx(0.75, abs=0.02)
    assert (float(mixed[0, 0, 50, 25]), float(mixed[0, 0, 0, 0])) == (1.0, 0.0)
    assert mixed.mean() == pytest.approx(1 - kept)
    _, cut_off = CutMix(classes=2).mix(image, other, 0.75, (0.0, 0.0))
    assert cut_off == pytest.approx(1 - 0.25 / 4, abs=0.02)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_the_batch_it_is_given_stays(kind: Any):
    given = batch()
    before = given["image"].clone()
    found = run(kind(classes=3), given)
    assert torch.equal(given["image"], before)
    assert given["labels"].dtype == torch.int64
    assert torch.equal(found["id"], given["id"])


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_views_are_mixed_alike(kind: Any):
    found = run(kind(classes=3), batch(views=True), 4)
    view = found["views"]["small"]
    ours = found["image"].float() * (1 if found["image"].is_floating_point() else 1 / 255)
    theirs = view["image"].float() * (1 if view["image"].is_floating_point() else 1 / 255)
    assert found["views"]["ids"].keys() == {"id"}
    if kind is Mixup:
        assert torch.allclose(ours.mean((1, 2, 3)), theirs.mean((1, 2, 3)), atol=1e-6)
        assert torch.equal(view["labels"], found["labels"])
    assert view["labels"].shape == (6, 3)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_cross_entropy_stays_the_mean_over_labels(kind: Any):
    labels = torch.tensor([0, 1, -100, 2, -100, 1])
    found = run(kind(classes=3), batch(labels=labels), 2)
    logits = torch.randn(6, 3)
    total = CrossEntropy()({"logits": logits}, {}, found)
    shares = found["labels"]
    raw = shares / shares.sum() * 6
    by_hand = -(raw * logits.log_softmax(-1)).sum() / 6
    assert float(total.sum / total.count) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(shares.sum()) == pytest.approx(6.0, rel=1e-5)


def test_where_nothing_is_mixed_it_is_the_plain_cross_entropy():
    labels = torch.tensor([0, 1, -100, 2])
    component = Mixup(classes=3)
    component._mixed = lambda given, share: Mixup._mixed(component, given, 1.0)  # type: ignore[method-assign]
    found = run(component, batch(4, labels=labels))
    logits = torch.randn(4, 3)
    total = CrossEntropy()({"logits": logits}, {}, found)
    assert float(total.sum / total.count) == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)


def test_no_label_at_all():
    found = run(Mixup(classes=3), batch(labels=torch.full((6,), -100)))
    assert (found["labels"] == 0).all()


def test_a_batch_without_labels():
    given = batch()
    del given["labels"]
    assert "labels" not in run(CutMix(classes=3), given)


def test_one_after_the_other():
    found = run(CutMix(classes=3), run(Mixup(classes=3), batch()))
    assert torch.allclose(found["labels"].sum(1), torch.ones(6))


def test_probability_is_the_share_of_batches_that_are_mixed():
    component = Mixup(classes=3, probability=0.25)
    mixed = sum(run(component, batch(), seed)["labels"].is_floating_point() for seed in range(400))
    assert 70 < mixed < 130


def test_it_replays():
    one, other, third = (run(CutMix(classes=3), batch(), seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_values_that_are_wrong(kind: Any):
    with pytest.raises(ValueError, match="alpha=0 is not above 0"):
        kind(classes=2, alpha=0)
    with pytest.raises(ValueError, match=r"probability=1.5 is not in \(0, 1\]"):
        kind(classes=2, probability=1.5)

"""Counts of single images, whose sum gives nearly the metric: what a test with one seed exchanges between two nets."""

from __future__ import annotations

import pytest
import torch
from kdcore.report.statistics import verdict
from slow_ap import Picture
from test_metrics import AWAY, SQUARE, random_pictures, update, value

from kdcore_detection.histograms import bins_for, precision_of
from kdcore_detection.metrics import AveragePrecision


def shares(pictures: list[Picture], classes: int = 3, **given: object) -> torch.Tensor:
    found = AveragePrecision(classes=classes, **given).shares(*update(pictures))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_sum_is_close_to_the_metric(seed: int):
    pictures = random_pictures(seed, n=60)
    metric = AveragePrecision(classes=3)
    assert float(metric.value_of(shares(pictures).sum(0))) == pytest.approx(value(pictures, 3), abs=0.01)
    for given in ({"iou": 0.5}, {"iou": 0.75, "of": 1}, {"of": 2}, {"max_detections": 2}):
        metric = AveragePrecision(classes=3, **given)
        total = shares(pictures, **given).sum(0)
        assert float(metric.value_of(total)) == pytest.approx(value(pictures, 3, **given), abs=0.015)


@pytest.mark.parametrize(("classes", "iou", "apart"), [(20, None, 0.01), (26, None, 0.01), (48, 0.5, 0.015)])
def test_the_sum_is_close_with_many_classes(classes: int, iou: float | None, apart: float):
    """With 48 classes there is room for one threshold only."""
    pictures = random_pictures(1, n=200, classes=classes)
    metric = AveragePrecision(classes=classes, iou=iou)
    total = shares(pictures, classes, iou=iou).sum(0)
    assert float(metric.value_of(total)) == pytest.approx(value(pictures, classes, iou=iou), abs=apart)
    if iou is not None:
        assert AveragePrecision(classes=classes).shares(*update(pictures)) is None


def test_where_scores_are_far_apart_it_is_the_metric():
    pictures = [
        Picture([(SQUARE, 0, False), (AWAY, 0, False)], [(SQUARE, 0, 0.9), (AWAY, 1, 0.4)]),
        Picture([(SQUARE, 1, False)], [(AWAY, 1, 0.9), (SQUARE, 1, 0.6)]),
        Picture([(SQUARE, 0, True), (AWAY, 1, False)], [(SQUARE, 0, 0.99), (AWAY, 1, 0.2)]),
    ]
    total = shares(pictures, 3).sum(0)
    assert float(AveragePrecision(classes=3).value_of(total)) == pytest.approx(value(pictures, 3), abs=1e-6)


def test_what_is_counted_by_hand():
    picture = Picture(
        [(SQUARE, 0, False), (AWAY, 1, True)],
        [(SQUARE, 0, 0.9), (SQUARE, 0, 0.8), (AWAY, 1, 0.7), (AWAY, 0, 0.5)],
    )
    counts = shares([picture], 2, iou=0.5)[0]  # (2 classes, right, wrong and objects, bins)
    assert counts.shape == (2, 3, 64)
    assert counts.sum(-1).tolist() == [[1, 2, 1], [0, 0, 0]]  # what lies in the ignored box is not counted
    assert counts[0, 2, 0] == 1
    right, wrong = counts[0, 0].nonzero().flatten(), counts[0, 1].nonzero().flatten()
    assert right.tolist() == [round((torch.tensor(0.9).logit().item() + 6) * 63 / 12)]
    assert len(wrong) == 2
    assert wrong.max() < right.min()


def test_padding_is_not_counted():
    pictures = [Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9)] * 3), Picture([], [])]
    assert shares(pictures, 2)[1].sum() == 0


def test_images_add_up():
    pictures = random_pictures(3)
    whole = shares(pictures).sum(0)
    parts = shares(pictures[:5]).sum(0) + shares(pictures[5:]).sum(0)
    assert torch.equal(whole, parts)


def test_many_sums_at_once():
    pictures = random_pictures(3)
    each = shares(pictures).double()
    sums = torch.stack([each[:6].sum(0), each[6:].sum(0)])
    metric = AveragePrecision(classes=3)
    assert metric.value_of(sums).shape == (2,)
    torch.testing.assert_close(metric.value_of(sums)[1], metric.value_of(sums[1]))


def test_a_class_without_objects_has_no_value():
    total = shares([Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9), (SQUARE, 1, 0.9)])]).sum(0)
    assert precision_of(total).isnan().tolist() == [False, True, True]
    assert float(AveragePrecision(classes=3).value_of(total)) == 1.0
    assert AveragePrecision(classes=3, of=1).value_of(total).isnan()


def test_too_many_classes_or_a_size_gives_nothing():
    given = update(random_pictures(0))
    assert AveragePrecision(classes=80).shares(*given) is None
    assert AveragePrecision(classes=3, area="small").shares(*given) is None
    assert AveragePrecision(classes=26).shares(*given) is not None
    assert [bins_for(classes, 10) for classes in (12, 20, 26, 27)] == [64, 39, 30, None]
    assert [bins_for(classes, 1) for classes in (48, 182, 183)] == [64, 30, None]


def test_it_tells_two_nets_apart():
    """The core's own test: a net that finds every other object against one that finds nearly all."""

    def pictures(found: float) -> list[Picture]:
        return [
            Picture([(SQUARE, 0, False)], [(SQUARE if k * found % 1 < found else AWAY, 0, 0.5 + k / 200)])
            for k in range(60)
        ]

    metric = AveragePrecision(classes=1)
    good, bad = pictures(0.95), pictures(0.5)
    gain = value(good, 1) - value(bad, 1)
    found = verdict([gain], paired_scores=(shares(good, 1), shares(bad, 1)), value_of=metric.value_of)
    assert found.verdict == "better"
    assert found.p is not None
    assert found.p < 0.01
    same = verdict([0.0], paired_scores=(shares(bad, 1), shares(bad, 1)), value_of=metric.value_of)
    assert same.verdict == "no difference"

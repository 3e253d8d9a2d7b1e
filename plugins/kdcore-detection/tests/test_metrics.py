"""Average precision: by hand, against plain loops, in pieces, and evaluated once."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pytest
import torch
from slow_ap import Box, Picture, mean_ap, slow_ap
from torch import Tensor

from kdcore_detection import precision
from kdcore_detection.detector import Detections
from kdcore_detection.metrics import AveragePrecision

Update = tuple[Detections, dict[str, Tensor]]


def update(pictures: list[Picture], first_id: int = 0) -> Update:
    """Padded tensors, as a task gives them."""
    most = max(1, *(len(p.target) for p in pictures))
    limit = max(1, *(len(p.found) for p in pictures))
    n = len(pictures)
    batch = {
        "boxes": torch.zeros(n, most, 4),
        "box_labels": torch.full((n, most), -100),
        "box_ignore": torch.zeros(n, most, dtype=torch.bool),
        "id": torch.arange(n) + first_id,
    }
    found = Detections(torch.zeros(n, limit, 4), torch.zeros(n, limit), torch.full((n, limit), -1))
    for row, picture in enumerate(pictures):
        for k, (box, label, ignore) in enumerate(picture.target):
            batch["boxes"][row, k] = torch.tensor(box)
            batch["box_labels"][row, k], batch["box_ignore"][row, k] = label, ignore
        for k, (box, label, score) in enumerate(sorted(picture.found, key=lambda f: -f[2])):
            found.boxes[row, k] = torch.tensor(box)
            found.labels[row, k], found.scores[row, k] = label, score
    return found, batch


def value(pictures: list[Picture], classes: int = 2, **given: Any) -> float:
    metric = AveragePrecision(classes=classes, **given)
    metric.update(*update(pictures))
    return float(metric.compute())


def random_pictures(seed: int, n: int = 12, classes: int = 3, scale: float = 60.0) -> list[Picture]:
    """Some found well, some badly, some not, some twice; crowds among them."""
    draw = random.Random(seed)

    def box() -> Box:
        left, top = draw.uniform(0, 200), draw.uniform(0, 200)
        return left, top, left + draw.uniform(4, scale), top + draw.uniform(4, scale)

    def near(box: Box) -> Box:
        left, top, right, bottom = (side + draw.gauss(0, draw.choice([0.5, 3, 8])) for side in box)
        return left, top, max(right, left + 2), max(bottom, top + 2)

    pictures = []
    for _ in range(n):
        target = [(box(), draw.randrange(classes), draw.random() < 0.15) for _ in range(draw.randrange(8))]
        found = [(near(t[0]), t[1], draw.random()) for t in target for _ in range(draw.choice([0, 1, 1, 2]))]
        found += [(box(), draw.randrange(classes), draw.random() * 0.7) for _ in range(draw.randrange(6))]
        pictures.append(Picture(target, found))
    return pictures


SQUARE: Box = (10.0, 10.0, 50.0, 50.0)
AWAY: Box = (100.0, 100.0, 140.0, 140.0)


def test_all_found():
    assert value([Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9)])]) == pytest.approx(1.0)


def test_nothing_found():
    assert value([Picture([(SQUARE, 0, False)], [])]) == 0.0


def test_another_class_is_no_find():
    assert value([Picture([(SQUARE, 0, False)], [(SQUARE, 1, 0.9)])]) == 0.0


def test_half_of_the_objects_found_by_hand():
    """Recall 0.5 at precision 1: of 101 recalls 51 are reached."""
    picture = Picture([(SQUARE, 0, False), (AWAY, 0, False)], [(SQUARE, 0, 0.9)])
    assert value([picture]) == pytest.approx(51 / 101)


def test_a_wrong_one_before_the_right_one_by_hand():
    picture = Picture([(SQUARE, 0, False)], [(AWAY, 0, 0.9), (SQUARE, 0, 0.8)])
    assert value([picture]) == pytest.approx(0.5)


def test_a_wrong_one_after_the_right_one_costs_nothing():
    picture = Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9), (AWAY, 0, 0.8)])
    assert value([picture]) == pytest.approx(1.0)


def test_a_second_find_of_one_object_is_wrong():
    first = Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9), (SQUARE, 0, 0.8)])
    second = Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.7)])
    # one right, one wrong, one right: precision 1 up to recall 0.5, 2/3 beyond
    assert value([first, second]) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_that_overlaps_by_six_tenths_counts_at_three_thresholds():
    shifted: Box = (20.0, 10.0, 60.0, 50.0)  # 30 x 40 of 50 x 40
    picture = Picture([(SQUARE, 0, False)], [(shifted, 0, 0.9)])
    assert value([picture]) == pytest.approx(0.3)
    assert value([picture], iou=0.5) == pytest.approx(1.0)
    assert value([picture], iou=0.6) == pytest.approx(1.0)
    assert value([picture], iou=0.65) == 0.0


def test_a_class_that_does_not_occur_is_left_out():
    found = [Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9), (SQUARE, 1, 0.9)])]
    assert value(found, classes=5) == pytest.approx(1.0)
    assert math.isnan(value(found, classes=5, of=1))
    assert value(found, classes=5, of=0) == pytest.approx(1.0)


def test_nothing_to_be_found_has_no_value():
    assert math.isnan(value([Picture([], [(SQUARE, 0, 0.9)])]))
    assert math.isnan(value([Picture([(SQUARE, 0, True)], [])]))


def test_what_lies_in_an_ignored_box_is_neither_right_nor_wrong():
    inside: Box = (15.0, 15.0, 25.0, 25.0)  # a sixteenth of the crowd, wholly inside
    crowd = Picture([(SQUARE, 0, True), (AWAY, 0, False)], [(inside, 0, 0.9), (SQUARE, 0, 0.95), (AWAY, 0, 0.5)])
    assert value([crowd]) == pytest.approx(1.0)
    plain = Picture([(SQUARE, 1, True), (AWAY, 0, False)], crowd.found)  # a crowd of another class
    assert value([plain]) == pytest.approx(1 / 3)


def test_pictures_without_objects_count_their_wrong_finds():
    good = Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.5)])
    assert value([good, Picture([], [(AWAY, 0, 0.9)])]) == pytest.approx(0.5)


def test_sizes():
    small: Box = (0.0, 0.0, 20.0, 20.0)
    large: Box = (0.0, 0.0, 150.0, 150.0)
    pictures = [Picture([(small, 0, False)], [(small, 0, 0.9)]), Picture([(large, 0, False)], [])]
    assert value(pictures, area="small") == pytest.approx(1.0)
    assert value(pictures, area="large") == 0.0
    assert math.isnan(value(pictures, area="medium"))


def test_only_the_best_of_each_class_count():
    found = [(AWAY, 0, 0.9), (SQUARE, 0, 0.8), (SQUARE, 1, 0.7)]
    picture = Picture([(SQUARE, 0, False), (SQUARE, 1, False)], found)
    assert value([picture], max_detections=1) == pytest.approx(0.5)  # class 0: none, class 1: all
    assert value([picture], max_detections=2) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_plain_loops(seed: int):
    pictures = random_pictures(seed)
    assert value(pictures, 3) == pytest.approx(mean_ap(pictures, 3), abs=1e-6)
    for iou in (0.5, 0.75, 0.95):
        each = slow_ap(pictures, 3, iou)
        assert value(pictures, 3, iou=iou) == pytest.approx(sum(each) / 3, abs=1e-6)
        assert [value(pictures, 3, iou=iou, of=k) for k in range(3)] == pytest.approx(each, abs=1e-6)
    assert 0.05 < value(pictures, 3) < 0.95


@pytest.mark.parametrize("area", ["small", "medium", "large"])
def test_sizes_agree_with_plain_loops(area: Any):
    pictures = random_pictures(9, n=20, scale=150.0)
    assert value(pictures, 3, area=area) == pytest.approx(mean_ap(pictures, 3, area), abs=1e-6)


def test_few_detections_agree_with_plain_loops():
    pictures = random_pictures(5)
    assert value(pictures, 3, max_detections=2) == pytest.approx(mean_ap(pictures, 3, most=2), abs=1e-6)
    assert value(pictures, 3, max_detections=2) < value(pictures, 3)


def test_batches_of_any_size_and_order_give_one_value():
    pictures = random_pictures(1)
    metric = AveragePrecision(classes=3)
    for start, end in ((7, 12), (0, 1), (1, 7)):
        metric.update(*update(pictures[start:end], first_id=start))
    assert float(metric.compute()) == value(pictures, 3)


def test_equal_scores_do_not_depend_on_the_order_of_batches():
    pictures = [Picture([(SQUARE, 0, False)], [(SQUARE if k % 2 else AWAY, 0, 0.5)]) for k in range(6)]
    values = set()
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        metric = AveragePrecision(classes=1)
        for k in order:
            metric.update(*update([pictures[k]], first_id=k))
        values.add(float(metric.compute()))
    assert len(values) == 1


def test_no_ignored_boxes_need_be_given():
    found, batch = update(random_pictures(2))
    batch.pop("box_ignore")
    metric = AveragePrecision(classes=3)
    metric.update(found, batch)
    plain = [Picture([(box, label, False) for box, label, _ in p.target], p.found) for p in random_pictures(2)]
    assert float(metric.compute()) == pytest.approx(mean_ap(plain, 3), abs=1e-6)


def test_starting_again():
    metric = AveragePrecision(classes=2)
    metric.update(*update([Picture([(SQUARE, 0, False)], [])]))
    metric.reset()
    metric.update(*update([Picture([(SQUARE, 0, False)], [(SQUARE, 0, 0.9)])]))
    assert float(metric.compute()) == pytest.approx(1.0)


def test_several_metrics_evaluate_once(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    evaluate = precision._evaluate
    monkeypatch.setattr(precision, "_evaluate", lambda *given: calls.append(1) or evaluate(*given))
    given = update(random_pictures(3))
    metrics = [AveragePrecision(classes=3, **one) for one in ({}, {"iou": 0.5}, {"of": 1}, {"area": "small"})]
    for metric in metrics:
        metric.update(*given)
    first = [float(metric.compute()) for metric in metrics]
    assert len(calls) == 1
    assert len(set(first)) == 4
    other = AveragePrecision(classes=3)
    moved = given[0]._replace(boxes=given[0].boxes + 1)
    other.update(moved, given[1])
    other.compute()
    assert len(calls) == 2


def test_several_metrics_hold_detections_once():
    found, batch = update(random_pictures(3))
    metric = AveragePrecision(classes=3)
    metric.update(found, batch)
    assert metric.found_boxes[0].data_ptr() == found.boxes.data_ptr()
    assert metric.target_boxes[0].data_ptr() == batch["boxes"].data_ptr()


def test_what_ranks_have_seen_is_put_together():
    """As torchmetrics joins the states of two ranks: one after the other, then reduced."""
    pictures = random_pictures(4)
    ranks = [AveragePrecision(classes=3), AveragePrecision(classes=3)]
    for rank, metric in enumerate(ranks):
        rows = list(range(rank, len(pictures), 2))
        found, batch = update([pictures[row] for row in rows])
        metric.update(found, {**batch, "id": torch.tensor(rows)})
    joined = AveragePrecision(classes=3)
    joined._update_count = 1
    for name, reduce in joined._reductions.items():
        states = [state for metric in ranks for state in getattr(metric, name)]
        setattr(joined, name, reduce(states))  # a tensor, no list any more
    assert float(joined.compute()) == value(pictures, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iou": 0.52}, "iou=0.52: COCO evaluates at 0.5, 0.55, 0.6, ... 0.95"),
        ({"of": 2}, "of=2: the classes are 0 to 1"),
        ({"of": -1}, "of=-1: the classes are 0 to 1"),
        ({"max_detections": 0}, "max_detections=0 is below 1"),
    ],
)
def test_what_cannot_be(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        AveragePrecision(classes=2, **given)


def test_detections_of_other_pictures():
    found, _ = update(random_pictures(0, n=3))
    _, batch = update(random_pictures(0, n=2))
    with pytest.raises(ValueError, match="detections of 3 images, and boxes of 2"):
        AveragePrecision(classes=3).update(found, batch)

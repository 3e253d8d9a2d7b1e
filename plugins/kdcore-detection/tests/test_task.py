from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from kdcore.task import set_input_statistics
from kdcore.testing import check_task
from tiny import CLASSES, HEIGHT, WIDTH, batch, detector, task
from torch import nn
from torchmetrics import Metric

from kdcore_detection.detector import Detections, Detector
from kdcore_detection.task import Boxes


class Found(Metric):
    """Stands for the metric: how many detections there were."""

    takes = "detections_target"

    def __init__(self) -> None:
        super().__init__()
        self.add_state("number", torch.tensor(0))

    def update(self, detections: Detections, batch: dict[str, Any]) -> None:
        self.number = self.number + (detections.scores > 0).sum()

    def compute(self) -> torch.Tensor:
        return self.number


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "gfl"])
def test_it_keeps_what_a_task_promises(kind: str):
    check_task(task(), detector(kind), batch(), metric=Found())


def test_chance():
    assert task().chance() == 0.0


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="classes=0: there must be at least one to find"):
        Boxes(classes=0)


# --- signals


def test_positions_are_assigned_where_the_batch_holds_boxes():
    net, given = detector().eval(), batch()
    signals = task().signals(net, given, {})
    assert torch.equal(signals["assigned"], net.assign(signals, given))
    bare = task().signals(net, {"image": given["image"]}, {})
    assert signals.keys() - bare.keys() == {"assigned"}


def test_positions_are_assigned_once(monkeypatch: pytest.MonkeyPatch):
    net, calls = detector(), []
    match = net.match
    monkeypatch.setattr(net, "match", lambda *given: calls.append(1) or match(*given))
    task().signals(net, batch(), {})
    assert calls == [1]


@pytest.mark.parametrize("grad", [True, False])
def test_a_frozen_teacher_is_assigned_nothing(grad: bool, monkeypatch: pytest.MonkeyPatch):
    net, given = detector().requires_grad_(False), batch()
    monkeypatch.setattr(net, "match", lambda *_: pytest.fail("it was assigned"))
    with torch.set_grad_enabled(grad):
        assert "assigned" not in task().signals(net, given, {})
    monkeypatch.undo()
    net.head.classification_head.requires_grad_(True)  # a student of which a part is frozen
    with torch.set_grad_enabled(grad):
        assert "assigned" in task().signals(net, given, {})


def test_each_net_gets_its_own_mean_and_std():
    net, other, given = detector().eval(), detector().eval(), batch(1)
    set_input_statistics(other, [0.5] * 3, [0.25] * 3)
    ours = task().signals(other, given, {})["logits"]
    expected = net((given["image"] - 0.5) / 0.25)["logits"]
    torch.testing.assert_close(ours, expected)


def test_a_model_without_assignment_has_none():
    class Matches(Detector):
        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": torch.zeros(len(image), 2, CLASSES), "boxes": torch.zeros(len(image), 2, 4)}

    assert task().signals(Matches(), batch(), {}).keys() == {"logits", "boxes"}


def test_a_batch_without_image_is_refused():
    with pytest.raises(KeyError, match="the task `boxes` reads `image`, the batch holds: boxes, id"):
        task().signals(detector(), {"boxes": 0, "id": 0}, {})


def test_a_classifier_is_refused():
    words = "a Linear gives no boxes: the task `boxes` runs detectors, such as `detection.fcos`"
    with pytest.raises(ValueError, match=words):
        task().signals(nn.Linear(1, 1), batch(), {})


# --- observe


def test_what_metrics_take():
    made, net, given = task(), detector().eval(), batch()
    with torch.no_grad():
        signals, teacher = made.signals(net, given, {}), made.signals(detector("fcos", width=24).eval(), given, {})
    observed = made.observe(signals, {"teacher": teacher}, given)
    found, target = observed["detections_target"]
    assert target is given
    assert found.boxes.min() >= 0
    assert found.boxes[..., [0, 2]].max() <= WIDTH
    assert found.boxes[..., [1, 3]].max() <= HEIGHT
    assert signals["boxes"].min() < 0  # what losses read is not clipped
    assert observed["student_teacher"][1] is teacher["logits"]


def test_of_several_models_each_decodes_its_own():
    made, given = task(), batch()
    few, many = detector(detections=3).eval(), detector(detections=50).eval()
    with torch.no_grad():
        signals = [made.signals(net, given, {}) for net in (few, many)]
    found = [made.observe(each, {}, given)["detections_target"][0] for each in signals]
    assert [each.scores.shape[1] for each in found] == [3, 50]


def test_signals_that_taps_were_added_to_are_known():
    made, net, given = task(), detector().eval(), batch()
    signals = {**made.signals(net, given, {}), "tap.x": torch.zeros(1)}
    assert "detections_target" in made.observe(signals, {}, given)


def test_nothing_is_observed_without_boxes():
    made, given = task(), batch()
    signals = made.signals(detector(), given, {})
    assert made.observe(signals, {}, {"image": given["image"]}) == {}


def test_logits_of_other_positions_are_not_compared():
    made, given = task(), batch()
    signals, teacher = (made.signals(detector(kind), given, {}) for kind in ("fcos", "retinanet"))
    assert made.observe(signals, {"teacher": teacher}, given).keys() == {"detections_target"}


def test_boxes_that_no_detector_gave_are_refused():
    made, given = task(), batch()
    signals = made.signals(detector(), given, {})
    with pytest.raises(ValueError, match=r"combined from several models, or read from a file, .*: score its members"):
        made.observe({**signals, "boxes": signals["boxes"] + 1}, {}, given)


def test_signals_that_are_gone_keep_no_net_alive():
    made, given = task(), batch()
    for _ in range(3):
        made.signals(detector(), given, {})
    assert len(made._made_by) == 0


def test_a_copy_of_the_task_works():
    made = task()
    kept = made.signals(detector(), batch(), {})
    again = copy.deepcopy(made)
    signals = again.signals(detector(), batch(), {})
    assert "detections_target" in again.observe(signals, {}, batch())
    assert "boxes" in kept


# --- example


def test_an_example_has_a_box_in_every_image():
    example = task().example(2)
    assert example["image"].shape == (2, 3, HEIGHT, WIDTH)
    assert 0 <= example["image"].min() < example["image"].max() < 1
    assert example["boxes"].tolist() == [[[24, 16, 72, 48]]] * 2
    assert example["box_labels"].tolist() == [[0], [0]]
    signals = task().signals(detector(), example, {})
    assert ((signals["assigned"] == 0).sum(1) > 0).all()


def test_an_example_without_facts_says_which_is_missing():
    with pytest.raises(ValueError, match="channels, image_height, image_width, and the data gives no image_height"):
        task(channels=3).example(1)

from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.task import set_input_statistics
from kdcore.testing import check_task, samples
from torch import Tensor, nn

from kdcore_segmentation.metrics import MeanIoU
from kdcore_segmentation.task import Semantic

FACTS = {"classes": 3, "channels": 2, "image_height": 6, "image_width": 8}


def task(**facts: int) -> Semantic:
    semantic = Semantic(classes=3)
    semantic.facts = {**(facts or FACTS), **semantic.facts}  # as the builder completes them
    return semantic


class Returns(nn.Module):
    """A model that returns what it is told."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


def net(stride: int = 1) -> nn.Module:
    return nn.Conv2d(2, 3, 3, stride=stride, padding=1)


def test_it_keeps_what_a_task_promises():
    made = Semantic(classes=samples.CLASSES)
    made.facts |= {"channels": 3, "image_height": 6, "image_width": 8}  # as the data completes them
    metric = MeanIoU(classes=samples.CLASSES)
    coarse = nn.Sequential(samples.map_net(), nn.AvgPool2d(2))
    for model in (samples.map_net(), coarse):
        check_task(made, model, samples.maps()["batch"], metric=metric)


def test_chance():
    assert task().chance() == pytest.approx(1 / 3)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes: int):
    with pytest.raises(ValueError, match=f"classes={classes}: there must be at least two"):
        Semantic(classes=classes)


def test_one_class_everywhere_and_guessing_are_at_most_chance():
    """What :meth:`Semantic.chance` claims, on labels of very unequal classes."""
    labels = torch.multinomial(torch.tensor([0.9, 0.07, 0.03]), 60 * 60, replacement=True).view(1, 60, 60)
    guesses = [torch.eye(3)[c].view(1, 3, 1, 1).expand(1, 3, 60, 60) for c in range(3)]
    for logits in (*guesses, torch.rand(1, 3, 60, 60)):
        metric = MeanIoU(classes=3)
        metric.update(logits, labels)
        assert metric.compute() < task().chance()


# --- example ----------------------------------------------------------------------------------------------------------


def test_an_example_is_a_whole_image():
    example = task().example(4)
    assert example["image"].shape == (4, 2, 6, 8)
    assert 0 <= example["image"].min() < example["image"].max() < 1
    assert example["labels"].shape == (4, 6, 8)
    assert example["labels"].dtype == torch.int64


def test_an_example_without_facts_says_which_is_missing():
    with pytest.raises(ValueError, match="channels, image_height, image_width, and the data gives no image_height"):
        task(classes=3, channels=3).example(1)


# --- signals ----------------------------------------------------------------------------------------------------------


def test_logits_of_the_image_s_size_are_the_model_s_own():
    model, batch = net(), task().example(2)
    signals = task().signals(model, batch, {})
    assert list(signals) == ["logits"]
    assert torch.equal(signals["logits"], model(batch["image"]))
    assert signals["logits"].requires_grad


def test_coarser_logits_are_enlarged_once():
    model, batch = net(stride=2), task().example(2)
    found = task().signals(model, batch, {})["logits"]
    assert found.shape == (2, 3, 6, 8)
    coarse = model(batch["image"])
    assert coarse.shape == (2, 3, 3, 4)
    # bilinear with pixels as areas: a corner is the coarse corner itself, between two centres their mixture
    torch.testing.assert_close(found[..., 0, 0], coarse[..., 0, 0])
    torch.testing.assert_close(found[..., 0, 1], 0.75 * coarse[..., 0, 0] + 0.25 * coarse[..., 0, 1])


def test_crops_are_as_good_as_whole_images():
    batch = {"image": torch.rand(2, 2, 4, 4)}
    assert task().signals(net(stride=2), batch, {})["logits"].shape == (2, 3, 4, 4)


def test_each_net_is_given_the_input_it_was_trained_on():
    batch, plain, own = task().example(2), net(), net()
    own.load_state_dict(plain.state_dict())
    set_input_statistics(own, [0.2, 0.4], [0.5, 2.0])
    mean, std = torch.tensor([0.2, 0.4]).view(1, 2, 1, 1), torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(task().signals(own, batch, {})["logits"], plain((batch["image"] - mean) / std))
    torch.testing.assert_close(task().signals(plain, batch, {})["logits"], plain(batch["image"]))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            torch.zeros(2, 5, 6, 8),
            r"gives 5 classes, the task has 3: set `classes: 3` in the model's slot, or `classes: 5` under `task`",
        ),
        (torch.zeros(2, 3), r"returned the shape \(2, 3\); a segmentation net returns logits \(N, 3, h, w\)"),
        ((torch.zeros(2, 3, 6, 8), None), r"returned a tuple; a segmentation net returns logits \(N, 3, h, w\)"),
        ({"out": torch.zeros(2, 3, 6, 8)}, "returned a dict; a segmentation net"),
    ],
)
def test_a_model_that_gives_something_else_is_named(output: Any, message: str):
    with pytest.raises(ValueError, match=message):
        task().signals(Returns(output), task().example(2), {})


def test_a_batch_without_an_image_is_named():
    with pytest.raises(KeyError, match="the task `semantic` reads `image`, the batch holds: id, labels"):
        task().signals(net(), {"labels": torch.zeros(2), "id": torch.zeros(2)}, {})


# --- observe ----------------------------------------------------------------------------------------------------------


def test_metrics_are_given_logits_labels_and_the_first_teacher():
    student, first, second = ({"logits": torch.rand(2, 3, 6, 8)} for _ in range(3))
    batch = {"labels": torch.zeros(2, 6, 8, dtype=torch.int64)}
    observed = task().observe(student, {"first": first, "second": second}, batch)
    assert observed["preds_target"] == (student["logits"], batch["labels"])
    assert observed["student_teacher"] == (student["logits"], first["logits"])
    assert set(task().observe(student, {}, batch)) == {"preds_target"}
    assert task().observe(student, {}, {}) == {}


# --- deploy -----------------------------------------------------------------------------------------------------------


def test_what_is_shipped_takes_raw_images_and_gives_probabilities():
    model = net(stride=2)
    set_input_statistics(model, [0.2], [0.5])
    deployed = task().deploy(model)
    batch = task().example(3)
    found = deployed(batch["image"])
    assert found.shape == (3, 3, 6, 8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(3, 6, 8))
    torch.testing.assert_close(found, task().signals(model, batch, {})["logits"].softmax(1))
    assert not deployed.training


def test_a_half_precision_net_is_shipped_with_full_precision_answers():
    model = net().bfloat16()
    assert task().deploy(model)(torch.rand(1, 2, 6, 8).bfloat16()).dtype == torch.float32


def test_what_is_shipped_can_be_exported(tmp_path: Any):
    from kdcore.run.exporters import torch_export

    (path,) = torch_export(task().deploy(net(stride=2)), (task().example(3)["image"],), tmp_path)
    loaded = torch.export.load(path).module()
    assert loaded(torch.rand(5, 2, 6, 8)).shape == (5, 3, 6, 8)

"""Image classification, from a batch to signals, metrics' arguments and the net as it is shipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.models.convnet import ConvNet
from kdcore.models.mlp import MLP
from kdcore.task import set_input_statistics
from kdcore.tasks.classify import Classify

IMAGE_FACTS = {"classes": 3, "channels": 2, "image_height": 5, "image_width": 4, "features": 40}


def task(**facts: int) -> Classify:
    classify = Classify(classes=3)
    classify.facts = {**(facts or IMAGE_FACTS), **classify.facts}  # as the builder completes them
    return classify


class Returns(nn.Module):
    """A model that returns what it is told."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


def test_contract() -> None:
    assert Classify(classes=4).facts == {"classes": 4}
    assert Classify.primary == ("accuracy", "max")
    assert Classify.class_axis == -1
    assert task().chance() == pytest.approx(1 / 3)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=f"classes={classes}: there must be at least two"):
        Classify(classes=classes)


# --- example ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("facts", "shape"), [(IMAGE_FACTS, (2, 5, 4)), ({"features": 40}, (40,))])
def test_an_example_has_the_shapes_of_the_facts_and_is_always_the_same(
    facts: dict[str, int], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    example = task(**facts).example(6)
    assert example["image"].shape == (6, *shape)
    assert 0 <= example["image"].min() < example["image"].max() < 1
    assert example["labels"].tolist() == [0] * 6
    assert example["id"].tolist() == list(range(6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(task(**facts).example(6)["image"], example["image"])


def test_an_example_without_facts_says_which_are_missing() -> None:
    with pytest.raises(
        ValueError, match=r"needs the facts channels, image_height and image_width, or features; known are: classes"
    ):
        Classify(classes=3).example(1)


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [ConvNet(classes=3, channels=2, width=4), MLP(classes=3, features=40, hidden=[8])])
def test_logits_are_the_model_s(net: nn.Module) -> None:
    net.eval()
    batch = task().example(4)
    signals = task().signals(net, batch, {})
    assert list(signals) == ["logits"]
    torch.testing.assert_close(signals["logits"], net(batch["image"]))
    assert signals["logits"].requires_grad


def test_each_net_is_given_the_input_it_was_trained_on() -> None:
    batch = task().example(4)
    plain, own = (MLP(classes=3, features=40, hidden=[]) for _ in range(2))
    own.load_state_dict(plain.state_dict())
    set_input_statistics(own, [0.2, 0.4], [0.5, 2.0])
    mean, std = torch.tensor([0.2, 0.4]).view(1, 2, 1, 1), torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(task().signals(own, batch, {})["logits"], plain((batch["image"] - mean) / std))
    torch.testing.assert_close(task().signals(plain, batch, {})["logits"], plain(batch["image"]))


def test_labels_are_not_needed() -> None:
    batch = task().example(2)
    del batch["labels"]
    signals = task().signals(MLP(classes=3, features=40), batch, {})
    assert task().observe(signals, {}, batch) == {}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            torch.zeros(2, 5),
            r"gives 5 classes, the task has 3: set `classes: 3` in the model's slot, or `classes: 5` under `task`",
        ),
        (torch.zeros(2, 3, 1, 1), r"returned the shape \(2, 3, 1, 1\); a classifier returns logits \(N, 3\)"),
        (torch.zeros(3), r"returned the shape \(3,\); a classifier returns logits \(N, 3\)"),
        ((torch.zeros(2, 3), None), r"returned a tuple; a classifier returns logits \(N, 3\)"),
        ({"logits": torch.zeros(2, 3)}, r"returned a dict; a classifier returns"),
    ],
)
def test_a_model_that_gives_something_else_is_named(output: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task().signals(Returns(output), task().example(2), {})


def test_a_batch_without_an_image_is_named() -> None:
    with pytest.raises(KeyError, match="the task `classify` reads `image`, the batch holds: id, labels"):
        task().signals(Returns(torch.zeros(2, 3)), {"labels": torch.zeros(2), "id": torch.zeros(2)}, {})


# --- observe ----------------------------------------------------------------------------------------------------------


def test_metrics_are_given_logits_labels_and_the_first_teacher() -> None:
    student, first, second = ({"logits": torch.rand(2, 3)} for _ in range(3))
    batch = {"labels": torch.tensor([1, -100])}
    observed = task().observe(student, {"first": first, "second": second}, batch)
    assert set(observed) == {"preds_target", "student_teacher"}
    assert observed["preds_target"][0] is student["logits"]
    assert observed["preds_target"][1] is batch["labels"]
    assert observed["student_teacher"][0] is student["logits"]
    assert observed["student_teacher"][1] is first["logits"]


def test_without_a_teacher_there_is_nothing_to_compare() -> None:
    observed = task().observe({"logits": torch.rand(2, 3)}, {}, {"labels": torch.tensor([1, 2])})
    assert set(observed) == {"preds_target"}


# --- deploy -----------------------------------------------------------------------------------------------------------


def trained() -> ConvNet:
    torch.manual_seed(0)
    net = ConvNet(classes=3, channels=2, width=4)
    net(torch.rand(16, 2, 5, 4))  # moves the running statistics away from 0 and 1
    set_input_statistics(net, [0.5], [0.25])
    return net


def test_the_shipped_net_normalises_and_answers_with_probabilities() -> None:
    net = trained()
    shipped = task().deploy(net)
    image = task().example(4)["image"]
    probabilities = shipped(image)
    assert not net.training
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    torch.testing.assert_close(probabilities, net((image - 0.5) / 0.25).softmax(-1))
    torch.testing.assert_close(probabilities[1:2], shipped(image[1:2]))


def test_a_half_precision_net_answers_in_float32() -> None:
    net = trained().to(torch.bfloat16)
    assert task().deploy(net)(task().example(2)["image"].bfloat16()).dtype == torch.float32


def test_the_shipped_net_exports_with_any_batch() -> None:
    shipped = task().deploy(trained())
    example = task().example(3)["image"]
    program = torch.export.export(shipped, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for n in (1, 2, 17):
        image = task().example(n)["image"]
        torch.testing.assert_close(program.module()(image), shipped(image))

"""The contract of a task, and the normalisation that every task shares."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from kdcore.task import Task, check_logits, compare_logits, evaluating, normalise, set_input_statistics


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("signals", (nn.Identity(), {}, {})),
        ("example", (1,)),
        ("deploy", (nn.Identity(),)),
    ],
)
def test_what_a_task_must_implement_is_named(method: str, arguments: tuple[Any, ...]) -> None:
    class Half(Task):
        """A task that is not finished."""

    with pytest.raises(NotImplementedError, match=rf"Half does not implement {method}\("):
        getattr(Half(), method)(*arguments)


def test_what_a_task_may_leave_as_it_is() -> None:
    task, batch = Task(), {"id": torch.arange(2)}
    assert task.prepare(batch, lambda _: nn.Identity()) is batch
    assert task.chance() is None
    assert (task.primary, task.class_axis, task.fact_names) == (("accuracy", "max"), -1, ())


def test_logits_are_compared_with_labels_and_with_the_first_teacher() -> None:
    student, first, second = ({"logits": torch.rand(2, 3)} for _ in range(3))
    labels = torch.tensor([0, 2])
    observed = compare_logits(student, {"a": first, "b": second}, {"labels": labels})
    assert observed["preds_target"][0] is student["logits"]
    assert observed["preds_target"][1] is labels
    assert observed["student_teacher"][0] is student["logits"]
    assert observed["student_teacher"][1] is first["logits"]


def test_a_task_over_logits_need_not_say_what_is_compared() -> None:
    student, teacher, labels = {"logits": torch.rand(2, 3)}, {"logits": torch.rand(2, 3)}, torch.tensor([0, 2])
    observed = Task().observe(student, {"teacher": teacher}, {"labels": labels})
    assert observed == compare_logits(student, {"teacher": teacher}, {"labels": labels})
    assert set(observed) == {"preds_target", "student_teacher"}


def test_nothing_is_compared_that_is_not_there() -> None:
    student = {"logits": torch.rand(2, 3)}
    assert compare_logits(student, {}, {}) == {}
    assert set(compare_logits(student, {}, {"labels": torch.zeros(2)})) == {"preds_target"}
    assert set(compare_logits(student, {"t": student}, {})) == {"student_teacher"}


WANTED = "a net returns logits (N, {classes}, T)"


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ((torch.rand(2, 3, 4),), "the model returned a tuple; a net returns logits (N, 3, T)"),
        (None, "the model returned a NoneType; a net returns logits (N, 3, T)"),
        (torch.rand(2, 3), "the model returned the shape (2, 3); a net returns logits (N, 3, T)"),
        (
            torch.rand(2, 5, 4),
            "the model gives 5 classes, the task has 3: set `classes: 3` in the model's slot, or `classes: 5` under "
            "`task` if the model is right",
        ),
    ],
)
def test_logits_of_another_shape_are_refused_with_what_to_set(logits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_logits(logits, 3, ndim=3, wanted=WANTED)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (4, 3, 5, 6, 2)])
@pytest.mark.parametrize(
    ("mean", "std"), [([0.1, 0.2, 0.3], [1.0, 2.0, 4.0]), ([0.5], [0.25]), ([0.5], None), (None, [2.0]), (None, None)]
)
def test_normalisation_is_by_channel(shape: tuple[int, ...], mean: list[float] | None, std: list[float] | None) -> None:
    net = nn.Identity()
    set_input_statistics(net, mean, std)
    x = torch.rand(shape)
    result = normalise(net, x)
    for channel in range(3):
        expected = x[:, channel] - (mean[channel % len(mean)] if mean else 0)
        expected = expected / (std[channel % len(std)] if std else 1)
        torch.testing.assert_close(result[:, channel], expected)


def test_a_net_without_statistics_is_given_its_input_untouched() -> None:
    x = torch.rand(2, 3)
    assert normalise(nn.Identity(), x) is x


def test_statistics_move_with_the_net_and_stay_out_of_its_weights() -> None:
    net = nn.Linear(2, 2)
    set_input_statistics(net, [0.5], [0.5])
    assert set(net.state_dict()) == {"weight", "bias"}
    net.double()
    assert normalise(net, torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_new_statistics_replace_the_old() -> None:
    net = nn.Identity()
    set_input_statistics(net, [0.5], [0.5])
    set_input_statistics(net, [1.0], None)
    assert normalise(net, torch.full((1, 1), 3.0)).item() == 2.0


def test_evaluating_puts_every_module_back_into_its_own_mode() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Dropout())
    model[0].eval()
    model[0][1].train()
    before = [module.training for module in model.modules()]
    during: list[bool] = []

    def failing() -> None:
        with evaluating([model]):
            during.extend(module.training for module in model.modules())
            raise KeyError("whatever happens")

    with pytest.raises(KeyError, match="whatever happens"):
        failing()
    assert not any(during)
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2


def test_the_facts_of_an_example_are_all_there_or_one_is_named():
    task = Task()
    task.facts = {"channels": 3, "image_height": 8}
    assert task.facts_of_example("image_height", "channels") == (8, 3)
    with pytest.raises(
        ValueError, match=r"^an example needs the facts channels, image_width, and the data gives no image_"
    ):
        task.facts_of_example("channels", "image_width")

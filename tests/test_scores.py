"""The metrics of one model: who gets what, and what is left out where there is no teacher."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric
from toy_stage import Vectors, batch_of

from kdcore.errors import RunError
from kdcore.metrics.accuracy import Accuracy
from kdcore.metrics.agreement import Agreement
from kdcore.scores import Scores, takes, to_device


class Told(Metric):
    """Gives what it is told."""

    takes = "preds_target"

    def __init__(self, value: Any, takes: str = "preds_target") -> None:
        super().__init__()
        self.value, self.takes = value, takes
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, *given: Tensor) -> None:
        self.n += 1

    def compute(self) -> Any:
        return self.value


def one_hot(*classes: int) -> dict[str, Tensor]:
    return {"logits": torch.nn.functional.one_hot(torch.tensor(classes), 3).float()}


LABELS = {"labels": torch.tensor([0, 1, 2, -100])}
STUDENT, TEACHER = one_hot(0, 1, 0, 0), one_hot(0, 0, 0, 1)  # two of three right; two of four alike


def scores() -> Scores:
    return Scores({"accuracy": Accuracy(), "agreement": Agreement()})


def test_each_metric_gets_what_it_takes() -> None:
    found = scores()
    found.update(Vectors(), STUDENT, {"teacher": TEACHER}, LABELS)
    assert found.compute() == {"accuracy": pytest.approx(2 / 3), "agreement": pytest.approx(0.5)}


def test_batches_add_up() -> None:
    found = scores()
    found.update(Vectors(), STUDENT, {"teacher": TEACHER}, LABELS)
    found.update(Vectors(), one_hot(1), {"teacher": one_hot(1)}, {"labels": torch.tensor([1])})
    assert found.compute() == {"accuracy": pytest.approx(3 / 4), "agreement": pytest.approx(3 / 5)}


def test_computing_starts_again() -> None:
    found = scores()
    found.update(Vectors(), STUDENT, {"teacher": TEACHER}, LABELS)
    found.compute()
    assert found.compute() == {}
    found.update(Vectors(), one_hot(1), {}, {"labels": torch.tensor([1])})
    assert found.compute() == {"accuracy": 1.0}


def test_reset_forgets() -> None:
    found = scores()
    found.update(Vectors(), STUDENT, {"teacher": TEACHER}, LABELS)
    found.reset()
    assert found.compute() == {}


def test_without_a_teacher_what_compares_is_left_out() -> None:
    found = scores()
    found.update(Vectors(), STUDENT, {}, LABELS)
    assert found.compute() == {"accuracy": pytest.approx(2 / 3)}


@pytest.mark.parametrize(("metrics", "expected"), [({"a": Accuracy()}, False), ({"b": Agreement()}, True), ({}, False)])
def test_need_teacher(metrics: dict[str, Metric], expected: bool) -> None:
    assert Scores(metrics).need_teacher is expected


@pytest.mark.parametrize(
    ("batch", "teachers", "observed"),
    [({}, {"teacher": TEACHER}, "student_teacher"), ({}, {}, "nothing")],
)
def test_a_metric_that_takes_what_the_task_does_not_observe(
    batch: dict[str, Any], teachers: dict[str, Any], observed: str
) -> None:
    expected = (
        f"metric `accuracy` takes `preds_target`, and of this batch the task observes {observed}: are there labels"
    )
    with pytest.raises(RunError, match=expected):
        scores().update(Vectors(), STUDENT, teachers, batch)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.zeros(3), r"\(3,\) values"), ({"map": torch.tensor(1.0)}, "a dict"), (0.5, "a float")],
)
def test_a_metric_that_gives_no_single_number(value: Any, kind: str) -> None:
    found = Scores({"map": Told(value)})
    found.update(Vectors(), STUDENT, {}, LABELS)
    with pytest.raises(RunError, match=f"metric `map` gives {kind}; a metric gives one number, so make one for each"):
        found.compute()


def test_a_number_in_a_vector_of_one_is_a_number() -> None:
    found = Scores({"x": Told(torch.tensor([0.25]))})
    found.update(Vectors(), STUDENT, {}, LABELS)
    assert found.compute() == {"x": 0.25}


def test_scores_of_each_sample() -> None:
    found = scores().per_sample("accuracy", Vectors(), STUDENT, {"teacher": TEACHER}, LABELS)
    assert found is not None
    assert found[:3].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("metrics", "batch"),
    [
        ({"accuracy": Accuracy()}, {}),  # nothing observed
        ({"accuracy": Told(torch.tensor(1.0))}, LABELS),  # no `scores`
        ({"other": Accuracy()}, LABELS),  # no such metric
    ],
)
def test_no_scores_of_each_sample(metrics: dict[str, Metric], batch: dict[str, Any]) -> None:
    assert Scores(metrics).per_sample("accuracy", Vectors(), STUDENT, {}, batch) is None


class Rate(Told):
    """Wrong answers of all answers: no mean over samples, where these have several positions each."""

    def shares(self, preds: Tensor, target: Tensor) -> Tensor:
        return torch.stack([preds.argmax(-1) != target, torch.ones_like(target)], -1).float()

    def value_of(self, share: Tensor) -> Tensor:
        return share[..., 0] / share[..., 1]


def test_shares_of_each_sample_and_what_makes_the_metric_of_them() -> None:
    found = Scores({"rate": Rate(0.0), "accuracy": Accuracy()})
    shares = found.per_sample("rate", Vectors(), STUDENT, {}, LABELS)
    value_of = found.value_of("rate")
    assert shares is not None
    assert shares.tolist() == [[0, 1], [0, 1], [1, 1], [1, 1]]
    assert value_of is not None
    assert value_of(shares.sum(0)) == 0.5


def test_no_share_where_a_metric_gives_scores_or_nothing() -> None:
    found = Scores({"accuracy": Accuracy(), "told": Told(1.0)})
    assert [found.value_of(name) for name in ("accuracy", "told", "other")] == [None, None, None]


def test_takes_is_the_metrics_word() -> None:
    assert takes(Told(0.0, takes="boxes")) == "boxes"
    assert takes(Accuracy()) == "preds_target"


def test_a_plugins_own_word_must_be_observed() -> None:
    with pytest.raises(RunError, match=r"metric `map` takes `boxes`, .* observes preds_target: "):
        Scores({"map": Told(0.0, takes="boxes")}).update(Vectors(), STUDENT, {}, LABELS)


def test_a_batch_goes_to_the_device_with_all_that_is_nested_in_it() -> None:
    batch = {
        **batch_of(),
        "name": "x",
        "views": {"weak": {"x": torch.ones(2)}},
        "boxes": [torch.ones(1), (torch.ones(2),)],
    }
    moved = to_device(batch, torch.device("meta"))
    assert moved["x"].is_meta
    assert moved["views"]["weak"]["x"].is_meta
    assert moved["boxes"][0].is_meta
    assert isinstance(moved["boxes"][1], tuple)
    assert moved["boxes"][1][0].is_meta
    assert moved["name"] == "x"
    assert not batch["x"].is_meta


def test_a_named_tuple_stays_one() -> None:
    pair = namedtuple("Pair", "first second")(torch.ones(1), 2)
    moved = to_device(pair, torch.device("meta"))
    assert type(moved) is type(pair)
    assert moved.first.is_meta
    assert moved.second == 2


class Comparing(Told):
    """Reads the teacher where there is one."""

    compares = True


@pytest.mark.parametrize(
    ("metrics", "needs", "compares"),
    [
        ({"told": Told(1.0)}, False, False),
        ({"told": Told(1.0), "agreement": Told(1.0, "student_teacher")}, True, False),
        ({"told": Comparing(1.0)}, True, True),
        ({}, False, False),
    ],
)
def test_which_metrics_want_a_teacher(metrics: dict[str, Metric], needs: bool, compares: bool) -> None:
    found = Scores(metrics)
    assert (found.need_teacher, found.compares) == (needs, compares)


def test_a_metric_that_compares_is_filled_without_a_teacher_too() -> None:
    found = Scores({"told": Comparing(torch.tensor(0.5))})
    found.update(Vectors(), STUDENT, {}, LABELS)
    assert found.compute() == {"told": 0.5}

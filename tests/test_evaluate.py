"""Scoring on a split: whom, how, and everything as it was afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from toy_stage import Vectors, batch_of, net

from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.evaluate import evaluate
from kdcore.metrics.accuracy import Accuracy
from kdcore.metrics.agreement import Agreement
from kdcore.scores import Scores
from kdcore.signals import Batch
from kdcore.teachers import Frozen, ensemble

CPU = torch.device("cpu")


def cast_of() -> Cast:
    trained = {"student": net(1, norm=True)}
    return Cast(
        Vectors(), trained, {"a": Frozen(net(2)), "b": Frozen(net(3))}, ensembles={"both": ensemble(of=["a", "b"])}
    )


def scores() -> Scores:
    return Scores({"accuracy": Accuracy(), "agreement": Agreement()})


def batches(sizes: tuple[int, ...] = (5, 8, 3)) -> list[Batch]:
    return [batch_of(n, seed) for seed, n in enumerate(sizes)]


def right(cast: Cast, name: str) -> torch.Tensor:
    model = cast.module(name).eval()
    return torch.cat([model(batch["x"]).argmax(-1) == batch["labels"] for batch in batches()]).float()


def test_metrics_are_those_of_the_whole_split() -> None:
    cast = cast_of()
    expected = {name: right(copy.deepcopy(cast), name).mean().item() for name in ("student", "a")}
    found, per_sample = evaluate(cast, {"student": scores(), "a": scores()}, batches(), CPU)
    assert found == {name: {"accuracy": pytest.approx(value)} for name, value in expected.items()}
    assert per_sample == {}


def test_each_model_is_compared_with_its_own_first_teacher() -> None:
    cast = cast_of()
    alike = torch.cat(
        [cast.module("a")(batch["x"]).argmax(-1) == cast.module("b")(batch["x"]).argmax(-1) for batch in batches()]
    )
    found, _ = evaluate(cast, {"a": scores(), "b": scores()}, batches(), CPU, teachers={"a": ("b", "a")})
    assert found["a"]["agreement"] == pytest.approx(alike.float().mean().item())
    assert "agreement" not in found["b"]


def test_a_teacher_that_is_also_scored_is_run_once() -> None:
    cast = cast_of()
    evaluate(cast, {"student": scores(), "a": scores()}, batches(), CPU, teachers={"student": ("a",)})
    assert isinstance(cast.task, Vectors)
    assert len(cast.task.calls) == 2 * len(batches())
    assert not any(grad for _, grad, *_ in cast.task.calls)


def test_an_ensemble_is_scored_without_its_members() -> None:
    found, _ = evaluate(cast_of(), {"both": scores()}, batches(), CPU)
    assert found.keys() == {"both"}


def test_scores_of_each_sample_are_in_the_order_of_the_split() -> None:
    cast = cast_of()
    expected = right(copy.deepcopy(cast), "student")
    _, per_sample = evaluate(cast, {"student": scores(), "a": Scores({})}, batches(), CPU, per_sample="accuracy")
    assert per_sample.keys() == {"student"}
    assert per_sample["student"].tolist() == expected.tolist()


def test_a_model_being_trained_is_as_before() -> None:
    cast = cast_of()
    student = cast.trained["student"].train()
    student[1].eval()
    state, modes = copy.deepcopy(student.state_dict()), [module.training for module in student.modules()]
    evaluate(cast, {"student": scores()}, batches(), CPU)
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
    assert [module.training for module in student.modules()] == modes


def test_modes_come_back_also_when_scoring_fails() -> None:
    cast = cast_of()

    def broken() -> Iterator[Batch]:
        yield batch_of()
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        evaluate(cast, {"student": scores()}, broken(), CPU)
    assert cast.trained["student"].training


def test_batch_norm_uses_its_statistics() -> None:
    cast = cast_of()
    one, _ = evaluate(cast, {"student": scores()}, batches(), CPU)
    other, _ = evaluate(
        cast,
        {"student": scores()},
        [{k: v[i : i + 1] for k, v in b.items()} for b in batches() for i in range(len(b["id"]))],
        CPU,
    )
    assert one == other


def test_an_empty_split() -> None:
    with pytest.raises(RunError, match="there is no sample to score `student`, `a` on: the split is empty"):
        evaluate(cast_of(), {"student": scores(), "a": scores()}, [], CPU)


def test_everything_goes_to_the_device() -> None:
    cast = cast_of()
    found = {"student": scores()}
    with pytest.raises(RunError, match="empty"):
        evaluate(cast, found, [], torch.device("meta"))
    modules = [cast.module(name) for name in ("student", "a", "b")]
    assert all(p.is_meta for module in modules for p in module.parameters())
    assert found["student"].metrics["accuracy"].device.type == "meta"

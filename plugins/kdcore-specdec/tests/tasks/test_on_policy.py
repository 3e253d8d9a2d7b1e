from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from made import llama

from kdcore.testing import check_task
from kdcore_specdec.data.packing import Rows
from kdcore_specdec.metrics.acceptance import ExpectedAcceptance
from kdcore_specdec.sampling import Continuation, continued
from kdcore_specdec.tasks.on_policy import OnPolicy

MODELS = {"draft": llama(seed=0, layers=1), "target": llama(seed=1)}


def task(**given: Any) -> OnPolicy:
    settings = {"draft": "draft", "target": "target", "temperature": 0.0, "packed": False, **given}
    return OnPolicy(vocabulary=40, length=8, end_token=39, pad_token=38, **settings)


def batch() -> dict[str, Any]:
    return {**task().example(3), "labels": torch.full((3, 8), -100).index_fill(1, torch.tensor([3, 4]), 1)}


def test_it_keeps_what_a_task_promises() -> None:
    made = task(of_draft=0.5, of_target=0.5)
    check_task(made, MODELS["draft"], batch(), metric=ExpectedAcceptance(), models=MODELS)


def said_by(name: str) -> Rows:
    given = batch()
    rows = Rows(given["input_ids"], given["labels"], given["segment"])
    return continued(MODELS[name], rows, Continuation(temperature=0.0), end=39, pad=38, seed=0)


@pytest.mark.parametrize(("shares", "who"), [((1.0, 0.0), "draft"), ((0.0, 1.0), "target")])
def test_who_continues_the_rows(shares: tuple[float, float], who: str) -> None:
    found = task(of_draft=shares[0], of_target=shares[1]).prepare(batch(), MODELS.__getitem__)
    wanted = said_by(who)
    assert torch.equal(found["input_ids"], wanted.input_ids)
    assert torch.equal(found["labels"], wanted.labels)
    assert torch.equal(found["segment"], wanted.segment)
    assert torch.equal(found["id"], batch()["id"])
    assert torch.equal(found["input_ids"][:, :4], batch()["input_ids"][:, :4])  # the prompt


def turns(one: OnPolicy, steps: int) -> list[str]:
    asked: list[str] = []

    def models(name: str) -> Any:
        asked.append(name)
        return MODELS[name]

    for _ in range(steps):
        before = len(asked)
        one.prepare(batch(), models)
        if len(asked) == before:
            asked.append("data")
    return asked


def test_shares_of_the_steps() -> None:
    torch.manual_seed(0)
    found = turns(task(of_draft=0.5, of_target=0.25, new_tokens=1), 200)
    assert [found.count(who) for who in ("draft", "target", "data")] == pytest.approx([100, 50, 50], abs=20)
    assert turns(task(of_draft=0.0), 5) == ["data"] * 5


def test_the_random_state_decides_all() -> None:
    one = task(of_draft=0.5, of_target=0.5, temperature=1.0)
    torch.manual_seed(3)
    first = [one.prepare(batch(), MODELS.__getitem__)["input_ids"] for _ in range(4)]
    torch.manual_seed(3)
    again = [one.prepare(batch(), MODELS.__getitem__)["input_ids"] for _ in range(4)]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])


def test_the_batch_is_left_alone() -> None:
    given = batch()
    task().prepare(given, MODELS.__getitem__)
    assert all(torch.equal(given[name], value) for name, value in batch().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"packed": True},
            "the data packs several documents into a row, of which one can go on: set `data.packed: false`",
        ),
        (
            {"of_draft": 0.7, "of_target": 0.4},
            "of_draft=0.7 and of_target=0.4: give shares of the steps, together at most 1",
        ),
        ({"of_draft": -0.1}, "of_draft=-0.1 and of_target=0.0"),
        ({"target": None, "of_draft": 0, "of_target": 1.0}, r"of_target=1.0: name the model that speaks \(`target`\)"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**given)


def test_a_model_that_is_not_there_is_the_casts_to_refuse() -> None:
    models: Callable[[str], Any] = {}.__getitem__
    with pytest.raises(KeyError, match="draft"):
        task().prepare(batch(), models)

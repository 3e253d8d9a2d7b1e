from __future__ import annotations

from typing import Any

import pytest
import torch
from made import llama
from torch import Tensor, nn

from drafts import draft
from kdcore.testing import check_task
from kdcore_specdec.metrics.acceptance import ExpectedAcceptance
from kdcore_specdec.models.eagle import Eagle3
from kdcore_specdec.tasks.causal import CausalLanguageModel

TASK = CausalLanguageModel(vocabulary=40, length=8)


def test_it_keeps_what_a_task_promises() -> None:
    batch = {**TASK.example(3), "input_ids": torch.randint(40, (3, 8), generator=torch.Generator().manual_seed(2))}
    check_task(TASK, llama(), batch, metric=ExpectedAcceptance())


def test_it_keeps_it_with_a_draft_that_reads_its_target() -> None:
    task, target = CausalLanguageModel(vocabulary=40, length=8, layers=[0, 1, 2]), llama(layers=3)
    with torch.no_grad():
        others = {"target": task.signals(target, task.example(2), {})}
    apart = {
        "example": "an example of three rows would be read beside what the target says of two",
        "deploy": "without its target a draft only takes its time; what is shipped is a format of its own",
    }
    check_task(task, draft(Eagle3), task.example(2), metric=ExpectedAcceptance(), others=others, skip=apart)


def test_signals_of_a_model() -> None:
    model, batch = llama(), TASK.example(2)
    found = TASK.signals(model, batch, {})
    assert set(found) == {"hidden", "head", "embedding", "logits"}
    torch.testing.assert_close(found["logits"], found["hidden"] @ found["head"].T)
    assert found["head"] is model.head
    assert found["embedding"] is model.embedding.weight
    without = CausalLanguageModel(vocabulary=40, length=8, logits=False).signals(model, batch, {})
    assert set(without) == {"hidden", "head", "embedding"}


def test_documents_of_a_row_are_apart() -> None:
    model, batch = llama(), TASK.example(1)
    batch["segment"] = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    alone = {**batch, "input_ids": batch["input_ids"][:, 4:], "segment": batch["segment"][:, 4:]}
    torch.testing.assert_close(
        TASK.signals(model, batch, {})["hidden"][:, 4:], TASK.signals(model, alone, {})["hidden"], rtol=1e-4, atol=1e-5
    )


def test_layers_of_the_target_and_those_that_a_draft_has() -> None:
    task = CausalLanguageModel(vocabulary=40, length=8, layers=[0, 2, -1, 3])
    assert task.facts["target_layers"] == [0, 2, -1, 3]
    target = task.signals(llama(layers=3), task.example(2), {})
    assert {name for name in target if name.startswith("layer")} == {"layer.0", "layer.2", "layer.-1", "layer.3"}
    assert torch.equal(target["layer.2"], target["layer.-1"])
    assert torch.equal(target["layer.3"], target["hidden"])
    draft = task.signals(llama(layers=1), task.example(2), {"target": target})
    assert {name for name in draft if name.startswith("layer")} == {"layer.0", "layer.-1"}
    assert "target_layers" not in TASK.facts


class Reader(nn.Module):
    """A draft that repeats what its target says, one token later."""

    reads = ("target",)

    def forward(self, batch: Any, target: Any, *, logits: bool) -> dict[str, Tensor]:
        ids = batch["input_ids"]
        said = torch.zeros(*ids.shape, 40) if target is None else target["logits"].roll(1, 1)
        return {
            "logits": said,
            "predicts": torch.arange(ids.shape[1]).expand_as(ids) > 0,
            "wanted": torch.tensor(logits),
        }


def test_a_draft_that_reads_its_target() -> None:
    batch = TASK.example(2)
    others = {"another": {"logits": torch.ones(())}, "target": TASK.signals(llama(), batch, {})}
    found = TASK.signals(Reader(), batch, others)
    assert torch.equal(found["logits"][:, 1:], others["target"]["logits"][:, :-1])
    assert bool(found["wanted"])
    assert not TASK.signals(Reader(), batch, {})["logits"].any()  # measured alone


def test_what_metrics_see() -> None:
    batch = TASK.example(2)
    batch["labels"][0] = -100
    student, teacher = (TASK.signals(llama(seed=seed), batch, {}) for seed in (0, 1))
    alone = TASK.observe(student, {}, batch)
    assert set(alone) == {"acceptance", "preds_target"}
    assert alone["acceptance"][1] is None
    taught = TASK.observe(student, {"t": teacher, "second": {}}, batch)
    assert taught["acceptance"][:2] == (student, teacher)
    ours, theirs = taught["student_teacher"]  # labelled positions only
    assert torch.equal(ours, student["logits"][1, :-1])
    assert torch.equal(theirs, teacher["logits"][1, :-1])
    for signals in (student, teacher):
        del signals["logits"]
    assert set(TASK.observe(student, {"t": teacher}, batch)) == {"acceptance"}


def test_positions_about_which_a_draft_says_nothing_do_not_count() -> None:
    batch = TASK.example(2)
    student = TASK.signals(Reader(), batch, {})
    labels = TASK.observe(student, {}, batch)["acceptance"][2]
    assert labels[:, 0].tolist() == [-100, -100]
    assert torch.equal(labels[:, 1:], batch["labels"][:, 1:])
    assert (batch["labels"][:, 0] != -100).all()  # the batch is left alone


def test_an_example() -> None:
    batch = TASK.example(3)
    assert batch["input_ids"].shape == (3, 8)
    assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])
    assert torch.equal(batch["input_ids"], TASK.example(3)["input_ids"])
    assert TASK.chance() == 1 / 40


def test_as_it_is_shipped() -> None:
    model = llama().train()
    deployed = TASK.deploy(model)
    ids = TASK.example(2)["input_ids"]
    probabilities = deployed(ids)
    assert deployed.model is model
    assert not model.training
    torch.testing.assert_close(probabilities, model(ids).logits.softmax(-1))
    torch.testing.assert_close(TASK.deploy(Reader())(ids), torch.full((2, 8, 40), 1 / 40))


def test_what_is_refused() -> None:
    with pytest.raises(KeyError, match="the task reads `input_ids`, the batch holds: image"):
        TASK.signals(llama(), {"image": 0}, {})
    with pytest.raises(
        ValueError, match=r"the model is a Linear; this task takes `specdec.llama`, `specdec.from_config`"
    ):
        TASK.signals(nn.Linear(1, 1), TASK.example(1), {})
    with pytest.raises(
        ValueError, match="the model tells 41 tokens apart, the data 40: a draft and its target must have"
    ):
        TASK.signals(llama(vocabulary=41), TASK.example(1), {})

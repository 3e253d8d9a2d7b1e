"""Situations and their variations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdcore.losses.kl import KL
from kdcore.testing import samples
from kdcore.testing.case import Case, read_by

from .sound import Sound


def case(**batch: Any) -> Case:
    sample = samples.tokens()
    return Case(KL, {"student": sample["student"], "teacher": sample["teacher"]}, {**sample["batch"], **batch})


def test_a_loss_is_given_what_it_needs_and_nothing_else():
    roles = {"student": {"logits": 1, "hidden": 2}, "teacher": ({"logits": 3}, {"hidden": 4}), "other": {"logits": 5}}
    assert read_by(KL(), roles) == {"student": {"logits": 1}, "teacher": ({"logits": 3}, {})}


def test_a_student_without_signals_is_still_there():
    assert read_by(KL(), {"student": {"hidden": 1}}) == {"student": {}}


def test_the_student_has_a_graph_and_the_teacher_none():
    seen: dict[str, Any] = {}

    def forward(student: Any, teacher: Any, batch: Any) -> Any:
        seen.update(student=student["logits"], teacher=teacher["logits"])

    _, leaves = case().call(KL(), forward)
    assert set(leaves) == {"student.logits"}
    assert seen["student"].requires_grad
    assert not seen["teacher"].requires_grad


def test_answers_repeat_and_leave_what_is_given_alone():
    one = case()
    before = {key: value.clone() for key, value in one.batch.items()}
    first, second = one.answer(), one.answer()
    assert torch.equal(first.totals[""].sum, second.totals[""].sum)
    assert torch.equal(first.gradients["student.logits"], second.gradients["student.logits"])
    assert all(torch.equal(value, before[key]) for key, value in one.batch.items())
    assert not one.roles["student"]["logits"].requires_grad


def test_every_loss_is_new_in_train_mode_and_knows_the_task():
    one = Case(Sound, {"student": samples.maps()["student"]}, {}, class_axis=1)
    loss, _ = one.build()
    assert loss is not one.build()[0]
    assert loss.training
    assert loss.class_axis == 1


def test_models_are_frozen_copies():
    model = torch.nn.Linear(2, 2)
    _, models = Case(Sound, {"student": {}}, {}, models={"teacher": model}).build()
    assert models["teacher"] is not model
    assert not models["teacher"].training
    assert not models["teacher"].weight.requires_grad
    assert model.weight.requires_grad


def test_rows_are_those_of_samples():
    edges = torch.zeros(2, 9, dtype=torch.int64)
    one = case(edges=edges, number=7, views={"weak": {"x": torch.arange(4)}}).rows(torch.tensor([2, 0]))
    assert one.batch["id"].tolist() == [2, 0]
    assert one.batch["edges"] is edges
    assert one.batch["number"] == 7
    assert one.batch["views"]["weak"]["x"].tolist() == [2, 0]
    assert one.roles["student"]["logits"].shape == (2, 7, 5)
    assert one.samples == 2


def test_packed_rows_go_with_their_lengths():
    signals = {"boxes": torch.arange(5), "boxes.lengths": torch.tensor([2, 0, 3])}
    one = Case(KL, {"student": signals}, {})
    assert one.samples == 3
    picked = one.rows(torch.tensor([2, 1])).roles["student"]
    assert picked["boxes"].tolist() == [2, 3, 4]
    assert picked["boxes.lengths"].tolist() == [3, 0]


def test_entries_of_a_batch_are_replaced_and_taken_out():
    one = case().with_batch(mask=None, extra=1)
    assert "mask" not in one.batch
    assert one.batch["extra"] == 1
    assert "mask" in case().batch


def test_paths_say_where_a_tensor_is():
    seen = []
    roles = {"student": {"logits": torch.zeros(2)}, "teacher": ({"logits": torch.zeros(2)},)}
    Case(KL, roles, {"views": {"weak": {"x": torch.zeros(2)}}, "n": 3}).mapped(lambda path, x: seen.append(path) or x)
    assert seen == ["student.logits", "teacher[0].logits", "batch.views.weak.x"]


def test_a_student_without_any_signal():
    with pytest.raises(ValueError, match="the student has no signal"):
        _ = Case(KL, {"student": {}}, {}).samples

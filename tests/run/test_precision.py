"""Stages in a precision that casts the nets themselves."""

from __future__ import annotations

import pytest
import torch
from workshop import Workshop, weights


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_nets_go_on_in_their_own_type_after_the_stage(workshop: Workshop, precision: str) -> None:
    """Scored, stored and taken as teachers in float32, whatever type they were trained in."""
    workshop.fit(f"trainer.precision={precision}")
    (folder,) = workshop.folders()
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}
    trained = torch.load(folder / "distil" / "last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in trained.values()} == {torch.bfloat16 if precision[0] == "b" else torch.float64}
    teacher = workshop.report()["models"]["teacher"]["metrics"]["accuracy"]
    assert teacher["best"] > 0.2


def test_a_frozen_teacher_has_its_exact_weights_again_after_the_stage(workshop: Workshop) -> None:
    """In bfloat16 they are rounded, and a later stage, or the report, would go on with those."""
    assist = "stages.late={train: alone, teachers: [teacher], trainer: {precision: 32-true}, init: {alone: teacher}}"
    words = ("models.student={use: mlp, hidden: [16]}", "optimizer.lr=0.0", "optimizer.weight_decay=0", "--no-probe")
    workshop.fit(assist, *words, "stages.distil.trainer.precision=bf16-true")
    found = weights(workshop.folders()[0])
    exact = found["teach/teacher/head.weight"]
    assert not torch.equal(exact, exact.bfloat16().float())
    assert torch.equal(found["late/alone/head.weight"], exact)

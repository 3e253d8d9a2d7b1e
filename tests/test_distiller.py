from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import Lab, batches, ce, copy_of, distance, kd, logits, weights
from torch import Tensor, nn

Objective = Callable[[Tensor, Tensor, dict[str, Any], float], Tensor]


def by_hand(
    student: nn.Module,
    teacher: nn.Module,
    seen: list[dict[str, Any]],
    optimizer: torch.optim.Optimizer,
    objective: Objective | None = None,
    rate: Callable[[float], float] = lambda progress: 1.0,
) -> None:
    """The loop as a person would write it; the objective and the rate get the progress in [0, 1)."""
    bases = [group["lr"] for group in optimizer.param_groups]
    student.train()
    for step, batch in enumerate(seen):
        progress = step / len(seen)
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * rate(progress)
        ours = logits(student, batch)
        with torch.no_grad():
            theirs = logits(teacher, batch)
        if objective is None:
            value = 0.1 * ce(ours, batch) + 0.9 * kd(ours, theirs)
        else:
            value = objective(ours, theirs, batch, progress)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def split_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


OPTIMIZERS: dict[str, tuple[str, Callable[[nn.Module], torch.optim.Optimizer]]] = {
    "sgd": (
        "{use: sgd, lr: 0.5, momentum: 0.9, weight_decay: 0.2}",
        lambda model: torch.optim.SGD(split_groups(model, 0.2), lr=0.5, momentum=0.9, fused=False),
    ),
    "adamw": (
        "{use: adamw, lr: 0.02, weight_decay: 0.5}",
        lambda model: torch.optim.AdamW(split_groups(model, 0.5), lr=0.02, fused=False),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 6])
def test_the_step_is_the_one_a_person_would_write(lab: Lab, name: str, steps: int) -> None:
    recipe, make = OPTIMIZERS[name]
    built = lab.stage(f"optimizer={recipe}", f"trainer.max_steps={steps}")
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine, before = copy_of(student), weights(student)
    by_hand(mine, teacher, list(batches(built))[:steps], make(mine))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6
    assert distance(weights(student), before) > 1e-3


def test_biases_are_not_decayed(lab: Lab) -> None:
    built = lab.stage("optimizer={use: adamw, lr: 0.1, weight_decay: 0.5}", "losses.kd.weight=0", "losses.ce.weight=1")
    student = built.cast.trained["student"]
    groups = built.distiller.configure_optimizers.__func__  # the optimizer needs a trainer: see the test above
    assert groups is not None
    made = built.distiller._parameter_groups()
    without = [p for group in made if group.get("weight_decay") == 0.0 for p in group["params"]]
    assert {id(p) for p in without} == {id(p) for p in student.parameters() if p.ndim <= 1}


def test_a_group_changes_the_rate_of_what_it_names_only(lab: Lab) -> None:
    override = "optimizer={use: sgd, lr: 0.5, momentum: 0, weight_decay: 0, groups: {student.head.*: {lr: 0.0}}}"
    built = lab.stage(override)
    student = built.cast.trained["student"]
    mine, head = copy_of(student), weights(student.head)  # type: ignore[arg-type]
    body = [p for name, p in mine.named_parameters() if not name.startswith("head")]
    by_hand(mine, built.cast.frozen["teacher"].module, list(batches(built)), torch.optim.SGD(body, lr=0.5))
    lab.fit(built)
    assert distance(weights(student.head), head) == 0  # type: ignore[arg-type]
    assert distance(weights(student), weights(mine)) < 1e-6


def test_the_schedule_multiplies_the_rate(lab: Lab) -> None:
    schedule = "{use: linear, start: 1.0, end: 0.0, until: 0.5}"
    built = lab.stage(f"optimizer={{use: sgd, lr: 0.5, momentum: 0, weight_decay: 0, schedule: {schedule}}}")
    student = built.cast.trained["student"]
    mine = copy_of(student)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.5)
    teacher = built.cast.frozen["teacher"].module
    by_hand(mine, teacher, list(batches(built)), optimizer, rate=lambda p: max(0.0, 1 - 2 * p))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6

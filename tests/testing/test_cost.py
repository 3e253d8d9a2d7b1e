"""What a step costs beyond its parts: how that is counted, on a clock that the test winds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.errors import RecipeError
from kdcore.signals import Batch
from kdcore.task import Task
from kdcore.testing.cost import Cost, StepCost, measure, parser, told

STEPS = 5
RECIPE = f"""\
kdcore: 1
name: step
task: {{use: classify}}
data: {{use: digits, batch_size: 300}}
models: {{teacher: {{use: mlp, hidden: [8]}}, student: {{use: mlp, hidden: [4]}}}}
stages:
  teach: {{train: teacher, losses: {{ce: {{use: cross_entropy}}}}}}
  distil: {{train: student, teachers: [teacher]}}
losses: {{kd: {{use: kl}}}}
trainer: {{max_steps: {STEPS}, accelerator: cpu}}
logger: null
"""


class Lab:
    """The parts, what they were called with, and a clock that stands still between calls of them."""

    def __init__(self, folder: Path) -> None:
        self.time, self.forwards, self.supervised = 0.0, list[tuple[bool, bool, int]](), list[tuple[bool, int]]()
        recipe = folder / "step.yaml"
        recipe.write_text(RECIPE, encoding="utf-8")
        self.cost = StepCost(
            recipe, forward=self.forward, supervised=self.loss, device=torch.device("cpu"), clock=lambda: self.time
        )

    def forward(self, net: nn.Module, batch: Batch) -> Tensor:
        self.time += 2.0
        self.forwards.append((torch.is_grad_enabled(), net.training, len(batch["id"])))
        out: Tensor = net(batch["image"])
        return out

    def loss(self, task: Task, net: nn.Module, batch: Batch) -> Tensor:
        self.time += 3.0
        self.supervised.append((net.training, len(batch["id"])))
        return F.cross_entropy(net(batch["image"]), batch["labels"])


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_seconds_of_each_part_and_their_ratio(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    update = torch.optim.AdamW.step

    def slow(self: torch.optim.AdamW, *args: object, **given: object) -> object:
        lab.time += 7.0
        return update(self, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", slow)
    first, second = lab.cost.rounds(2)
    for cost in (first, second):
        assert cost.teacher == 2.0
        assert cost.student == 3.0 + 7.0
        assert cost.distil == pytest.approx(7.0)  # a step's, without the first one and without Lightning's start
        assert cost.ratio == pytest.approx(7 / 12)


def test_parts_are_run_as_in_training_on_full_batches(lab: Lab) -> None:
    assert len(list(lab.cost.rounds(1))) == 1
    assert lab.forwards == [(False, False, 300)] * (2 * STEPS)  # the first round warms up
    assert lab.supervised == [(True, 300)] * (2 * STEPS)


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    told(iter([Cost(0.2, 0.3, 0.5), Cost(0.1, 0.1, 0.3), Cost(0.1, 0.1, 0.21)]), goal=1.05)
    assert capsys.readouterr().out.splitlines() == [
        "round 1: teacher 200.0 ms, student 300.0 ms, distilling 500.0 ms a step: 1.000x",
        "round 2: teacher 100.0 ms, student 100.0 ms, distilling 300.0 ms a step: 1.500x",
        "round 3: teacher 100.0 ms, student 100.0 ms, distilling 210.0 ms a step: 1.050x",
        "median 1.050x of 3 rounds (goal: 1.05x)",
    ]


def test_the_options_of_a_benchmark() -> None:
    options = parser("about", losses={"first": 1, "second": 2}, size=(6, 4)).parse_args([])
    assert vars(options) == {
        "steps": 30, "rounds": 5, "device": "cpu", "size": (6, 4), "batch": 8, "clock": "wall", "loss": "first",
    }  # fmt: skip
    assert parser(None, losses=["a"], size=(6, 4)).parse_args(["--size", "3", "2"]).size == [3, 2]


def test_a_template_is_filled_in_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    template = RECIPE.replace("{", "{{").replace("}", "}}").replace("max_steps: 5", "max_steps: {steps}")
    template = template.replace("batch_size: 300", "batch_size: {batch}").replace("{{use: kl}}", "{{use: {loss}}}")
    template = template.replace("accelerator: cpu", "accelerator: {accelerator}")
    words = ["--steps", "3", "--rounds", "2", "--batch", "250", "--clock", "processor"]
    seen: list[int] = []

    def supervised(task: Task, net: nn.Module, batch: Batch) -> Tensor:
        seen.append(len(batch["id"]))
        return F.cross_entropy(net(batch["image"]), batch["labels"])

    options = parser("about", losses=["kl"], size=(8, 8)).parse_args(words)
    measure(options, template, supervised=supervised, loss=options.loss)
    assert seen == [250] * 9  # three rounds of three steps, of which the first warms up
    assert capsys.readouterr().out.splitlines()[-1].endswith("x of 2 rounds (goal: 1.05x)")


def test_a_recipe_with_an_error_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "step.yaml"
    recipe.write_text(RECIPE.replace("kl}", "kll}"), encoding="utf-8")
    with pytest.raises(RecipeError, match="there is no loss `kll`"):
        StepCost(recipe, forward=print, supervised=Lab.loss, device=torch.device("cpu"))  # type: ignore[arg-type]

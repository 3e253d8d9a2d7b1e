"""What a person may get wrong: each gets its message and exit code, and what was there before stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from workshop import TINY, Workshop

BOMB = "".join(
    f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" if i else "  a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for i in range(9)
)

ROLLED = '''
"""Digits whose labels are of the class after."""
import torch

from kdcore.data.digits import Digits
from kdcore.hookspecs import hookimpl


class Rolled(Digits):
    fact_names = ("classes", "channels", "height", "width", "features")

    def __init__(self, *, batch_size: int = 128) -> None:
        super().__init__(batch_size=batch_size)

    def split(self, name):
        columns = super().split(name)
        return type(columns)({**columns.columns, "labels": (columns.columns["labels"] + 1) % 10})


@hookimpl
def kdcore_register(add):
    add("data", "rolled", Rolled)
'''

POISON = '''
"""A net that answers NaN from its hundredth call on."""
import torch
from torch import nn

from kdcore.hookspecs import hookimpl
from kdcore.models.mlp import MLP


class Poison(nn.Module):
    def __init__(self, *, features: int, classes: int) -> None:
        super().__init__()
        self.net = MLP(features=features, classes=classes, hidden=[16])
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        logits = self.net(image)
        return logits * float("nan") if not self.training and self.calls > 30 else logits


@hookimpl
def kdcore_register(add):
    add("model", "poison", Poison)
'''


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(workshop: Workshop, code: int, *messages: str, words: tuple[str | Path, ...] = ()) -> None:
    """``fit`` is refused with these messages, and the run that was there is as it was."""
    before = snapshot(workshop.runs)
    result = workshop.kdcore("fit", *words)
    assert result.code == code, (result.out, result.err)
    for message in messages:
        assert message in result.err
    assert "Traceback" not in result.err
    after = snapshot(workshop.runs)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("lr: 0.01", "lrr: 0.01", ["tiny.yaml:17: optimizer.lrr: unknown key", "did you mean `lr`?"]),
        ("max_epochs: 2", "max_epochs: two", ["tiny.yaml:18: trainer.max_epochs: is `two`, but must be"]),
        ("name: tiny", "name: tiny\nname: again", ["tiny.yaml:3:", "twice"]),
        ("  teach: {", "\tteach: {", ["tiny.yaml:10:", "tab"]),
        ("{use: classify}", "!!python/object:os.system {}", ["tiny.yaml:3:", "!!python/object"]),
        ("logger: null", f"logger: null\nbomb:\n{BOMB}", ["tiny.yaml", "alias"]),
        ("name: tiny", "", ["tiny.yaml"]),
        ("{use: accuracy}", "{use: acuracy}", ["metrics.accuracy.use: there is no metric `acuracy`", "`accuracy`"]),
        ("{use: kl,", "{use: focal,", ["losses.kd.use: there is no loss `focal`"]),
        ("{max_epochs: 2, ", "{", ["nothing says how long", "set `trainer.max_epochs` or `trainer.max_steps`"]),
        ("{use: classify}", "{use: classify, classes: 7}", ["classes = 7", "classes = 10", "task.classes"]),
    ],
    ids=["key", "type", "twice", "tab", "object", "bomb", "nothing", "metric", "loss", "length", "classes"],
)
def test_a_recipe_that_is_wrong(old: str, new: str, messages: list[str], workshop: Workshop) -> None:
    assert old in TINY
    workshop.recipe.write_text(TINY.replace(old, new, 1))
    if not new:  # the file's name is the recipe's then: nothing is wrong
        assert workshop.kdcore("check").code == 0
        return
    refused(workshop, 2, *messages)


def test_all_mistakes_are_said_at_once(workshop: Workshop) -> None:
    wrong = TINY.replace("lr: 0.01", "lrr: 0.01").replace("{use: kl,", "{use: kll,").replace("[16]", "sixteen")
    workshop.recipe.write_text(wrong)
    refused(workshop, 2, "optimizer.lrr", "losses.kd.use", "models.teacher.hidden")


def test_a_file_that_is_no_text(workshop: Workshop) -> None:
    workshop.recipe.write_bytes(TINY.encode("utf-16"))
    refused(workshop, 2, "tiny.yaml", "UTF-8")


def test_files_that_are_not_there(workshop: Workshop) -> None:
    refused(workshop, 2, "nowhere.yaml", words=("nowhere.yaml",))
    missing = "models.teacher.weights=nowhere.safetensors"
    refused(workshop, 1, "there is no file", "nowhere.safetensors", words=(missing,))


def test_a_tap_on_a_layer_that_is_not_there(workshop: Workshop) -> None:
    workshop.fit("--stage", "teach")
    tap = "taps={deep: {student: hidden.9, teacher: hidden.0}}"
    refused(workshop, 1, "hidden.9", "student", words=(tap, "losses.kd={use: mse, at: deep}"))


@pytest.fixture
def trained(workshop: Workshop) -> Path:
    """The weights of a teacher that knows the digits."""
    workshop.fit("--stage", "teach", "trainer.max_epochs=4")
    return workshop.folders()[-1] / "teach" / "teacher.safetensors"


def test_weights_that_fit_no_tensor(workshop: Workshop, trained: Path) -> None:
    other = workshop.path / "other.safetensors"
    save_file({f"encoder.{name}": tensor for name, tensor in load_file(trained).items()}, other)
    refused(
        workshop, 1, "fit none of the model's 4 tensors", "encoder.",
        words=(f"models.teacher.weights={other}", "~stages.teach"),
    )  # fmt: skip


def test_a_teacher_at_chance_stops_before_the_first_step(workshop: Workshop, trained: Path) -> None:
    plugin = workshop.write("rolled.py", ROLLED)
    words = (f"models.teacher.weights={trained}", "~stages.teach", "data={use: local.rolled, batch_size: 250}")
    refused(
        workshop, 1, "the teacher `teacher` has accuracy", "guessing has 0.100",
        "the classes are in another order", words=(*words, "--plugin", plugin),
    )  # fmt: skip
    folder = workshop.folders()[-1]
    assert (folder / "alone" / "stage.json").is_file()  # what needs no teacher is finished and stays
    assert not list((folder / "distil").glob("*.ckpt"))
    # one who knows better goes on
    assert workshop.kdcore("fit", *words, "--plugin", plugin, "--no-probe").code == 0


def test_a_teacher_that_gives_nan_stops_the_stage_before_the_update(workshop: Workshop) -> None:
    plugin = workshop.write("poison.py", POISON)
    words = (
        "models.teacher={use: local.poison}", "stages.distil.trainer={max_epochs: 20}", "stages.distil.metrics={}",
        "--plugin", plugin,
    )  # fmt: skip
    refused(workshop, 1, "stage `distil`: the loss `kd` became nan by step", "No update was made with it", words=words)
    folder = workshop.folders()[-1] / "distil"
    assert not (folder / "stage.json").exists()
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_a_bad_override_leaves_a_finished_run_alone(workshop: Workshop) -> None:
    workshop.fit()
    refused(workshop, 2, "losses.kd.temprature", "did you mean `temperature`?", words=("losses.kd.temprature=4",))
    refused(workshop, 2, "there is no such stage", words=("--stage", "x"))
    assert len(workshop.folders()) == 1

"""A document to a checked recipe: what a sound one becomes, and everything that is wrong with the others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdcore.errors import RecipeError
from kdcore.recipe.check import read
from kdcore.recipe.schema import DataSlot, Slot

from .conftest import BASE, Judge, Write
from .fakes import FakeFinder


def test_a_sound_recipe_is_complete(judge: Judge) -> None:
    recipe = judge(BASE + "requires: [kdcore>=0.1, 'kdcore-detection']\nseed: 3\n").recipe
    assert (recipe.name, recipe.seed) == ("base", 3)
    assert recipe.task == Slot("task", "classify", {"classes": 10})
    assert recipe.data == DataSlot("data", "arrays", {})
    assert list(recipe.models) == ["teacher", "student", "alone"]
    assert list(recipe.stages) == ["alone", "distil"]
    assert recipe.logger == Slot("logger", "wandb", {"mode": "offline"})
    assert recipe.warnings == ()
    assert Path(recipe.files[0]).is_absolute()
    assert recipe.source["models"]["student"] == {"use": "net", "width": 2}


def test_two_errors_as_a_person_reads_them(write: Write) -> None:
    text = BASE.replace("temperature: 2.0", "temprature: 2.0").replace("{use: net, width: 2}", "{use: nett, width: 2}")
    with pytest.raises(RecipeError) as caught:
        read([write(text)], [], FakeFinder())
    assert str(caught.value) == (
        "recipe.yaml:7: models.student.use: there is no model `nett`\n"
        "    did you mean `net`?\n"
        "recipe.yaml:10: losses.kd.temprature: unknown key of loss `kl`\n"
        "    did you mean `temperature`?"
    )
    assert caught.value.exit_code == 2


def test_read_gives_a_recipe_with_its_warnings(write: Write) -> None:
    recipe = read([write(BASE)], ["losses.kd.use=mse"], FakeFinder())
    assert recipe.overrides == ("losses.kd.use=mse",)
    assert [str(warning) for warning in recipe.warnings] == [
        "warning: override `losses.kd.use=mse`: losses.kd.use: changes from `kl` to `mse`, which drops `temperature`"
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kdcore=2"], "kdcore: is `2`, but this kdcore reads schema 1\n    install a newer kdcore"),
        (["kdcore=true"], "kdcore: is `true`, but this kdcore reads schema 1\n    write `kdcore: 1`"),
        (["~kdcore"], "recipe.yaml:1: does not say which schema it follows\n    start it with `kdcore: 1`"),
        (["optimiser={}"], "optimiser: unknown key of a recipe\n    did you mean `optimizer`?"),
        (["name=a/b"], "name: `a/b` cannot name a folder\n    use letters, digits"),
        (["name=.."], "name: `..` cannot name a folder"),
        (["name=" + "x" * 101], "cannot name a folder"),
        (["name="], "name: is empty, but must be text"),
        (["seed=-1"], "seed: is `-1`, but a seed is between 0 and 4294967295"),
        (["seed=4294967296"], "seed: is `4294967296`, but a seed is between"),
        (["seed=1.5"], "seed: is `1.5`, but must be a whole number"),
        (["seed=true"], "seed: is `true`, but must be a whole number"),
        (["requires=[kdcore >> 1]"], "requires.0: `kdcore >> 1` is no requirement\n    write it as for pip"),
        (["requires=[kdcore, absent>=2]"], "requires.1: `absent>=2` is not installed\n    pip install it"),
        (["requires={a: 1}"], "requires: is a mapping, but must be text"),
        (["~task"], "recipe.yaml:1: there is no `task:`\n    add `task: {use: classify}`"),
        (["~data"], "there is no `data:`"),
        (["~models"], "there is no `models:`"),
        (["models=[a]"], "models: is a list, but must be a mapping"),
        (["models.a b=1"], "override `models.a b=1`: is not understood"),
        (
            ["task=classify"],
            "task: is `classify`, but must be a mapping such as {use: NAME}\n    write {use: classify}",
        ),
        (["task=null"], "task: is `null`, but must be a mapping such as {use: NAME}"),
        (["task={classes: 3}", "~task.use"], "task: does not say which task\n    add `use: NAME`"),
        (["data.use=arays"], "data.use: there is no data `arays`\n    did you mean `arrays`?"),
        (["data.use=[arrays]"], "data.use: is a list, but must be text"),
        (
            ["data.batch_size=lots"],
            "override `data.batch_size=lots`: data.batch_size: is `lots`, but must be a whole number",
        ),
        (["data.batchsize=3"], "data.batchsize: unknown key of data `arrays`\n    did you mean `batch_size`?"),
        (
            ["logger={use: wandb, projekt: x}"],
            "logger.projekt: unknown key of logger `wandb`\n    did you mean `project`?",
        ),
        (
            ["losses.kd.use=gone"],
            "losses.kd.use: loss `gone` of plugin `kdcore`: there is no module `no_such_package.losses`",
        ),
        (["losses.kd.use=computed"], "loss `computed` of plugin `kdcore`: `needs = "),
        (
            ["losses.kd._target_=os.system"],
            "losses.kd._target_: `_target_`: a recipe never names code\n    name a component",
        ),
        (["models.teacher.edits=[{class_path: x}]"], "models.teacher.edits.0.class_path: `class_path`: a recipe never"),
        (["callbacks.gpu={use: gpu, every: x}"], "callbacks.gpu.every: is `x`, but must be a whole number"),
        (["prepare.adv={use: attack}"], "prepare.adv: prepare `attack` needs `radius`\n    add `radius: ...`"),
        (["callbacks=[gpu]"], "callbacks: is a list, but must be a mapping"),
    ],
)
def test_what_is_wrong_with_a_recipe(judge: Judge, overrides: list[str], message: str) -> None:
    checked = judge(BASE, *overrides)
    assert checked.maybe is None
    assert any(message in error for error in checked.errors), checked.errors


def test_a_name_of_a_section_must_be_a_name(judge: Judge) -> None:
    errors = judge(BASE + "callbacks: {'my gpu': {use: gpu}}\n").errors
    assert errors == [
        "recipe.yaml:12: callbacks.my gpu: `my gpu` is no name\n"
        "    use letters, digits, `_` and `-`, and start with a letter"
    ]


def test_all_problems_come_at_once_by_line(judge: Judge) -> None:
    text = BASE.replace("width: 8", "width: x").replace("weight: 0.1", "weight: -1") + "seed: x\nfoo: 1\n"
    errors = judge(text, "losses.kd.temperature=hot").errors
    assert [error.split(": ")[0] for error in errors] == [
        "recipe.yaml:6",
        "recipe.yaml:9",
        "recipe.yaml:12",
        "recipe.yaml:13",
        "override `losses.kd.temperature=hot`",
    ]


def test_an_error_behind_an_interpolation_is_said_once_where_it_is_written(judge: Judge) -> None:
    text = BASE.replace("losses:", "  third: ${models.student}\nlosses:").replace("width: 2", "widht: 2")
    errors = judge(text).errors
    assert errors == ["recipe.yaml:7: models.student.widht: unknown key of model `net`\n    did you mean `width`?"]


def test_a_missing_parameter_is_named_where_the_component_is(judge: Judge) -> None:
    errors = judge(BASE + "optimizer:\n  weight_decay: 0.1\n  use: sgd\n  momentum: 0.9\n").errors
    assert errors[0].startswith("recipe.yaml:13: optimizer.weight_decay: unknown key of optimizer `sgd`")
    assert errors[1] == "recipe.yaml:14: optimizer: optimizer `sgd` needs `lr`\n    add `lr: ...`"


def test_facts_need_not_be_given(judge: Judge) -> None:
    recipe = judge(BASE, "~task.classes").recipe
    assert recipe.task.args == {}
    assert recipe.models["teacher"].args == {"width": 8}


def test_parameters_that_are_no_facts_must_be_given(judge: Judge) -> None:
    errors = judge(BASE, "models.teacher={use: hub}").errors
    assert errors == [
        "override `models.teacher={use: hub}`: models.teacher: model `hub` needs `name`\n    add `name: ...`"
    ]


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("data.transform={mix: {use: mixing}}", "data.transform.mix: transform `mixing` needs `classes`"),
        ("optimizer.use=per_class", "optimizer: optimizer `per_class` needs `classes`"),
        ("models.student.edits=[{use: head}]", "models.student.edits.0: edit `head` needs `classes`"),
    ],
)
def test_a_fact_that_nobody_fills_in_must_be_given(judge: Judge, override: str, error: str) -> None:
    """The builder knows the facts only of what it makes for a task."""
    assert judge(BASE, override).errors == [f"override `{override}`: {error}\n    add `classes: ...`"]


def test_text_and_paths_are_kept_in_the_source_as_they_were_meant(judge: Judge, tmp_path: Path) -> None:
    recipe = judge(BASE, "name=007", "data.path=d.npz").recipe
    assert recipe.name == "007"
    assert recipe.source["name"] == "007"
    assert recipe.data.args == {"path": tmp_path / "d.npz"}
    assert recipe.source["data"]["path"] == str(tmp_path / "d.npz")


def test_a_path_is_relative_to_the_recipe_that_wrote_it(write: Write, tmp_path: Path) -> None:
    base = write(BASE.replace("{use: arrays}", "{use: arrays, path: d.npz}"), "base/recipe.yaml")
    other = write("data: {batch_size: 3}\nmodels: {student: {weights: ../s.pt}}\n", "sub/other.yaml")
    recipe = read([base, other], [], FakeFinder())
    assert recipe.data.args == {"path": tmp_path / "base/d.npz", "batch_size": 3}
    assert recipe.models["student"].weights == f"file://{tmp_path}/s.pt"
    assert recipe.models["teacher"].weights == f"file://{tmp_path}/base/teacher.pt"


def test_the_environment_reaches_the_slots_but_neither_source_nor_messages(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDTEST_SECRET", "s3cret")
    monkeypatch.setenv("KDTEST_SIZE", "16")
    env = "${oc.env:KDTEST_SECRET}"
    recipe = judge(BASE, f"data.path={env}", "data.batch_size=${oc.env:KDTEST_SIZE}").recipe
    assert str(recipe.data.args["path"]).endswith("/s3cret")
    assert recipe.data.args["batch_size"] == 16
    assert "s3cret" not in repr((recipe.source, recipe.overrides))


SECRET_PLACES = [
    "seed",
    "name",
    "task",
    "task.use",
    "task.classes",
    "data.batch_size",
    "losses.kd",
    "losses.kd.use",
    "losses.kd.at",
    "losses.kd.weight",
    "losses.kd.read",
    "losses.kd.teacher",
    "losses.kd.student",
    "losses.kd.side",
    "trainer.precision",
    "trainer.max_epochs",
    "requires",
    "models.teacher.weights",
    "models.teacher.dtype",
    "models.teacher.use",
    "kdcore",
    "stages.x.train",
    "stages.x.teachers",
    "stages.x.keep",
    "stages.x.init",
    "stages.x.freeze",
    "cache.of",
    "cache",
    "taps.deep",
    "taps.deep.student",
    "optimizer.groups",
]


@pytest.mark.parametrize(
    ("held", "shape"),
    [
        ("s3cret", '"{}"'),
        ("s3cret://v", '"{}"'),
        ("s3cret@v", '["{}"]'),
        ("s3cret v", '["{}"]'),
        ("s3cret.v", '{{teacher.logits: "{}"}}'),
        ("tap.s3cret", '"{}"'),
    ],
)
def test_no_error_prints_what_the_environment_holds(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, held: str, shape: str
) -> None:
    monkeypatch.setenv("KDTEST_SECRET", held)
    value = shape.format("${oc.env:KDTEST_SECRET}")
    said = 0
    for path in SECRET_PLACES:
        lines = judge(BASE, f"{path}={value}").lines
        said += len(lines)
        assert "s3cret" not in "\n".join(lines), path
    assert said > 20


def test_the_name_defaults_to_that_of_the_file(judge: Judge) -> None:
    assert judge(BASE, "~name").recipe.name == "recipe"


def test_no_logger_is_a_choice(judge: Judge) -> None:
    assert judge(BASE, "logger=null").recipe.logger is None
    assert judge(BASE, "logger={use: wandb, project: p}").recipe.logger == Slot("logger", "wandb", {"project": "p"})


def test_reading_a_recipe_imports_neither_torch_nor_lightning() -> None:
    code = """
import sys
from kdcore.plugins import Plugins
from kdcore.recipe.arguments import split_arguments
from kdcore.recipe.check import read
recipe = read(*split_arguments(["quickstart", "trainer.max_epochs=1", "losses.kd.temperature=3"]), Plugins())
assert recipe.stages["distil"].losses["kd"].args["temperature"] == 3
heavy = {"torch", "lightning", "numpy", "pytorch_lightning"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_says_where(judge: Judge) -> None:
    errors = judge(BASE.replace("kdcore: 1", "kdcore: 7"), "seed=x").errors
    assert all(re.match(r"(recipe\.yaml:\d+|override `.*`): ", error) for error in errors)

"""``check_plugin`` on a plugin that is made for it, sound and broken in one place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from plugin_factory import PluginFactory

from kdcore.testing import check_plugin, registered
from kdcore.testing.plugins import CHECKS

from .refusal import inside

LOSSES = '''
from typing import ClassVar

from kdcore.losses.kl import KL


class FGD(KL):
    """``KL(p || q)``.

    **Shape**: both ``logits`` (N, C).

    **Reduction**: positions.

    Args:
        alpha: nothing, of 0.5.

    Raises:
        ValueError: never.

    **Paper**: none; it is made for these tests.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, alpha: float = 0.5) -> None:
        super().__init__()
'''
PLUGIN = """
from kdcore.hookspecs import hookimpl

KDCORE_API = 1


@hookimpl
def kdcore_register(add):
    add("loss", "fgd", "kdcore_made.losses:FGD")
"""
RECIPE = """
kdcore: 1
name: made
task: {use: classify}
data: {use: digits, batch_size: 500}
models:
  teacher: {use: mlp, hidden: [4]}
  student: {use: mlp, hidden: [2]}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}, trainer: {max_steps: 1000}}
  distil: {train: student, teachers: [teacher]}
losses: {kd: {use: made.fgd, alpha: "${oc.env:MADE_ALPHA,0.5}"}}
"""


class Made:
    """A plugin on the path, whose files a test replaces."""

    def __init__(self, factory: PluginFactory) -> None:
        self.factory = factory
        self.install()
        self.write("losses.py", LOSSES)
        self.write("recipes/made.yaml", RECIPE)

    def install(self, code: str = PLUGIN, **more: Any) -> None:
        self.factory.install("made", code, **more)
        self.write("losses.py", LOSSES)

    def write(self, path: str, text: str) -> Path:
        return self.factory.write(f"kdcore_made/{path}", text)

    def refusal(self, check: str, **given: Any) -> str:
        """What ``check_plugin`` says, without the head and the last line."""
        with pytest.raises(AssertionError) as caught:
            check_plugin("made", **given, only=[check])
        return inside(str(caught.value), f"plugin `made` [{check}]: ", "check_plugin", check)


@pytest.fixture
def made(plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("PYTHONPATH", f"{plugins.site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    from kdcore import registry

    registry._parse.cache_clear()  # the same paths hold other texts in the next test
    return Made(plugins)


def test_a_sound_plugin_passes_and_its_recipe_runs_two_steps(made: Made):
    check_plugin("made", fit={"made": []}, environment={"MADE_ALPHA": "0.25"})
    assert "MADE_ALPHA" not in os.environ


def test_what_is_checked_has_these_names():
    names = ["names", "loads", "light", "targets", "documented", "losses", "recipes", "fit", "gone"]
    assert [check.name for check in CHECKS] == names


def test_one_that_is_not_installed():
    with pytest.raises(AssertionError) as caught:
        check_plugin("nowhere")
    assert inside(str(caught.value), "plugin `nowhere` [names]: ", "check_plugin", "names") == (
        "no plugin `nowhere` is installed: `pip install -e .` in its folder, and in its pyproject.toml "
        '`[project.entry-points.kdcore]` with `nowhere = "kdcore_nowhere.plugin"`'
    )


def test_a_distribution_of_another_name(plugins: PluginFactory):
    plugins.install("made", distribution="distil-made")
    with pytest.raises(
        AssertionError, match="its distribution is called `distil-made`: call it `kdcore-made`, which is "
    ):
        check_plugin("made")


def test_a_module_of_another_name(plugins: PluginFactory):
    plugins.install("made", value="made_things.plugin")
    with pytest.raises(AssertionError, match="its module is `made_things`: call it `kdcore_made`, as the distribution"):
        check_plugin("made")


def test_one_that_is_broken(made: Made):
    made.install(PLUGIN.replace("KDCORE_API = 1", "KDCORE_API = 99"))
    assert made.refusal("loads").startswith(
        "it is broken: kdcore_made.plugin is written for KDCORE_API 99, this kdcore "
    )


def test_one_that_prints(made: Made):
    made.install(f"print('hello')\n{PLUGIN}")
    assert made.refusal("loads") == "it prints while it loads, `hello`: say nothing at import"


def test_one_that_adds_nothing(made: Made):
    made.install(PLUGIN.replace('add("loss", "fgd", "kdcore_made.losses:FGD")', "pass"))
    assert made.refusal("loads") == 'it adds nothing: call `add("loss", ...)` in its kdcore_register'


def test_one_that_imports_numpy(made: Made):
    made.install(f"import numpy\n{PLUGIN}")
    assert made.refusal("light") == (
        "it imports numpy when it is loaded, and every `check` would wait for that: name components as text, "
        '`"package.module:attribute"`, and import inside of functions'
    )


HOOK = """
@hookimpl
def kdcore_check_recipe(recipe):
    if recipe.name == "made":
        import numpy, PIL
"""


def test_one_whose_checks_of_a_recipe_import_numpy(made: Made):
    made.install(PLUGIN + HOOK)
    said = "it imports PIL, numpy when `kdcore check made` looks at its recipe, and every `check` would wait for that: "
    assert made.refusal("light").startswith(said)


def test_the_recipe_that_imports_is_named_with_those_it_is_laid_over(made: Made):
    made.install(PLUGIN + HOOK.replace('"made"', '"more"'))
    made.write("recipes/more.yaml", "name: more\n")
    said = made.refusal("light", over={"made.more": ["made"]})
    assert said.startswith("it imports PIL, numpy when `kdcore check made made.more` looks at its recipe, and ")


def test_one_that_imports_what_it_requires_itself(made: Made):
    made.install(f"import wandb_gone\n{PLUGIN}")
    made.factory.write("wandb_gone.py", "")
    info = made.factory.site / "kdcore_made-1.0.dist-info" / "METADATA"
    info.write_text(info.read_text() + "Requires-Dist: wandb-gone>=2\nRequires-Dist: kdcore\n", encoding="utf-8")
    assert made.refusal("light").startswith("it imports wandb_gone when it is loaded, and ")


def test_one_whose_hook_fails_in_a_fresh_python(made: Made):
    made.install(PLUGIN + "\n@hookimpl\ndef kdcore_check_environment():\n    raise OSError('no driver')\n")
    assert made.refusal("light") == "a fresh Python fails with it: OSError: no driver"


def test_a_target_that_is_an_object(made: Made):
    direct = PLUGIN.replace('"kdcore_made.losses:FGD"', "FGD").replace(
        "KDCORE_API", "\nclass FGD:\n    'A loss.'\n\nKDCORE_API", 1
    )
    made.install(direct)
    assert made.refusal("targets") == (
        "the loss `made.fgd` is given as an object, so its file is imported whenever the plugin is: name it as text, "
        '`"kdcore_made.plugin:FGD"`'
    )


def test_a_target_that_is_nowhere(made: Made):
    made.write("losses.py", "")
    assert made.refusal("targets").startswith(
        "loss `made.fgd` of plugin `made` cannot be imported from `kdcore_made.losses:FGD`: AttributeError: "
    )


def test_a_target_that_is_defined_elsewhere(made: Made):
    made.write("other.py", LOSSES)
    made.write("losses.py", "from kdcore_made.other import FGD\n")
    assert made.refusal("targets") == (
        "the loss `made.fgd` is named in `kdcore_made.losses` and defined in `kdcore_made.other`: name the file that "
        "defines it, which is the one that is read"
    )


NET = """
def net({parameters}):
    {body}
"""


@pytest.mark.parametrize(
    ("parameters", "body", "said"),
    [
        ("*, width: int = 2", "return None", "has no docstring: say in one line what it is"),
        ("*, width=2", "'A net.'", "has a parameter `width` without annotation: write its type"),
    ],
)
def test_a_component_that_says_too_little(made: Made, parameters: str, body: str, said: str):
    made.install(PLUGIN + '    add("model", "net", "kdcore_made.nets:net")\n')
    made.write("nets.py", NET.format(parameters=parameters, body=body))
    assert made.refusal("documented") == f"the model `made.net` {said}"


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ("**Paper**", "its docstring names no paper: write `**Paper**: "),
        ("**Shape**", "its docstring has no `**Shape**`: say the shape of every signal that it reads: "),
        ("*, alpha", "the parameter `alpha` is positional, and a recipe sets keyword-only ones: "),
    ],
)
def test_a_loss_that_says_too_little(made: Made, cut: str, said: str):
    made.write("losses.py", LOSSES.replace(cut, cut.strip("*, ")))
    assert made.refusal("losses").startswith(f"the loss `made.fgd`: {said}")


def test_no_recipe(made: Made):
    (made.factory.site / "kdcore_made" / "recipes" / "made.yaml").unlink()
    assert made.refusal("recipes") == (
        "it ships no recipe: put `recipes/made.yaml` beside its module, the first one that a person tries"
    )


def test_a_recipe_that_is_not_sound(made: Made):
    made.write("recipes/made.yaml", RECIPE.replace("alpha:", "alfa:"))
    said = made.refusal("recipes")
    assert said.startswith("`kdcore check` ended with exit code 2 and said:\n")
    assert "did you mean `alpha`?" in said


def test_a_recipe_that_is_laid_over_another(made: Made):
    made.write("recipes/more.yaml", "losses: {kd: {alpha: 0.1}}\n")
    assert "there is no `task:`" in made.refusal("recipes")
    check_plugin("made", over={"made.more": ["made"]}, skip={"light": "another test's", "gone": "another test's"})


@pytest.mark.parametrize("given", [{"over": {"made.mor": ["made"]}}, {"fit": {"made.mor": []}}])
def test_a_recipe_that_is_none_of_its_own(made: Made, given: dict[str, Any]):
    assert made.refusal("recipes", **given) == (
        "it ships no recipe `made.mor`, which the check was told about; it ships made"
    )


def test_a_recipe_that_does_not_run(made: Made):
    said = made.refusal("fit", fit={"made": ["models.student.hidden=[-1]"]})
    assert said.startswith("`kdcore fit` ended with exit code ")


def test_a_run_that_leaves_something_behind(made: Made):
    leaking = LOSSES.replace("super().__init__()", "super().__init__()\n        os.environ['MADE_LEAK'] = '1'")
    made.write("losses.py", f"import os\n{leaking}")
    assert made.refusal("fit", fit={"made": []}) == (
        "the run left something behind:\n- the environment variable MADE_LEAK was set to `1`: put it back when the run "
        "ends, or pass the value on"
    )


def test_a_core_that_is_not_itself_any_more(made: Made):
    made.factory.write(
        "sitecustomize.py", "import os\nif os.environ.get('KDCORE_PLUGINS') == '': raise SystemExit('no')\n"
    )
    assert made.refusal("gone").startswith("a fresh Python fails with it: ")


def test_what_is_registered_is_told_by_kind_and_name(made: Made):
    made.install(PLUGIN + '    add("model", "net", "kdcore_made.nets:net")\n')
    made.write("nets.py", NET.format(parameters="*, width: int", body="'A net.'"))
    (loss,), (model,) = registered("made", "loss").items(), registered("made", "model").items()
    assert (loss[0], loss[1].__name__, loss[1].__module__) == ("fgd", "FGD", "kdcore_made.losses")
    assert (model[0], model[1].__name__) == ("net", "net")
    assert registered("made", "task") == registered("nowhere", "loss") == {}

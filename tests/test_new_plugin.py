"""The package that ``new-plugin`` writes: its names, what it refuses, and that it works as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from plugin_factory import PluginFactory
from workshop import in_process

import kdcore
from kdcore.discovery import FIRST_PARTY, core_version
from kdcore.errors import RecipeError
from kdcore.hookspecs import KDCORE_API
from kdcore.new_plugin import TEMPLATE, new_plugin
from kdcore.plugins import Plugins


@pytest.fixture
def made(tmp_path: Path) -> Path:
    new_plugin("my_losses", tmp_path / "mine")
    return tmp_path / "mine"


def installed(plugins: PluginFactory, name: str) -> Path:
    """The package on the path, with its metadata as pip would write it."""
    folder = plugins.site.parent / f"source-{name}"
    new_plugin(name, folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    package = folder / f"kdcore_{name}"
    plugins.site.mkdir(exist_ok=True)
    package.rename(plugins.site / package.name)
    info = f"kdcore_{name}-{project['version']}.dist-info"
    plugins.write(
        f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    ((entry, value),) = project["entry-points"]["kdcore"].items()
    plugins.write(f"{info}/entry_points.txt", f"[kdcore]\n{entry} = {value}\n")
    return folder


def test_one_word_stands_in_four_places(made: Path) -> None:
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    assert project["name"] == "kdcore-my-losses"
    assert project["entry-points"] == {"kdcore": {"my_losses": "kdcore_my_losses.plugin"}}
    assert (made / "kdcore_my_losses" / "plugin.py").is_file()
    assert (made / "kdcore_my_losses" / "py.typed").is_file()
    assert yaml.safe_load((made / "kdcore_my_losses" / "recipes" / "my_losses.yaml").read_text())["name"] == "my_losses"


def test_it_is_written_for_this_core(made: Path) -> None:
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [f"kdcore[digits]>={'.'.join(core_version().split('.')[:2])}"]
    assert f"KDCORE_API = {KDCORE_API}\n" in (made / "kdcore_my_losses" / "plugin.py").read_text()


def test_nothing_is_left_of_the_template(made: Path) -> None:
    files = [path for path in made.rglob("*") if path.is_file()]
    assert len(files) == len(list(TEMPLATE.rglob("*.in"))) + 1  # and py.typed
    for path in files:
        assert path.suffix != ".in"
        assert "{{" not in re.sub(r"\$\{\{.*?\}\}", "", path.read_text()), path


def test_the_workflows_are_where_a_forge_looks_for_them(made: Path) -> None:
    for name in ("publish.yml", "test.yml"):
        steps = yaml.safe_load((made / ".github" / "workflows" / name).read_text())["jobs"]
        assert any({"run": "pytest"} in job["steps"] for job in steps.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Losses", "`My-Losses` is no name for a plugin\n    it names a module and stands in recipes: small "),
        ("My-Losses", "letters, digits and underscores, such as `my_losses`"),
        ("a b", "such as `a_b`"),
        ("3d", "such as `d`"),
        ("class", "such as `my_losses`"),
        ("größe", "such as `my_losses`"),
        ("", "`` is no name for a plugin"),
        ("../x", "such as `x`"),
        ("kdcore", "the name `kdcore` is reserved\n    choose another one"),
        ("local", "the name `local` is reserved"),
        *((name, f"`{name}` is a plugin of kdcore's own\n    choose a name") for name in FIRST_PARTY),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_a_plugins(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as found:
        new_plugin(name, tmp_path / "new")
    assert message in str(found.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as found:
        new_plugin("mine", tmp_path)
    assert str(found.value) == f"{tmp_path} exists already\n    choose another folder with --to"
    assert list(tmp_path.iterdir()) == []


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = in_process("new-plugin", "my_losses")
    assert result.code == 0, result.err
    *files, last = result.out.splitlines()
    assert last == "next: cd kdcore-my-losses && pip install -e '.[dev]' && pytest"
    assert files
    assert all((tmp_path / file).is_file() for file in files)
    assert in_process("new-plugin", "my_losses").code == 2
    assert in_process("new-plugin", "my_losses", "--to", "other").code == 0
    assert (tmp_path / "other" / "pyproject.toml").is_file()


def test_its_recipe_is_sound_and_its_components_are_there(plugins: PluginFactory) -> None:
    installed(plugins, "mine")
    found = {item["name"]: item for item in Plugins().describe()}["mine"]
    assert found["status"] == "ok", found["reason"]
    assert found["components"] == {"loss": ["mine.logit_matching"], "task": ["mine.rows"]}
    result = in_process("check", "mine")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("the recipe is sound\n")


def test_its_hook_speaks(plugins: PluginFactory) -> None:
    installed(plugins, "mine")
    result = in_process("check", "mine", "~losses.ce")
    assert result.code == 0
    assert "stage `distil` matches logits, and nothing in it reads labels" in result.err


def test_its_recipe_trains(plugins: PluginFactory, tmp_path: Path) -> None:
    installed(plugins, "mine")
    result = in_process("fit", "mine", "trainer.max_epochs=2", "logger=null", "--runs", tmp_path / "runs")
    assert result.code == 0, result.err
    assert "`student`" in result.out.splitlines()[-2]


def test_its_tests_pass_at_once(plugins: PluginFactory) -> None:
    folder = installed(plugins, "mine")
    # where kdcore is installed pytest knows its fixture, and must not be told twice
    known = entry_points(group="pytest11", name="kdcore")
    plugin = [] if known else ["-p", "kdcore.testing.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin]
    paths = {"PYTHONPATH": os.pathsep.join([str(plugins.site), str(Path(kdcore.__file__).parents[1])])}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    dots = [line for line in done.stdout.splitlines() if re.match(r"^\.+ +\[100%\]$", line)]
    assert dots, done.stdout
    assert dots[0].count(".") > 10

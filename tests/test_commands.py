"""Verbs that plugins add to the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plugin_factory import PluginFactory
from workshop import Workshop, in_process

REGISTER = """
    from kdcore.hookspecs import hookimpl

    KDCORE_API = 1

    @hookimpl
    def kdcore_register(add):
        add("command", "{name}", "{{package}}.verbs:{name}")
"""
VERBS = '''
    import json
    from pathlib import Path
    from typing import Literal

    def weigh_up(
        kdcore,
        *,
        k: int = 4,
        layers: list[int] | None = None,
        how: Literal["fast", "slow"] = "fast",
        share: float = 0.5,
        to: Path | None = None,
        loud: bool = False,
        url: str | None = None,
    ) -> int | None:
        """Weighs a draft against its ``target``.

        Longer words about it.

        Args:
            k: tokens drafted at a time,
                at 100 % of the cost.
            url: of a server.
        """
        said = {"k": k, "layers": layers, "how": how, "share": share, "to": str(to), "loud": loud, "url": url}
        kdcore.say(json.dumps(said | {"words": list(kdcore.words)}))
        return 7 if loud else None

    def must(kdcore, *, name: str):
        """Wants a name."""
        kdcore.say(name)

    def models(kdcore):
        """Lists the models of a run."""
        found = kdcore.restored()
        kdcore.say(" ".join(sorted(found.cast.frozen)))
        kdcore.say(f"in {found.folder}")
'''


@pytest.fixture
def weighing(plugins: PluginFactory) -> PluginFactory:
    install(plugins, "scales", "weigh_up")
    return plugins


def install(plugins: PluginFactory, plugin: str, verb: str) -> None:
    package = plugins.install(plugin, REGISTER.format(name=verb))
    plugins.write(f"{package}/verbs.py", VERBS)


def said(*words: str | Path) -> dict[str, object]:
    result = in_process("weigh-up", *words)
    assert result.code == 0, result.err
    found: dict[str, object] = json.loads(result.out)
    return found


def test_a_plugins_verb_is_listed_beside_the_cores(weighing: PluginFactory) -> None:
    result = in_process("--help")
    assert result.code == 0
    assert re.search(r"^    weigh-up +Weighs a draft against its `target`$", result.out, re.MULTILINE)


def test_its_options_are_its_parameters(weighing: PluginFactory) -> None:
    shown = " ".join(in_process("weigh-up", "--help").out.split())
    assert "--k VALUE tokens drafted at a time, at 100 % of the cost. (default: 4)" in shown
    assert "--layers VALUE a list of whole numbers or null (default: None)" in shown
    assert "--how VALUE one of `fast`, `slow` (default: 'fast')" in shown
    assert "--loud, --no-loud" in shown
    assert "[RECIPE ...]" in shown


def test_without_options_the_defaults_are_its_own(weighing: PluginFactory) -> None:
    assert said() == {
        "k": 4, "layers": None, "how": "fast", "share": 0.5, "to": "None", "loud": False, "url": None, "words": [],
    }  # fmt: skip


def test_values_are_read_as_in_a_recipe(
    weighing: PluginFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "--k",
        "8",
        "--layers",
        "[0, 5]",
        "--how",
        "slow",
        "--share",
        "1",
        "--to",
        "out",
        "--url",
        "http://a:80/v1",
    )
    assert said(*words, "r.yaml", "a.b=c") == {
        "k": 8, "layers": [0, 5], "how": "slow", "share": 1.0, "to": str(tmp_path / "out"), "loud": False,
        "url": "http://a:80/v1", "words": ["r.yaml", "a.b=c"],
    }  # fmt: skip


def test_what_it_returns_is_the_exit_code(weighing: PluginFactory) -> None:
    assert in_process("weigh-up", "--loud").code == 7
    assert in_process("weigh-up", "--no-loud").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "many"], "--k many: must be a whole number"),
        (["--k", "1.5"], "--k 1.5: must be a whole number"),
        (["--layers", "[0, x]"], "--layers [0, x]: must be a whole number"),
        (["--how", "well"], "--how well: must be one of `fast`, `slow`"),
        (["--layers", "[0,"], "--layers"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(words: list[str], message: str, weighing: PluginFactory) -> None:
    result = in_process("weigh-up", *words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_all_wrong_values_are_named_at_once(weighing: PluginFactory) -> None:
    result = in_process("weigh-up", "--k", "many", "--share", "half")
    assert "--k many: must be a whole number" in result.err
    assert "--share half: must be a number" in result.err


def test_an_option_that_must_be_given(plugins: PluginFactory) -> None:
    install(plugins, "strict", "must")
    result = in_process("must")
    assert result.code == 2
    assert "the following arguments are required: --name" in result.err
    assert in_process("must", "--name", "007").out == "007\n"


def test_two_plugins_with_one_verb(weighing: PluginFactory) -> None:
    install(weighing, "other", "weigh_up")
    result = in_process("weigh-up")
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        "the plugins `other` and `scales` both add the verb `weigh-up`\n"
        "    allow one of them: KDCORE_PLUGINS=NAME,...\n"
    )


def test_the_cores_verbs_do_not_look_for_those_of_plugins(weighing: PluginFactory, workshop: Workshop) -> None:
    install(weighing, "other", "weigh_up")  # which would be refused
    assert workshop.kdcore("check").code == 0


def test_a_broken_plugin_takes_no_verb_away(weighing: PluginFactory) -> None:
    weighing.install("broken", "raise SystemExit(5)")
    assert said("--k", "2")["k"] == 2


def test_a_verb_that_nobody_has(weighing: PluginFactory) -> None:
    result = in_process("weigh")
    assert result.code == 2
    assert "invalid choice: 'weigh'" in result.err


def test_it_works_with_the_models_of_a_run(plugins: PluginFactory, finished: Workshop) -> None:
    install(plugins, "lister", "models")
    result = finished.kdcore("models")
    assert result.code == 0, result.err
    assert result.out.splitlines() == ["alone student teacher", f"in {finished.folders()[0]}"]


def test_without_a_recipe_there_are_no_models(plugins: PluginFactory) -> None:
    install(plugins, "lister", "models")
    result = in_process("models")
    assert result.code == 2
    assert result.err == "no recipe is named\n    name the recipe of a finished run, or its folder\n"


def test_models_that_were_not_trained(plugins: PluginFactory, workshop: Workshop) -> None:
    install(plugins, "lister", "models")
    result = workshop.kdcore("models")
    assert result.code == 1
    assert "has not been finished" in result.err

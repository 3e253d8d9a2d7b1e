from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plugin_factory import PluginFactory, described, problem

from kdcore.errors import PluginError, Problem
from kdcore.plugins import Plugins
from kdcore.registry import Component

HEAD = "from kdcore.hookspecs import hookimpl\nfrom kdcore.errors import Problem\nKDCORE_API = 1\n"


class TestFind:
    def test_bare_names_are_the_core_s_and_load_no_plugin(self, plugins: PluginFactory) -> None:
        plugins.install("detection", "raise RuntimeError('imported')")

        assert Plugins().find("loss", "kl") == Component("loss", "kl", "kdcore.losses.kl:KL", "kdcore")

    def test_a_prefix_loads_only_that_plugin(self, plugins: PluginFactory) -> None:
        plugins.install("detection")
        plugins.install("speech")

        found = Plugins().find("loss", "detection.fgd")

        assert found == Component("loss", "detection.fgd", "kdcore_detection.losses:FGD", "detection")
        assert "kdcore_detection.plugin" in sys.modules
        assert "kdcore_speech.plugin" not in sys.modules

    @pytest.mark.parametrize(
        ("kind", "name", "text"),
        [
            ("loss", "cross_entrop", "there is no loss `cross_entrop`\n    did you mean `cross_entropy`?"),
            ("metric", "kl", "`kl` is a loss, not a metric\n    metric: accuracy, agreement, calibration, divergence"),
            ("optimizer", "gpu", "`gpu` is a callback, not an optimizer"),
            ("loss", "adamw", "`adamw` is an optimizer, not a loss"),
            ("loss", "fgd", "`fgd` is a loss of kdcore-detection\n    write `detection.fgd`"),
            ("loss", "detection.fgdd", "plugin `detection` has no loss `fgdd`\n    did you mean `fgd`?"),
            ("model", "detection.fgd", "`detection.fgd` is a loss, not a model\n    model: "),
            ("loss", "speech.ctc", "no plugin `speech` is installed\n    pip install kdcore-speech"),
            ("loss", "detecton.fgd", "no plugin `detecton` is installed\n    did you mean `detection`?"),
            ("loss", "local.mine", "no plugin file is loaded\n    name it with `--plugin FILE.py`"),
            ("loss", "kdcore.kl", "the core's names have no prefix: `kdcore.kl`\n    write `kl`"),
            ("figure", "curve", "there is no figure `curve`"),
            ("loss", "", "there is no loss ``"),
            ("loss", ".", "no plugin `` is installed"),
        ],
    )
    def test_what_a_wrong_name_is_told(self, plugins: PluginFactory, kind: Any, name: str, text: str) -> None:
        plugins.install("detection")
        plugins.install("wrecked", "raise ValueError('broken')")

        assert problem(Plugins().find(kind, name)).startswith(text)

    def test_a_missing_name_of_a_plugin_lists_only_its_own(self, plugins: PluginFactory) -> None:
        plugins.install("detection")

        assert problem(Plugins().find("loss", "detection.zzz")).endswith("known: fgd")


BROKEN = {
    "raises": ("raise ValueError('no\\n GPU')", "ValueError: no GPU ({file}:1)"),
    "raises in a helper": ("def f():\n    1 / 0\nf()", "ZeroDivisionError: division by zero ({file}:2)"),
    "imports what is missing": ("import nowhere", "ModuleNotFoundError: No module named 'nowhere' ({file}:1)"),
    "fails in the standard library": ("import json\njson.loads('{')", "Expecting property name"),
    "has a syntax error": ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax ({file}:2)"),
    "exits": ("import sys\nsys.exit(4)", "it calls sys.exit(4) ({file}:2)"),
    "raises no Exception": ("raise GeneratorExit", "GeneratorExit ({file}:1)"),
    "no api": (
        "",
        "kdcore_x.plugin does not say which KDCORE_API it is written for; write `KDCORE_API = 1` in it",
    ),
    "other api": (
        "KDCORE_API = 2",
        "kdcore_x.plugin is written for KDCORE_API 2, this kdcore speaks 1; pip install --upgrade kdcore kdcore-x",
    ),
    "api as text": ("KDCORE_API = '1'", "is written for KDCORE_API '1'"),
    "no hook": (HEAD, "it implements no hook of kdcore; write `from kdcore.hookspecs import hookimpl`"),
    "unmarked hook": (
        HEAD + "def kdcore_register(add): ...",
        "`kdcore_register` is not marked as a hook; put @hookimpl of kdcore.hookspecs above it",
    ),
    "unknown hook": (HEAD + "@hookimpl\ndef kdcore_regsiter(add): ...", "unknown hook 'kdcore_regsiter'"),
    "wrong argument": (HEAD + "@hookimpl\ndef kdcore_register(adder): ...", "{'adder'}"),
    "unknown kind": (
        HEAD + "@hookimpl\ndef kdcore_register(add):\n    add('los', 'fgd', 'm:A')",
        "plugin `x` adds `x.fgd` as a `los`; did you mean `loss`? ({file}:6)",
    ),
    "generator": (
        HEAD + "@hookimpl\ndef kdcore_register(add):\n    add('loss', 'fgd', 'm:A')\n    yield",
        "its kdcore_register returns a value",
    ),
    "half registered": (
        HEAD + "@hookimpl\ndef kdcore_register(add):\n    add('loss', 'fgd', 'm:A')\n    raise KeyError('late')",
        "KeyError: 'late' ({file}:7)",
    ),
}


class TestBroken:
    @pytest.mark.parametrize("case", BROKEN)
    def test_the_reason_is_told_and_the_others_live(self, plugins: PluginFactory, case: str) -> None:
        code, reason = BROKEN[case]
        plugins.install("x", code)
        plugins.install("detection")
        found = Plugins()
        file = plugins.site / "kdcore_x" / "plugin.py"

        text = problem(found.find("loss", "x.fgd"))

        assert text.startswith("plugin `x` (kdcore-x 1.0) is broken: ")
        assert reason.replace("{file}", str(file)) in text
        assert text.endswith("\n    see `kdcore doctor`")
        assert isinstance(found.find("loss", "detection.fgd"), Component)
        assert found.registry.get("loss", "x.fgd") is None
        assert [item["status"] for item in found.describe()] == ["ok", "ok", "broken"]

    def test_a_module_that_does_not_exist(self, plugins: PluginFactory) -> None:
        plugins.install("x", value="nowhere.plugin")

        assert described("x")["reason"] == "ModuleNotFoundError: No module named 'nowhere'"

    def test_one_module_under_two_names_is_loaded_once(self, plugins: PluginFactory) -> None:
        entries = "[kdcore]\nx = kdcore_x.plugin\nagain = kdcore_x.plugin\n"
        plugins.install("x", entry_points=entries)

        found = {item["name"]: (item["status"], item["reason"]) for item in Plugins().describe()}

        assert found["again"] == ("ok", "")
        assert found["x"] == ("broken", "its module is loaded already, as plugin `again`")

    def test_a_plugin_is_tried_only_once(self, plugins: PluginFactory) -> None:
        plugins.install("x", "import sys\nsys.tries = getattr(sys, 'tries', 0) + 1\nraise ValueError")
        found = Plugins()

        for _ in range(3):
            found.find("loss", "x.fgd")

        assert sys.__dict__.pop("tries") == 1

    def test_ctrl_c_is_not_swallowed(self, plugins: PluginFactory) -> None:
        plugins.install("x", "raise KeyboardInterrupt")

        with pytest.raises(KeyboardInterrupt):
            Plugins().find("loss", "x.fgd")

    def test_add_is_refused_after_registration(self, plugins: PluginFactory) -> None:
        code = HEAD + "@hookimpl\ndef kdcore_register(add):\n    global later\n    later = add"
        plugins.install("x", code)
        found = Plugins()
        found.find("loss", "x.fgd")

        with pytest.raises(PluginError, match="`add` is only for use inside kdcore_register"):
            sys.modules["kdcore_x.plugin"].later("loss", "fgd", "m:A")


class TestAllowList:
    @pytest.mark.parametrize(
        ("value", "enabled"),
        [("detection", {"detection"}), (" speech , detection", {"speech", "detection"}), ("", set())],
    )
    def test_only_named_plugins_are_loaded(
        self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch, value: str, enabled: set[str]
    ) -> None:
        plugins.install("detection")
        plugins.install("speech")
        monkeypatch.setenv("KDCORE_PLUGINS", value)

        status = {item["name"]: item["status"] for item in Plugins().describe()}

        assert {name for name, state in status.items() if state == "ok"} == enabled | {"kdcore"}
        assert {name for name, state in status.items() if state == "disabled"} == {"detection", "speech"} - enabled

    def test_using_a_disabled_plugin_says_how_to_enable_it(
        self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plugins.install("detection")
        monkeypatch.setenv("KDCORE_PLUGINS", "speech")

        text = problem(Plugins().find("loss", "detection.fgd"))

        assert text == "plugin `detection` is disabled\n    add it to KDCORE_PLUGINS=speech"
        assert "kdcore_detection.plugin" not in sys.modules


def test_trace_prints_hook_calls_to_stderr(
    plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins.install("detection")
    monkeypatch.setenv("KDCORE_TRACE", "1")

    Plugins().find("loss", "detection.fgd")

    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" -> ")[0] for line in err.splitlines()] == [
        "kdcore: kdcore: kdcore_register",
        "kdcore: detection: kdcore_register",
    ]


@pytest.mark.parametrize("value", ["0", ""])
def test_trace_is_off(
    plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("KDCORE_TRACE", value)
    Plugins()

    assert capsys.readouterr().err == ""


class TestRequires:
    @pytest.mark.parametrize(
        ("text", "problems"),
        [
            ("kdcore", []),
            ("kdcore>=0.1", []),
            ("kdcore-detection", []),
            ("kdcore_Detection>=1.0,<2", []),
            ("pluggy>=1.6", []),
            ("nowhere; python_version < '3'", []),
            (
                "kdcore>=99",
                ["the recipe requires `kdcore>=99`, but kdcore {core} is installed\n    pip install 'kdcore>=99'"],
            ),
            (
                "kdcore-detection>=2",
                [
                    "the recipe requires `kdcore-detection>=2`, but kdcore-detection 1.0 is installed\n"
                    "    pip install 'kdcore-detection>=2'"
                ],
            ),
            (
                "kdcore-unwritten",
                ["the recipe requires `kdcore-unwritten`, which is not installed\n    pip install 'kdcore-unwritten'"],
            ),
            (
                "kdcore-unwritten @ https://example.org/x.whl",
                ["the recipe requires `kdcore-unwritten`, which is not installed\n    pip install 'kdcore-unwritten'"],
            ),
            (
                "kdcore>>1",
                ["`kdcore>>1` is not a requirement\n    write it as pip does: `kdcore-detection>=0.2`"],
            ),
        ],
    )
    def test_against_what_is_installed(self, plugins: PluginFactory, text: str, problems: list[str]) -> None:
        from kdcore.discovery import core_version

        plugins.install("detection")

        found = Plugins().unmet(text)

        assert ([str(found)] if found else []) == [item.replace("{core}", core_version()) for item in problems]

    def test_pre_releases_satisfy(self, plugins: PluginFactory) -> None:
        plugins.install("detection", version="2.0.dev1")

        assert Plugins().unmet("kdcore-detection>=1") is None

    def test_a_required_plugin_is_loaded_and_must_work(self, plugins: PluginFactory) -> None:
        plugins.install("x", "raise ValueError('no')")

        found = Plugins().unmet("kdcore-x")

        assert found is not None
        assert found.message.startswith("plugin `x` (kdcore-x 1.0) is broken: ValueError: no")


def run() -> Any:
    return SimpleNamespace(calls=[])


HOOKED = (
    HEAD
    + """
@hookimpl
def kdcore_register(add): add("loss", "fgd", "m:A")

@hookimpl
def kdcore_check_recipe(recipe): return [Problem(f"dislikes {recipe}", "change it", "losses")]

@hookimpl
def kdcore_check_environment(): return [Problem("no driver", level="warning")]

@hookimpl
def kdcore_configure(run): run.calls.append("NAME")
"""
)


class TestHooks:
    def load(self, plugins: PluginFactory, **codes: str) -> Plugins:
        for name, code in codes.items():
            plugins.install(name, code.replace("NAME", name))
        found = Plugins()
        for name in codes:
            found.find("loss", f"{name}.fgd")
        return found

    def test_problems_carry_the_plugin_s_name(self, plugins: PluginFactory) -> None:
        found = self.load(plugins, b=HOOKED, a=HOOKED)

        assert found.check_recipe("R") == [  # type: ignore[arg-type]
            Problem("a: dislikes R", "change it", "losses"),
            Problem("b: dislikes R", "change it", "losses"),
        ]
        assert found.check_environment() == [
            Problem("a: no driver", level="warning"),
            Problem("b: no driver", level="warning"),
        ]

    def test_configure_calls_each_in_order(self, plugins: PluginFactory) -> None:
        stage = run()
        self.load(plugins, b=HOOKED, a=HOOKED).configure(stage)

        assert stage.calls == ["a", "b"]

    def test_a_plugin_that_nobody_needs_has_no_effect(self, plugins: PluginFactory) -> None:
        plugins.install("a", HOOKED)
        found, stage = Plugins(), run()
        found.describe()  # loads it, to show it
        found.find("loss", "no_such")  # loads it, to say who provides what

        found.configure(stage)

        assert stage.calls == []
        assert found.check_recipe("R") == []  # type: ignore[arg-type]
        assert found.check_environment() == [Problem("a: no driver", level="warning")]

    def test_requires_makes_it_needed(self, plugins: PluginFactory) -> None:
        plugins.install("a", HOOKED.replace("NAME", "a"))
        found, stage = Plugins(), run()
        found.unmet("kdcore-a")
        found.configure(stage)

        assert stage.calls == ["a"]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("raise ValueError('no')", "plugin `a` fails in {hook}: ValueError: no ("),
            ("raise SystemExit(1)", "plugin `a` fails in {hook}: it calls sys.exit(1) ("),
            ("return ['text']", "plugin `a` answers 'text' to {hook}"),
            ("return 3", "plugin `a` answers 3 to {hook}"),
            ("yield Problem('x')", "plugin `a` answers <generator"),
        ],
    )
    def test_a_failing_hook_is_a_problem_and_stops_nobody(
        self, plugins: PluginFactory, body: str, message: str
    ) -> None:
        bad = HEAD + "@hookimpl\ndef kdcore_register(add): add('loss', 'fgd', 'm:A')\n"
        for head in ("check_recipe(recipe)", "check_environment()", "configure(run)"):
            bad += f"@hookimpl\ndef kdcore_{head}:\n    {body}\n"
        found, stage = self.load(plugins, a=bad, b=HOOKED), run()

        recipe, environment = found.check_recipe("R"), found.check_environment()  # type: ignore[arg-type]
        with pytest.raises(PluginError) as caught:
            found.configure(stage)

        assert recipe[0].message.startswith(message.format(hook="kdcore_check_recipe"))
        assert recipe[0].hint == "report it to the authors of kdcore-a 1.0"
        assert recipe[1].message == "b: dislikes R"
        assert environment[0].message.startswith(message.format(hook="kdcore_check_environment"))
        assert environment[1].message == "b: no driver"
        assert caught.value.problems[0].message.startswith(message.format(hook="kdcore_configure"))
        assert stage.calls == ["b"]

    def test_ctrl_c_in_a_hook_is_not_swallowed(self, plugins: PluginFactory) -> None:
        code = HOOKED.replace('run.calls.append("NAME")', "raise KeyboardInterrupt")

        with pytest.raises(KeyboardInterrupt):
            self.load(plugins, a=code).configure(run())


LOCAL = "from kdcore.hookspecs import hookimpl\n\nclass Mine:\n    def __init__(self, *, alpha: float = 1.0): ...\n\n"
REGISTER = "@hookimpl\ndef kdcore_register(add):\n    add('loss', 'NAME', Mine)\n"


class TestLocalFile:
    def test_its_components_are_local(self, plugins: PluginFactory) -> None:
        file = plugins.write("my_losses.py", LOCAL + REGISTER.replace("NAME", "mine"))
        found = Plugins()
        found.load_file(file)

        component = found.find("loss", "local.mine")

        assert isinstance(component, Component)
        assert component.plugin == "local"
        assert component.parameters()["alpha"].default == "1.0"
        assert component.load()(alpha=2.0).__class__.__name__ == "Mine"
        assert problem(found.find("loss", "local.min")).endswith("did you mean `mine`?")

    def test_several_files_share_the_prefix_and_the_stem(self, plugins: PluginFactory) -> None:
        found = Plugins()
        for name in ("a", "b"):
            found.load_file(plugins.write(f"{name}/losses.py", LOCAL + REGISTER.replace("NAME", name)))

        assert [name for name in found.registry.names("loss") if "." in name] == ["local.a", "local.b"]
        files = [item["distribution"] for item in found.describe() if item["name"] == "local"]
        assert files == [str(plugins.site / name / "losses.py") for name in ("a", "b")]

    def test_the_same_file_counts_once(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        file = plugins.write("my_losses.py", LOCAL + REGISTER.replace("NAME", "mine"))
        monkeypatch.chdir(file.parent)
        found = Plugins()
        found.load_file(file)
        found.load_file(Path("my_losses.py"))

        assert len([item for item in found.describe() if item["name"] == "local"]) == 1

    def test_a_name_in_two_files_is_an_error(self, plugins: PluginFactory) -> None:
        found = Plugins()
        found.load_file(plugins.write("a.py", LOCAL + REGISTER.replace("NAME", "mine")))

        with pytest.raises(PluginError, match=r"the loss `local.mine` is added twice"):
            found.load_file(plugins.write("b.py", LOCAL + REGISTER.replace("NAME", "mine")))

    @pytest.mark.parametrize(
        ("code", "line", "message"),
        [
            ("x = 1\ndef f(:\n", 2, "the plugin file fails: SyntaxError: invalid syntax"),
            (
                "import sys\nimport nowhere\n",
                2,
                "the plugin file fails: ModuleNotFoundError: No module named 'nowhere'",
            ),
            ("import json\n\njson.loads('{')", 3, "the plugin file fails: JSONDecodeError: Expecting property name"),
            ("import sys\nsys.exit(1)", 2, "the plugin file fails: it calls sys.exit(1)"),
            (
                "x = 1\n",
                1,
                "the plugin file fails: it implements no hook of kdcore; write `from kdcore.hookspecs import hookimpl`",
            ),
            ("x = 1\ndef kdcore_register(add): ...", 2, "`kdcore_register` is not marked as a hook"),
            (LOCAL + "@hookimpl\ndef kdcore_register(add):\n    add('los', 'x', Mine)", 8, "adds `local.x` as a `los`"),
            (LOCAL + "@hookimpl\ndef kdcore_registr(add): ...", 1, "unknown hook 'kdcore_registr'"),
        ],
    )
    def test_failures_name_file_and_line(self, plugins: PluginFactory, code: str, line: int, message: str) -> None:
        file = plugins.write("my_losses.py", code)

        with pytest.raises(PluginError) as caught:
            Plugins().load_file(file)

        (found,) = caught.value.problems
        assert (found.file, found.line) == (str(file), line)
        assert message in str(found)

    @pytest.mark.parametrize(
        ("name", "message"),
        [("missing.py", "does not exist"), ("", "does not exist"), ("notes.txt", "is not a Python file")],
    )
    def test_a_path_to_no_python_file(self, plugins: PluginFactory, name: str, message: str) -> None:
        plugins.write("notes.txt", "hello")

        with pytest.raises(PluginError) as caught:
            Plugins().load_file(plugins.site / name)

        assert f"the plugin file {message}\n    give the path of a .py file" in str(caught.value)
        assert str(plugins.site / name) in str(caught.value)


def test_describe_is_plain_data(plugins: PluginFactory) -> None:
    plugins.install("detection")

    items = Plugins().describe()

    assert json.loads(json.dumps(items)) == items
    assert items[1] == {
        "name": "detection",
        "distribution": "kdcore-detection",
        "version": "1.0",
        "status": "ok",
        "reason": "",
        "output": "",
        "components": {"loss": ["detection.fgd"], "model": ["detection.yolo"]},
    }
    assert items[0]["name"] == "kdcore"
    assert "kl" in items[0]["components"]["loss"]

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

import pytest
from plugin_factory import PluginFactory, described

from kdcore.errors import PluginError, Problem
from kdcore.isolation import Output, explain, import_file, in_file

HEAD = "from kdcore.hookspecs import hookimpl\nKDCORE_API = 1\n"


class TestOutput:
    CODE = "import sys\nprint('hello')\nprint('careful', file=sys.stderr)\n" + HEAD

    def test_what_a_plugin_prints_is_kept(self, plugins: PluginFactory, capsys: pytest.CaptureFixture[str]) -> None:
        plugins.install("x", self.CODE + "@hookimpl\ndef kdcore_register(add): print('registering')")

        item = described("x")

        assert item["status"] == "ok"
        assert item["output"] == "hello\ncareful\nregistering\n"
        assert capsys.readouterr() == ("", "")

    def test_a_log_handler_made_at_import_still_reaches_stderr(
        self, plugins: PluginFactory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = HEAD + "import logging\nlogging.getLogger('chatty').addHandler(logging.StreamHandler())\n"
        plugins.install("x", code + "@hookimpl\ndef kdcore_register(add): ...")
        assert described("x")["status"] == "ok"

        logging.getLogger("chatty").error("later")

        logging.getLogger("chatty").handlers.clear()
        assert capsys.readouterr().err == "later\n"


def test_output_is_kept_also_when_the_block_fails(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()

    with contextlib.suppress(ValueError), output.capture():
        print("before")
        raise ValueError

    print("after")
    assert output.getvalue() == "before\n"
    assert capsys.readouterr().out == "after\n"
    assert not output.loading


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "it calls sys.exit(3)"),
        (SystemExit("bye"), "it calls sys.exit('bye')"),
        (PluginError([Problem("first", "mend it"), Problem("second")]), "first; mend it second"),
        (SyntaxError("bad", ("f.py", 7, 1, "x")), "SyntaxError: bad (f.py:7)"),
    ],
)
def test_explain(error: BaseException, text: str) -> None:
    assert explain(error) == text


def test_explain_names_the_innermost_place_outside_the_standard_library() -> None:
    import json

    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")

    assert explain(caught.value).endswith(f"({__file__}:{caught.tb.tb_lineno})")


def test_import_file_gives_the_module_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...")

    module = import_file(file)

    assert sys.modules[module.Mine.__module__] is module
    assert module.__file__ == str(file)
    del sys.modules[module.__name__]


def test_a_file_that_fails_leaves_no_module(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("1 / 0")
    before = set(sys.modules)

    with pytest.raises(ZeroDivisionError):
        import_file(file)

    assert set(sys.modules) == before


def test_in_file_keeps_a_problem_that_has_its_place(tmp_path: Path) -> None:
    placed = Problem("no", file="other.py", line=3)

    assert in_file(tmp_path / "mine.py", PluginError([placed])) == placed
    assert in_file(tmp_path / "mine.py", ValueError("x")) == Problem(
        "the plugin file fails: ValueError: x", file=str(tmp_path / "mine.py"), line=1
    )

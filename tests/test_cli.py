from __future__ import annotations

import errno
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_factory import PluginFactory
from workshop import STOP, TINY, Workshop, in_process

from kdcore import cli
from kdcore.errors import RunError


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["fit", "--help"],
        ["check", "RECIPE"],
        ["plugins", "--json"],
        ["new-recipe", "classify"],
    ],
)
def test_what_needs_no_torch_does_not_import_it(words: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    program = (
        "import sys\n"
        "from kdcore.cli import run\n"
        "try:\n    code = run(sys.argv[1:])\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "assert code == 0, code\n"
        "heavy = {'torch', 'lightning', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    words = [str(recipe) if word == "RECIPE" else word for word in words]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for verb in (
        "fit",
        "validate",
        "test",
        "check",
        "inspect",
        "export",
        "plugins",
        "doctor",
        "new-recipe",
        "new-plugin",
    ):
        assert re.search(rf"^    {verb}\s", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["fit"], "the following arguments are required: RECIPE"),
        (["train", "r.yaml"], "invalid choice: 'train'"),
        (["fit", "r.yaml", "--seed", "5"], "unrecognized arguments: --seed"),  # no abbreviation of --seeds
        (["fit", "r.yaml", "a.b=c", "--color"], "unrecognized arguments: --color"),
        (["fit", "r.yaml", "--seeds", "0"], "argument --seeds: `0` is no number from 1 on"),
        (["fit", "r.yaml", "--seeds", "two"], "argument --seeds: `two` is no number from 1 on"),
        (["plugins", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_usage_errors_exit_with_2(words: list[str], message: str) -> None:
    result = in_process(*words)
    assert result.code == 2
    assert message in result.err


def test_check_says_what_would_be_run(workshop: Workshop) -> None:
    result = workshop.kdcore("check")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "teach: train teacher\nalone: train alone\ndistil: train student taught by teacher\nthe recipe is sound\n"
    )
    assert not workshop.runs.exists()


def test_words_and_options_may_be_mixed(workshop: Workshop) -> None:
    other = workshop.write("other.yaml", "kdcore: 1\nname: other\n")
    result = workshop.kdcore("check", workshop.recipe, "--no-alone", "seed=3", other, "~metrics")
    assert result.code == 0, result.err


def test_warnings_go_to_stderr_and_stop_nothing(workshop: Workshop) -> None:
    over = workshop.write("over.yaml", "kdcore: 1\nmodels: {student: {use: convnet, width: 2}}\n")
    result = workshop.kdcore("check", workshop.recipe, over)
    assert result.code == 0, result.err
    assert result.err.startswith(f"warning: {over}:2: models.student")
    assert "hidden" in result.err
    assert "the recipe is sound" in result.out


def test_a_failed_run_exits_with_1(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RunError("the net is on fire")

    monkeypatch.setattr("kdcore.run.fit.Fit.run", fail)
    result = workshop.kdcore("fit")
    assert (result.code, result.out, result.err) == (1, "", "the net is on fire\n")


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("fit", "interrupted: the same command goes on where this one stopped\n"),
        ("check", "interrupted\n"),
    ],
)
def test_interrupted_before_any_stage(
    verb: str, message: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdcore.recipe.check.read", interrupt)
    result = workshop.kdcore(verb)
    assert (result.code, result.err) == (130, message)


def test_a_full_disk_is_said_and_nothing_is_lost(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.fit("--stage", "teach")
    folder = workshop.folders()[0]
    before = {path: path.read_bytes() for path in (folder / "teach").iterdir()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # no file may be larger than 3000 bytes: the next checkpoint does not fit
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        result = workshop.kdcore("fit", "--stage", "alone")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert result.code == 1
    assert "cannot be written: File too large. What was finished is kept" in result.err
    assert "Traceback" not in result.err
    assert {path: path.read_bytes() for path in (folder / "teach").iterdir()} == before
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
    assert "stage `teach`: is finished" in workshop.fit().out
    assert len(workshop.folders()) == 1


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    command = [sys.executable, "-m", "kdcore", "plugins"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_an_error_of_the_program_keeps_its_traceback(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOENT, "No such file or directory", "x")

    monkeypatch.setattr("kdcore.run.fit.Fit.run", fail)
    with pytest.raises(OSError, match="No such file"):
        workshop.kdcore("fit")


def test_a_folder_for_runs_that_cannot_be_made(workshop: Workshop) -> None:
    file = workshop.write("runs", "a file, not a folder")
    result = workshop.kdcore("fit")
    assert result.code == 1
    assert f"no run folder can be made in {file / 'tiny'}" in result.err


# ---- plugins


def test_a_missing_plugin_exits_with_3_and_names_the_package(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # all that there are may be installed here
    monkeypatch.setattr("kdcore.plugins.FIRST_PARTY", ("unwritten",))
    result = workshop.kdcore("check", "losses.kd={use: unwritten.fgd}")
    assert result.code == 3
    assert "losses.kd.use: no plugin `unwritten` is installed\n    pip install kdcore-unwritten" in result.err
    # with a mistake of the recipe beside it, the recipe comes first
    both = workshop.kdcore("check", "losses.kd={use: unwritten.fgd}", "seed=-1")
    assert both.code == 2
    assert "no plugin `unwritten` is installed" in both.err


def test_a_required_package_that_is_missing_exits_with_3(workshop: Workshop) -> None:
    result = workshop.kdcore("fit", "requires=[kdcore-unwritten>=9]")
    assert result.code == 3
    assert "requires.0: the recipe requires `kdcore-unwritten>=9`, which is not installed" in result.err
    assert not workshop.runs.exists()


def test_a_plugin_that_fails_to_import_exits_with_3(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    factory = PluginFactory(site, monkeypatch)
    factory.install("broken", "KDCORE_API = 1\nimport a_library_that_is_not_there\n")
    try:
        result = workshop.kdcore("check", "losses.kd={use: broken.fgd}")
        unused = workshop.kdcore("check")
    finally:
        factory.forget()
    assert result.code == 3
    assert "plugin `broken` (kdcore-broken 1.0) is broken: ModuleNotFoundError" in result.err
    assert "a_library_that_is_not_there" in result.err
    assert unused.code == 0  # a broken plugin that the recipe does not name has no effect


def test_a_plugin_file_that_fails_exits_with_3_and_its_line(workshop: Workshop) -> None:
    file = workshop.write("mine.py", "import os\n\nraise ValueError('no card')\n")
    result = workshop.kdcore("fit", "--plugin", file)
    assert result.code == 3
    assert result.err == f"{file}:3: the plugin file fails: ValueError: no card ({file}:3)\n"
    missing = workshop.kdcore("fit", "--plugin", "nowhere.py")
    assert missing.code == 3
    assert "the plugin file does not exist" in missing.err


def test_a_local_name_without_a_file(workshop: Workshop) -> None:
    result = workshop.kdcore("check", "losses.kd={use: local.mine}")
    assert result.code == 3
    assert "no plugin file is loaded\n    name it with `--plugin FILE.py`" in result.err


def test_plugins_lists_components_for_people_and_machines(workshop: Workshop) -> None:
    file = workshop.write("mine.py", STOP)
    shown = in_process("plugins", "--plugin", file).out
    assert "    loss       cosine, cross_entropy, divergence, kl, mgd, mse, pkd, smooth_l1" in shown
    described = {plugin["name"]: plugin for plugin in json.loads(in_process("plugins", "--json", "--plugin", file).out)}
    assert described["local"]["components"] == {"callback": ["local.stop"]}
    assert described["kdcore"]["status"] == "ok"


# ---- the other verbs


def test_doctor_answers(workshop: Workshop) -> None:
    result = in_process("doctor")
    assert result.code == 0, result.out
    assert "torch" in result.out


def test_new_recipe_writes_a_file_once(workshop: Workshop) -> None:
    target = workshop.path / "new.yaml"
    result = in_process("new-recipe", "classify", "--to", target)
    assert result.out == f"wrote {target}; next: python -m kdcore check {target}\n"
    written = target.read_text()
    again = in_process("new-recipe", "classify", "--to", target)
    assert again.code == 2
    assert again.err == f"{target} exists already\n    choose another name with --to\n"
    assert target.read_text() == written == in_process("new-recipe", "classify").out


def test_inspect_shows_the_nets_of_a_stage(workshop: Workshop) -> None:
    result = workshop.kdcore("inspect")
    assert result.code == 0, result.err
    assert "student: 310 parameters" in result.out
    assert "teacher: 1,210 parameters" in result.out
    taught = workshop.kdcore("inspect", "--stage", "teach").out
    assert "student" not in taught
    unknown = workshop.kdcore("inspect", "--stage", "teech")
    assert (unknown.code, unknown.err) == (2, "--stage teech: there is no such stage\n    did you mean `teach`?\n")
    assert not workshop.runs.exists()


def test_a_shipped_recipe_goes_by_its_name() -> None:
    result = in_process("check", "quickstart")
    assert result.code == 0, result.err
    assert "distil: train student taught by teacher" in result.out
    unknown = in_process("check", "quickstar")
    assert unknown.code == 2
    assert "did you mean `quickstart`?" in unknown.err

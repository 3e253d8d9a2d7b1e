"""What pytest loads in every session of whoever has kdcore installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdcore.testing
from kdcore.testing.runner import Runner

ROOT = Path(kdcore.testing.__file__).parents[2]


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_loading_it_imports_nothing_heavy():
    code = (
        "import sys, kdcore.testing.pytest_plugin; "
        "sys.exit(', '.join({'torch', 'numpy', 'lightning', 'yaml'} & set(sys.modules)) or 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_only_the_fixture_needs_pytest():
    files = Path(kdcore.testing.__file__).parent.glob("*.py")
    assert [file.name for file in files if "import pytest" in file.read_text(encoding="utf-8")] == ["pytest_plugin.py"]


def test_the_fixture_gives_a_runner_in_the_folder_of_the_test(runner: Runner, tmp_path: Path):
    assert isinstance(runner, Runner)
    assert runner.folder == tmp_path
    assert runner.check("quickstart").code == 0


@pytest.mark.slow
def test_the_fixture_fails_a_test_that_leaves_something_behind(tmp_path: Path):
    (tmp_path / "test_leak.py").write_text(
        "import os\n\n"
        "def test_leak(runner):\n"
        "    with runner.guard.watching():\n"
        "        os.environ['KDCORE_TEST_LEAK'] = '1'\n\n"
        "def test_clean(runner):\n"
        "    with runner.guard.watching():\n"
        "        pass\n",
        encoding="utf-8",
    )
    loaded = python("-c", "from importlib.metadata import entry_points as e; print(e(group='pytest11', name='kdcore'))")
    named = () if "kdcore.testing.pytest_plugin" in loaded.stdout else ("-p", "kdcore.testing.pytest_plugin")
    done = python("-m", "pytest", "-q", *named, "test_leak.py", cwd=tmp_path)
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "the environment variable KDCORE_TEST_LEAK was set to `1`" in done.stdout


def test_an_unknown_name_is_an_attribute_error():
    done = python("-c", "import kdcore.testing; kdcore.testing.check_los")
    assert "AttributeError: module `kdcore.testing` has no attribute `check_los`" in done.stderr

"""Plugins from outside this repository, as wheels that pip installs into an environment of its own.

That environment borrows torch and the like from the one that runs the tests, so that nothing is fetched.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import textwrap
import zipfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from kdcore.new_plugin import new_plugin

HEAD = "from kdcore.hookspecs import hookimpl\nKDCORE_API = 1\n"
REGISTER = "@hookimpl\ndef kdcore_register(add):\n    add('loss', 'fgd', 'm:A')\n"
BROKEN = {
    "raises": "raise ValueError('no GPU')",
    "exits": "import sys\nprint('good bye')\nsys.exit(3)",
    "newer": HEAD.replace("1", "2") + REGISTER,
    "unwritten": "def f(:",
    "stubborn": HEAD + "@hookimpl\ndef kdcore_register(adder): ...",
}
REASONS = {
    "raises": "ValueError: no GPU",
    "exits": "it calls sys.exit(3)",
    "newer": "is written for KDCORE_API 2, this kdcore speaks 1",
    "unwritten": "SyntaxError: invalid syntax",
    "stubborn": "{'adder'}",
    "twin": "the name is claimed by kdcore-twin 1.0 (kdcore_twin.plugin) and rival-twin 1.0 (rival_twin.plugin)",
}


def write_wheel(folder: Path, distribution: str, name: str, code: str) -> Path:
    """A wheel with one entry point and the module that it names."""
    package = distribution.replace("-", "_")
    info = f"{package}-1.0.dist-info"
    files = {
        f"{package}/__init__.py": "",
        f"{package}/plugin.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[kdcore]\n{name} = {package}.plugin\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


class Environment:
    """A virtual environment, and pip, python and kdcore in it."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        self.folder = folder
        self.python = folder / "env" / "bin" / "python"
        (own,) = (folder / "env" / "lib").glob("python*/site-packages")
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (own / "borrowed.pth").write_text("\n".join(lines))

    def run(self, *words: str, code: int = 0) -> str:
        """What it prints on both channels; it must end with this exit code."""
        environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        environment.pop("KDCORE_PLUGINS", None)
        command = [str(self.python), *words]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def kdcore(self, *words: str, code: int = 0) -> str:
        return self.run("-m", "kdcore", *words, code=code)

    def pip(self, *words: str | Path) -> None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "--quiet",
            "--disable-pip-version-check",
            *words,
        ]
        subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    try:
        version("kdcore")
    except PackageNotFoundError:
        pytest.skip("kdcore is not installed here: pip install -e '.[dev]'")
    return Environment(tmp_path_factory.mktemp("third-party"))


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, which builds the wheel, is not installed")
def test_the_life_of_a_plugin(environment: Environment) -> None:
    new_plugin("acme", environment.folder / "source")
    environment.pip(
        "wheel", "--no-deps", "--no-build-isolation", "-w", environment.folder, environment.folder / "source"
    )
    (wheel,) = environment.folder.glob("kdcore_acme-*.whl")

    environment.pip("install", "--no-index", wheel)  # with its requirements, which are there already
    listed = environment.kdcore("plugins")
    fitted = environment.kdcore("fit", "acme", "trainer.max_epochs=2", "logger=null")
    environment.pip("uninstall", "--yes", "kdcore-acme")
    without = environment.kdcore("plugins")
    missing = environment.kdcore("check", "acme", code=2)
    (recipe,) = (environment.folder / "runs" / "acme").glob("*/recipe.yaml")
    stranded = environment.kdcore("check", str(recipe), code=3)

    assert "acme  kdcore-acme 0.1.0  ok\n    loss       acme.logit_matching\n    task       acme.rows\n" in listed
    assert "stage `distil`: `student` has accuracy " in fitted
    assert "report: " in fitted
    assert "acme" not in without
    assert "`acme` is no file and no shipped recipe" in missing
    assert (
        "the recipe requires `kdcore-acme>=0.1`, which is not installed\n    pip install 'kdcore-acme>=0.1'" in stranded
    )
    environment.kdcore("check", "quickstart")


@pytest.fixture(scope="module")
def crowded(environment: Environment) -> Environment:
    """With 100 plugins, five of them broken, and two distributions that claim one name."""
    wheels = [write_wheel(environment.folder, f"kdcore-{name}", name, code) for name, code in BROKEN.items()]
    healthy = {f"kdcore-p{number:02}": f"p{number:02}" for number in range(95)}
    for distribution, name in {**healthy, "kdcore-twin": "twin", "rival-twin": "twin"}.items():
        wheels += [write_wheel(environment.folder, distribution, name, HEAD + REGISTER)]
    environment.pip("install", "--no-index", "--no-deps", "--no-compile", *wheels)
    return environment


def test_no_healthy_plugin_is_affected_by_a_broken_one(crowded: Environment) -> None:
    listed = crowded.kdcore("plugins")

    for name, reason in REASONS.items():
        (line,) = [line for line in listed.splitlines() if line.startswith(f"{name}  ")]
        assert "broken" in line, line
        assert reason in listed
    for number in range(95):
        assert f"p{number:02}  kdcore-p{number:02} 1.0  ok\n    loss       p{number:02}.fgd\n" in listed
    assert "kdcore  kdcore" in listed.partition("\n")[0]
    crowded.kdcore("check", "quickstart")


def test_what_a_broken_one_prints_does_not_reach_the_output_of_a_verb(crowded: Environment) -> None:
    found = crowded.kdcore("check", "quickstart", "losses.kd.use=exits.fgd", code=3)

    assert "plugin `exits` (kdcore-exits 1.0) is broken: it calls sys.exit(3)" in found
    assert "good bye" not in found


def test_a_hundred_plugins_are_discovered_within_50_ms(crowded: Environment) -> None:
    code = """
        import sys, time
        from kdcore.discovery import discover
        best = 1.0
        for _ in range(7):
            start = time.process_time()
            found = discover()
            best = min(best, time.process_time() - start)
        ours = [name for name in sys.modules if name.startswith(("kdcore_p", "kdcore_twin", "rival"))]
        print(sum(info.distribution.startswith("kdcore-") for info in found), len(ours), 1000 * best)
    """
    count, imported, milliseconds = crowded.run("-c", textwrap.dedent(code)).split()

    assert int(count) >= 101
    assert int(imported) == 0
    assert float(milliseconds) < 50

from __future__ import annotations

import builtins
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from plugin_factory import PluginFactory

from kdcore import doctor
from kdcore.discovery import core_requirements
from kdcore.doctor import Finding, diagnose, show
from kdcore.errors import Problem
from kdcore.plugins import Plugins

HEAD = "from kdcore.hookspecs import hookimpl\nfrom kdcore.errors import Problem\nKDCORE_API = 1\n"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages have these versions, or are not there."""
    real = metadata.version

    def pretend(**versions: str | None) -> None:
        def version(name: str) -> str:
            found = versions.get(name.replace("-", "_"), real(name) if name not in versions else None)
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", version)

    return pretend


def found(title: str) -> Problem | str:
    return dict(diagnose(Plugins()))[title]


def test_it_looks_at_everything(plugins: PluginFactory) -> None:
    titles = [title for title, _ in diagnose(Plugins())]

    assert titles[0] == "python"
    assert {"torch", "lightning", "omegaconf", "scikit-learn", "onnx", "CUDA", "disk", "W&B", "plugin kdcore"} <= set(
        titles
    )
    assert not {"pytest", "ruff", "mypy", "kdcore"} & set(titles)  # tools for working on kdcore itself
    assert len(titles) == len(set(titles))


class TestPackages:
    def test_a_version_that_fits_is_shown(self, plugins: PluginFactory) -> None:
        assert found("pluggy") == metadata.version("pluggy")

    @pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
    def test_the_malicious_lightning_is_named(
        self, plugins: PluginFactory, installed: Callable[..., None], version: str
    ) -> None:
        installed(lightning=version)

        problem = found("lightning")

        assert isinstance(problem, Problem)
        assert problem.message == f"{version} is a malicious release"
        assert "pip install 'lightning" in problem.hint
        assert "replace every key and token this machine has held" in problem.hint

    def test_an_old_version_is_compared_with_the_pin(
        self, plugins: PluginFactory, installed: Callable[..., None]
    ) -> None:
        installed(torch="2.4.1")

        assert found("torch") == Problem("2.4.1, kdcore needs >=2.10", "pip install 'torch>=2.10'")

    @pytest.mark.parametrize("version", ["2.14.0+cpu", "2.14.0+cu130", "2.15.0.dev20261101"])
    def test_local_and_development_builds_fit(
        self, plugins: PluginFactory, installed: Callable[..., None], version: str
    ) -> None:
        installed(torch=version)

        assert found("torch") == version

    def test_a_missing_package_is_a_problem_unless_it_is_optional(
        self, plugins: PluginFactory, installed: Callable[..., None]
    ) -> None:
        installed(omegaconf=None, onnx=None)

        assert found("omegaconf") == Problem("not installed", "pip install 'omegaconf>=2.4'")
        assert str(found("onnx")).startswith("not installed, optional: pip install 'onnx>=")

    def test_pins_come_from_the_project(self) -> None:
        assert any(
            line.startswith("lightning") and "!=2.6.2" in line and "!=2.6.3" in line for line in core_requirements()
        )


class TestPython:
    def test_too_old(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")

        problem = found("python")

        assert isinstance(problem, Problem)
        assert problem.message.startswith("3.10.4 (")
        assert problem.hint == "kdcore needs Python 3.11 or newer"

    def test_the_pin_is_the_project_s(self) -> None:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")

        assert f'requires-python = ">={doctor.PYTHON}"' in text


class TestDevices:
    def test_without_cuda(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        assert found("CUDA") == f"none (torch {torch.__version__}): everything runs on the CPU"

    def test_with_cuda(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        class Properties:
            name, total_memory = "A GPU", 80 * 2**30

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
        monkeypatch.setattr(torch.version, "cuda", "13.0")

        assert found("CUDA") == "13.0: A GPU (80 GiB), A GPU (80 GiB)"

    def test_a_torch_that_does_not_import(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def refuse(name: str, *rest: Any) -> Any:
            if name == "torch":
                raise OSError("libcudart.so: cannot open")
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", refuse)

        assert found("CUDA") == Problem(
            "torch does not work: OSError: libcudart.so: cannot open", "see https://pytorch.org to install it"
        )


@pytest.mark.parametrize(("free", "level"), [(100 * 2**30, "ok"), (2**30, "warning")])
def test_disk(plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))

    item = found("disk")

    assert (item.level if isinstance(item, Problem) else "ok") == level
    assert f"{free / 2**30:.1f} GiB free in " in str(item)


class TestWandb:
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def test_not_logged_in(self, plugins: PluginFactory) -> None:
        assert str(found("W&B")).startswith("not logged in: runs are logged offline")

    @pytest.mark.parametrize("mode", ["offline", "disabled"])
    def test_mode(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        monkeypatch.setenv("WANDB_MODE", mode)
        monkeypatch.setenv("WANDB_API_KEY", "not-a-key")

        assert found("W&B") == f"WANDB_MODE={mode}"

    def test_a_key_is_noticed_and_not_shown(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "not-a-key")

        assert found("W&B") == "logged in to api.wandb.ai"

    @pytest.mark.parametrize(
        ("text", "logged_in"),
        [
            ("machine api.wandb.ai login user password x\n", True),
            ("machine example.org login user password x\n", False),
            ("this is no netrc", False),
        ],
    )
    def test_netrc(self, plugins: PluginFactory, tmp_path: Path, text: str, logged_in: bool) -> None:
        (tmp_path / "netrc").write_text(text)
        (tmp_path / "netrc").chmod(0o600)

        assert str(found("W&B")).startswith("logged in") == logged_in

    def test_an_own_server(self, plugins: PluginFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8443")
        (tmp_path / "netrc").write_text("machine wandb.example.org login user password x\n")
        (tmp_path / "netrc").chmod(0o600)

        assert found("W&B") == "logged in to wandb.example.org"


class TestPlugins:
    def test_each_plugin_has_a_line(self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        plugins.install("detection")
        plugins.install("broken", "print('hm')\nraise ValueError('no')")
        plugins.install("speech")
        monkeypatch.setenv("KDCORE_PLUGINS", "detection,broken")

        findings = dict(diagnose(Plugins()))

        assert findings["plugin detection"] == "kdcore-detection 1.0: 2 components"
        assert findings["plugin speech"] == "kdcore-speech 1.0 is disabled: KDCORE_PLUGINS does not name it"
        broken = findings["plugin broken"]
        assert isinstance(broken, Problem)
        assert broken.message.startswith("kdcore-broken 1.0 is broken: ValueError: no (")
        assert broken.hint == "it printed while loading: hm"

    def test_a_healthy_plugin_that_prints_is_a_warning(self, plugins: PluginFactory) -> None:
        plugins.install("detection", "print('hello')\n" + HEAD + "@hookimpl\ndef kdcore_register(add): ...")

        item = found("plugin detection")

        assert item == Problem("kdcore-detection 1.0: 0 components", "it printed while loading: hello", level="warning")

    def test_what_a_plugin_misses_is_shown(self, plugins: PluginFactory) -> None:
        plugins.install("detection", HEAD + "@hookimpl\ndef kdcore_check_environment(): return [Problem('no COCO')]")

        assert ("environment", Problem("detection: no COCO")) in diagnose(Plugins())


class TestShow:
    FINE: Finding = ("python", "3.11")
    WARNING: Finding = ("disk", Problem("1 GiB", "make room", level="warning"))
    ERROR: Finding = ("torch", Problem("2.4", "update"))
    PLUGIN: Finding = ("plugin x", Problem("broken"))

    @pytest.mark.parametrize(
        ("findings", "code"),
        [
            ([], 0),
            ([FINE, WARNING], 0),
            ([FINE, ERROR], 1),
            ([FINE, PLUGIN], 3),
            ([ERROR, PLUGIN, FINE], 3),
            ([("plugin x", Problem("chatty", level="warning"))], 0),
        ],
    )
    def test_exit_code(self, findings: list[Finding], code: int) -> None:
        assert show(findings) == code

    def test_one_line_each_with_the_hint_below(self, capsys: pytest.CaptureFixture[str]) -> None:
        show([self.FINE, self.WARNING, self.PLUGIN])

        assert capsys.readouterr().out == (
            "ok       python    3.11\n"
            "warning  disk      1 GiB\n"
            "                   make room\n"
            "error    plugin x  broken\n"
        )

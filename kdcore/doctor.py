"""What is wrong with this installation: versions, devices, disk, plugins, accounts."""

from __future__ import annotations

import netrc
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.version import Version

from kdcore.discovery import core_requirements
from kdcore.errors import PluginError, Problem, RunError

if TYPE_CHECKING:
    from kdcore.plugins import Plugins

Finding = tuple[str, Problem | str]
"""A title, and what is wrong or, as text, what is fine."""

MALICIOUS = {"lightning": ("2.6.2", "2.6.3")}
"""Releases that were tampered with and must not be run."""

PYTHON = Version("3.11")
LITTLE_SPACE = 5 * 2**30
"""Bytes: below this a few checkpoints of a middling net fill the disk."""


def diagnose(plugins: Plugins) -> list[Finding]:
    """Look at everything; loads all plugins and imports torch."""
    return [
        _python(),
        *_packages(),
        _devices(),
        _disk(Path.cwd()),
        _wandb(),
        *_plugins(plugins),
        *(("environment", problem) for problem in plugins.check_environment()),
    ]


def show(findings: Sequence[Finding]) -> int:
    """Print the findings, one a line with its hint below.

    Returns:
        0 when nothing is broken, 3 when a plugin is, else 1.
    """
    width = max((len(title) for title, _ in findings), default=0)
    for title, found in findings:
        level = found.level if isinstance(found, Problem) else "ok"
        text = f"{found.message}\n{found.hint}".rstrip() if isinstance(found, Problem) else found
        print(f"{level:<7}  {title:<{width}}  " + text.replace("\n", "\n" + " " * (width + 11)))
    broken = {title for title, found in findings if isinstance(found, Problem) and found.level == "error"}
    if any(title.startswith("plugin ") for title in broken):
        return PluginError.exit_code
    return RunError.exit_code if broken else 0


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    if Version(platform.python_version()) < PYTHON:
        return "python", Problem(text, f"kdcore needs Python {PYTHON} or newer")
    return "python", text


def _packages() -> Iterator[Finding]:
    """What the core requires; what its extras require is optional."""
    seen = set()
    for requirement in map(Requirement, core_requirements()):
        extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if requirement.name in seen or (extra and not _offered(requirement)):
            continue
        seen.add(requirement.name)
        yield _package(requirement, optional=extra)


def _offered(requirement: Requirement) -> bool:
    """Extras for users, not the tools for working on kdcore itself."""
    return requirement.marker is not None and any(
        requirement.marker.evaluate({"extra": extra}) for extra in ("digits", "onnx")
    )


def _package(wanted: Requirement, *, optional: bool) -> Finding:
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        install = f"pip install '{wanted.name}{wanted.specifier}'"
        return wanted.name, f"not installed, optional: {install}" if optional else Problem("not installed", install)
    if installed in MALICIOUS.get(wanted.name, ()):
        return wanted.name, Problem(
            f"{installed} is a malicious release",
            f"pip install '{wanted.name}{wanted.specifier}', then replace every key and token this machine has held",
        )
    if not wanted.specifier.contains(installed, prereleases=True):
        return wanted.name, Problem(
            f"{installed}, kdcore needs {wanted.specifier}", f"pip install '{wanted.name}{wanted.specifier}'"
        )
    return wanted.name, installed


def _devices() -> Finding:
    try:
        import torch

        if not torch.cuda.is_available():
            return "CUDA", f"none (torch {torch.__version__}): everything runs on the CPU"
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    except Exception as error:  # a torch build that does not fit the machine fails in many ways
        return "CUDA", Problem(
            f"torch does not work: {type(error).__name__}: {error}", "see https://pytorch.org to install it"
        )
    names = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in found)
    return "CUDA", f"{torch.version.cuda}: {names}"


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < LITTLE_SPACE:
        return "disk", Problem(text, "checkpoints may not fit; choose another folder with --runs", level="warning")
    return "disk", text


def _wandb() -> Finding:
    mode = os.environ.get("WANDB_MODE", "")
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if mode in ("offline", "disabled"):
        return "W&B", f"WANDB_MODE={mode}"
    if os.environ.get("WANDB_API_KEY") or _in_netrc(host):
        return "W&B", f"logged in to {host}"
    return "W&B", "not logged in: runs are logged offline; `wandb login` for `mode: online`"


def _in_netrc(host: str) -> bool:
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _plugins(plugins: Plugins) -> Iterator[Finding]:
    for item in plugins.describe():
        title = f"plugin {item['name']}"
        printed = item["output"].strip()
        if item["status"] == "broken":
            yield title, Problem(f"{_origin(item)} is broken: {item['reason']}", _printed(printed))
        elif item["status"] == "disabled":
            yield title, f"{_origin(item)} is disabled: {item['reason']}"
        elif printed:
            yield title, Problem(_healthy(item), _printed(printed), level="warning")
        else:
            yield title, _healthy(item)


def _origin(item: dict[str, Any]) -> str:
    return f"{item['distribution']} {item['version']}".strip()


def _healthy(item: dict[str, Any]) -> str:
    return f"{_origin(item)}: {sum(map(len, item['components'].values()))} components"


def _printed(text: str) -> str:
    return f"it printed while loading: {text}" if text else ""

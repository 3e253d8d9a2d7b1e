"""Runs other people's code at arm's length: whatever it raises or prints, kdcore goes on."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from kdcore.errors import PluginError, Problem

_HERE = str(Path(__file__).parent) + os.sep
_STDLIB = str(Path(os.__file__).parent) + os.sep


class Output(io.StringIO):
    """Keeps what a plugin prints while it loads, out of the way of ``--json``.

    A logging handler made at import keeps its stream for good, so after loading this one passes on to stderr.
    """

    loading = True

    def write(self, text: str) -> int:
        return super().write(text) if self.loading else sys.stderr.write(text)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Everything printed through Python inside the block is kept here."""
        try:
            with redirect_stdout(self), redirect_stderr(self):
                yield
        finally:
            self.loading = False


def explain(error: BaseException) -> str:
    """The error in one line, with the place in the plugin that raised it."""
    if isinstance(error, SystemExit):
        what = f"it calls sys.exit({error.code!r})"
    elif isinstance(error, PluginError):
        what = " ".join(f"{problem.message}; {problem.hint}".removesuffix("; ") for problem in error.problems)
    elif isinstance(error, SyntaxError):
        what = f"{type(error).__name__}: {error.msg}"
    else:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    place = _place(error)
    return f"{what} ({place[0]}:{place[1]})" if place else what


def in_file(path: Path, error: BaseException) -> Problem:
    """The failure of a plugin file, at the line of that file where it happened."""
    if isinstance(error, PluginError) and error.problems[0].line:
        return error.problems[0]
    place = _place(error, str(path))
    return Problem(f"the plugin file fails: {explain(error)}", file=str(path), line=place[1] if place else 1)


def import_file(path: Path) -> ModuleType:
    """Import one file outside of any package; ``sys.modules`` holds it, so that its classes know their file.

    Raises:
        PluginError: there is no such file, or it is not called ``*.py``.
        BaseException: whatever the file raises.
    """
    name = f"kdcore_local_{path.stem}_{sha256(os.fsencode(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        what = "is not a Python file" if path.is_file() else "does not exist"
        raise PluginError([Problem(f"the plugin file {what}", "give the path of a .py file").at(str(path), 1)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: BaseException, file: str = "") -> tuple[str, int] | None:
    """File and line of the innermost frame: of this file, or else of anything but kdcore and the standard library."""
    if isinstance(error, SyntaxError) and error.filename and file in ("", error.filename):
        return error.filename, error.lineno or 1
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file or (not file and not _is_machinery(frame.filename)):
            return frame.filename, frame.lineno or 1
    return None


def _is_machinery(file: str) -> bool:
    ours = file.startswith((_HERE, "<frozen ")) or f"{os.sep}pluggy{os.sep}" in file
    return ours or (file.startswith(_STDLIB) and "site-packages" not in file)

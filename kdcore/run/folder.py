"""The folder of a run: made exclusively, written atomically, found again when it was interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

import yaml

from kdcore.atomic import replacing
from kdcore.errors import RunError

RUN_FILE, RECIPE_FILE, STAGE_FILE, REPORT_FILE = "run.yaml", "recipe.yaml", "stage.json", "report.json"

FOLDER = "KDCORE_RUN_FOLDER"
"""Environment variable that tells the processes on other devices which folder the first one made."""


class RunFolder:
    """``runs/<name>/<time>-<4 hex>/``, held by one process while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, runs: Path, name: str) -> RunFolder:
        """A new folder that nobody else has. The digits after the time are the fraction of the second, so names sort.

        Raises:
            RunError: nothing can be made there.
        """
        root = runs / name
        try:
            root.mkdir(parents=True, exist_ok=True)
            while True:
                now = time.time()
                second = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
                path = root / f"{second}-{int(now % 1 * 0x10000):04x}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                return cls(path)
        except OSError as error:
            raise RunError(
                f"no run folder can be made in {root}: {error.strerror}; choose another place with --runs DIR"
            ) from error

    @property
    def finished(self) -> bool:
        """Whether the report has been written."""
        return (self.path / REPORT_FILE).is_file()

    def lock(self) -> bool:
        """Hold the folder; ``False`` where another process does, or another user owns it.

        The system lets go when the process ends, however it ends.

        Raises:
            RunError: the file system knows no locks.
        """
        try:
            file = (self.path / ".lock").open("w")
        except PermissionError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            raise RunError(
                f"{self.path} cannot be locked ({error.strerror}), so two runs could write into it: "
                "choose a place on another file system with --runs DIR"
            ) from error
        self._lock = file
        _held.add(self)
        return True

    def release(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def stage(self, name: str, *, seed: int | None) -> Path:
        """The folder of one stage, of one seed where there are several."""
        path = self.path / name if seed is None else self.path / f"seed-{seed}" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def read(self) -> dict[str, Any]:
        """``run.yaml``, or nothing where it is missing or broken."""
        try:
            loaded = yaml.safe_load((self.path / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def write(self, content: dict[str, Any], file: str = RUN_FILE) -> None:
        """Write ``run.yaml``, or another YAML file."""
        write_text(self.path / file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


_held: WeakSet[RunFolder] = WeakSet()


def _let_go_in_child() -> None:
    """A forked worker shares the lock, and would hold it for some seconds after its parent was killed."""
    for folder in list(_held):
        folder.release()


os.register_at_fork(after_in_child=_let_go_in_child)


def open_folder(runs: Path, name: str, identity: str, *, fresh: bool) -> tuple[RunFolder, bool]:
    """The newest unfinished run of this identity, held; else a new folder.

    Returns:
        The folder, and whether it is being resumed.

    Raises:
        RunError: no folder can be made or locked there.
    """
    for folder in () if fresh else _folders(runs, name):
        if not folder.finished and folder.read().get("identity") == identity and folder.lock():
            if not folder.finished:  # it may have been finished just before it was let go
                return folder, True
            folder.release()
    folder = RunFolder.create(runs, name)
    folder.lock()
    return folder, False


def find_stage(runs: Path, name: str, stage: str, identity: str) -> Path | None:
    """The newest finished stage of this identity under ``runs/<name>/``."""
    for folder in _folders(runs, name):
        for place in (folder.path, *sorted(folder.path.glob("seed-*"))):
            found = read_json(place / stage / STAGE_FILE)
            if found is not None and found.get("identity") == identity:
                return place / stage
    return None


def adopt(source: Path, target: Path) -> None:
    """Make a finished stage part of another run: linked where the disk can, else copied; its marker last.

    Checkpoints and hidden files stay behind.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir(), key=lambda path: path.name == STAGE_FILE):
        if not file.is_file() or file.name.startswith(".") or file.suffix == ".ckpt":
            continue
        with replacing(target / file.name) as beside:
            try:
                os.link(file, beside)
            except OSError:
                shutil.copy2(file, beside)


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or ``None`` where the file is missing or no object."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed versions of these distributions, without importing them."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_sha(folder: Path) -> str | None:
    """The commit a folder is at, with ``+`` where tracked files differ from it; ``None`` outside of git."""
    try:
        sha = _git(folder, "rev-parse", "HEAD")
        return sha + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _folders(runs: Path, name: str) -> Iterator[RunFolder]:
    """The runs of a name, newest first; folders that a person named come last."""
    root = runs / name
    found = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    for path in sorted(found, key=lambda path: (path.name[:1].isdigit(), path.name), reverse=True):
        yield RunFolder(path)

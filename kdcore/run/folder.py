"""The folder of a run: made exclusively, written atomically, found again when it was interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml

from kdcore.errors import RunError

RUN_FILE, STAGE_FILE, REPORT_FILE = "run.yaml", "stage.json", "report.json"


class RunFolder:
    """``runs/<name>/<time>-<4 hex>/``, held by one process while it runs.

    Raises:
        RunError: another process is running in this folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, runs: Path, name: str) -> RunFolder:
        """A new folder that nobody else has."""
        while True:
            path = runs / name / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            try:
                path.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                continue
            return cls(path)

    @property
    def finished(self) -> bool:
        """Whether the report has been written."""
        return (self.path / REPORT_FILE).is_file()

    def lock(self) -> bool:
        """Hold the folder; ``False`` where another process does. The system lets go when the process ends."""
        file = (self.path / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._lock = file
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
        """``run.yaml``, or nothing where it is not there."""
        file = self.path / RUN_FILE
        loaded = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return loaded if isinstance(loaded, dict) else {}

    def write(self, content: dict[str, Any]) -> None:
        """Write ``run.yaml``."""
        write_atomically(self.path / RUN_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def open_folder(runs: Path, name: str, identity: str, *, fresh: bool) -> tuple[RunFolder, bool]:
    """The newest unfinished run of this identity, held; else a new folder.

    Returns:
        The folder, and whether it is being resumed.
    """
    if not fresh:
        for folder in _folders(runs, name):
            if not folder.finished and folder.read().get("identity") == identity and folder.lock():
                return folder, True
    folder = RunFolder.create(runs, name)
    if not folder.lock():
        raise RunError(f"{folder.path} was taken by another process as it was made: run the command again")
    return folder, False


def find_stage(runs: Path, name: str, stage: str, identity: str) -> Path | None:
    """The newest finished stage of this identity under ``runs/<name>/``."""
    for folder in _folders(runs, name):
        for candidate in (folder.path / stage, *sorted(folder.path.glob(f"seed-*/{stage}"))):
            found = read_json(candidate / STAGE_FILE)
            if found is not None and found.get("identity") == identity:
                return candidate
    return None


def adopt(source: Path, target: Path) -> None:
    """Make a finished stage part of another run: linked where the disk can, else copied; its marker last."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir(), key=lambda path: path.name == STAGE_FILE):
        if not file.is_file() or file.name.startswith(".") or file.suffix == ".ckpt":
            continue
        place = target / file.name
        place.unlink(missing_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)


def write_atomically(path: Path, text: str) -> None:
    """Write text beside its place, flush it to the disk, rename it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON atomically."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
    """The runs of a name, newest first."""
    root = runs / name
    for path in sorted(root.iterdir(), reverse=True) if root.is_dir() else ():
        if path.is_dir():
            yield RunFolder(path)

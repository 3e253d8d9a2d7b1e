"""Weights by their address: files, earlier runs, the hub."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from kdcore.errors import RunError, did_you_mean
from kdcore.weights.state import State, read_state


def scheme_of(uri: str) -> str:
    """The name of the ``weights`` component that reads an address; a bare path is a ``file``.

    A component is called ``f(uri, *, runs) -> (state, pinned uri)``; the pinned address gives the same again.
    """
    return uri.split("://", 1)[0] if "://" in uri else "file"


def from_file(uri: str, *, runs: Path) -> tuple[State, str]:
    """``file://PATH`` or a bare path, which ``check`` has made absolute against the recipe; ``~`` expands.

    Pinned as the absolute path and the SHA-256 of the content (``#sha256=...``), which is checked when it is given.
    """
    name, _, expected = uri.removeprefix("file://").partition("#sha256=")
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise RunError(f"weights `{uri}`: there is no file {path}{_neighbours(path)}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and digest != expected:
        raise RunError(
            f"weights `{uri}`: {path} has changed since this run began (its SHA-256 is now {digest}); "
            "put the old file back, or start a new run with --fresh"
        )
    return read_state(path), f"file://{path}#sha256={digest}"


def from_run(uri: str, *, runs: Path) -> tuple[State, str]:
    """``run://NAME[/RUN]/STAGE/MODEL``: what a stage of an earlier run left, pinned to that very run.

    Without RUN, the newest finished run (one that has a ``report.json``). Of a run with several seeds, the first.
    """
    path = run_file(uri, runs=runs)
    run, (stage, model) = run_of(path.parent), (path.parent.name, path.stem)
    return read_state(path), f"run://{run.parent.name}/{run.name}/{stage}/{model}"


def run_of(stage: Path) -> Path:
    """The run folder of a stage's folder, between which each seed may have one of its own."""
    return stage.parent.parent if stage.parent.name.startswith("seed-") else stage.parent


def local_file(uri: str, *, runs: Path) -> Path | None:
    """The file that an address means now; ``None`` where it is no file of this machine, or there is none."""
    if uri.startswith("run://"):
        with suppress(RunError):
            return run_file(uri, runs=runs)
    path = Path(uri.removeprefix("file://").partition("#")[0])
    return path if uri.startswith("file://") and path.is_file() else None


def run_file(uri: str, *, runs: Path) -> Path:
    """The file that a ``run://`` address means now.

    Raises:
        RunError: there is none.
    """
    parts = uri.removeprefix("run://").split("/")
    if len(parts) not in (3, 4) or not all(part.strip(".") for part in parts):
        raise RunError(f"weights `{uri}`: write it as run://NAME/STAGE/MODEL or run://NAME/RUN/STAGE/MODEL")
    name, stage, model = parts[0], parts[-2], parts[-1]
    run = runs / name / parts[1] if len(parts) == 4 else _newest(uri, runs, name)
    seeds = sorted((path for path in run.glob("seed-*")), key=lambda path: (len(path.name), path.name))
    for folder in (run, *seeds):
        path = folder / stage / f"{model}.safetensors"
        if path.is_file():
            return path
    found = [f"{file.parent.name}/{file.stem}" for file in sorted(run.glob("**/*.safetensors"))]
    hint = did_you_mean(f"{stage}/{model}", found) or "there is no such run, or it has not finished a stage yet"
    raise RunError(f"weights `{uri}`: {run} holds no {stage}/{model}.safetensors; {hint}")


def from_hub(uri: str, *, runs: Path) -> tuple[State, str]:
    """``hf://OWNER/NAME[@REVISION]`` from the Hugging Face Hub, pinned to the commit.

    Reads ``model.safetensors``, else all ``*.safetensors``, else ``pytorch_model.bin``.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError:
        raise RunError(f"weights `{uri}`: reading from the hub needs `pip install huggingface_hub`") from None
    repository, _, revision = uri.removeprefix("hf://").partition("@")
    if repository.count("/") != 1:
        raise RunError(f"weights `{uri}`: write it as hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    try:
        info = HfApi().model_info(repository, revision=revision or None)
        files = [sibling.rfilename for sibling in info.siblings or ()]
        state: State = {}
        for file in _weight_files(uri, files):
            state |= read_state(Path(hf_hub_download(repository, file, revision=info.sha)))
    except RunError:
        raise
    except Exception as error:  # no network, no such repository, no permission: the hub has many exceptions
        raise RunError(f"weights `{uri}`: the hub did not give them: {type(error).__name__}: {error}") from error
    return state, f"hf://{repository}@{info.sha}"


def _newest(uri: str, runs: Path, name: str) -> Path:
    finished = sorted(report.parent for report in (runs / name).glob("*/report.json"))
    if not finished:
        others = [folder.name for folder in runs.glob("*") if folder.is_dir() and folder.name != name]
        known = did_you_mean(name, others) if not (runs / name).is_dir() else "wait for it, or name a run"
        raise RunError(f"weights `{uri}`: there is no finished run in {runs / name}; {known}".rstrip("; "))
    return finished[-1]  # their names begin with the time


def _weight_files(uri: str, files: list[str]) -> list[str]:
    safe = sorted(file for file in files if file.endswith(".safetensors"))
    for choice in (["model.safetensors"], safe, ["pytorch_model.bin"]):
        if choice and set(choice) <= set(files):
            return choice
    raise RunError(f"weights `{uri}`: the repository holds neither *.safetensors nor pytorch_model.bin, but {files}")


def _neighbours(path: Path) -> str:
    files = [file.name for file in path.parent.glob("*") if file.is_file()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, files)
    return f"; {hint}" if hint and len(hint) < 200 else ""

"""Weights & Biases, through Lightning's own logger, kept inside the run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger, WandbLogger

WEIGHTS = frozenset({".safetensors", ".onnx", ".pt2"})
"""Files that are a model to W&B; all others belong to the report."""


def wandb(
    folder: Path,
    run_name: str,
    run_id: str,
    *,
    project: str = "kdcore",
    mode: Literal["offline", "online"] = "offline",
    entity: str | None = None,
    tags: list[str] | None = None,
) -> WandbLogger:
    """A W&B run in ``folder/wandb``; the same ``run_id`` continues the same run.

    Offline it needs no account and no network; ``wandb sync`` sends it later. Several may live in one process, one
    for each seed.

    Args:
        project: the project it appears under.
        mode: ``offline`` writes to the folder only, ``online`` sends as it goes (log in with ``wandb login`` first).
        entity: the team or user it belongs to; your default one when left out.
        tags: labels to filter runs by.
    """
    # Imported here: this module shares its name, and `import wandb` takes a second.
    from wandb import Settings

    logger = WandbLogger(
        name=run_name,
        save_dir=folder,
        id=run_id,
        project=project,
        offline=mode == "offline",
        mode=mode,
        entity=entity,
        tags=tags,
        # a run of its own, also where another seed's is still open
        reinit="create_new",
        settings=Settings(silent=mode == "offline", console="off"),
    )
    # Lightning passes it on even when nobody asked for it, and W&B then warns that it means nothing any more
    logger._wandb_init.pop("anonymous", None)
    with _inside(folder):
        _ = logger.experiment  # opens the run now, while W&B can be told where its own files go
    return logger


def log_artifacts(logger: Logger, files: Mapping[str, Path]) -> None:
    """Hands files to W&B as artifacts of the run: ``model-<id>`` with the weights, ``report-<id>`` with the rest.

    The files are referred to where they are, not copied: an offline run is synced from there. Loggers other than W&B
    are left alone.

    Args:
        files: name inside the artifact -> file.
    """
    if not isinstance(logger, WandbLogger) or logger.version is None:
        return
    from wandb import Artifact

    folder = Path(logger.save_dir or ".")
    with _inside(folder):
        for kind, wanted in (("model", True), ("report", False)):
            chosen = {name: path for name, path in files.items() if (path.suffix in WEIGHTS) is wanted}
            if chosen:
                artifact = Artifact(f"{kind}-{logger.version}", type=kind)
                for name, path in chosen.items():
                    artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
                logger.experiment.log_artifact(artifact)


def finish(logger: Logger) -> None:
    """Ends the W&B run as a success; one that is never finished counts as crashed when the process ends."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """W&B keeps logs and staged files in the home directory, unless the environment names another place."""
    places = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data"}
    mine = {key: str((folder / "wandb" / place).absolute()) for key, place in places.items() if key not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key in mine:
            os.environ.pop(key, None)

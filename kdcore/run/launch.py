"""Processes that torchrun or srun started: the first one tells the others which run folder it made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.rendezvous import rendezvous

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # as `torch.distributed.Store`, which torch does not mark as exported

_FOLDER = "kdcore/run-folder"


@dataclass(frozen=True)
class Launch:
    """Where the processes of one launch meet, before the trainer joins them to a group.

    Rank 0 must keep this until the group is there: it may serve the store.
    """

    store: Store

    def tell(self, folder: Path) -> None:
        """Say which folder it is; after ``run.yaml`` is in it."""
        self.store.set(_FOLDER, str(folder.absolute()))

    def hear(self) -> Path:
        """Wait until the first process has said it."""
        return Path(self.store.get(_FOLDER).decode())


def launch() -> Launch | None:
    """``None`` where the trainer itself starts the other processes, or there is only one.

    torchrun comes first, as in Lightning: it may run inside a SLURM job.
    """
    kinds: tuple[type[ClusterEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment)
    kind = next((kind for kind in kinds if kind.detect()), None)
    environment = None if kind is None else kind()
    if environment is None or environment.world_size() == 1:
        return None
    environ["MASTER_ADDR"], environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    # the store that the process group will use as well: no second port
    meeting = rendezvous("env://", environment.global_rank(), environment.world_size(), timeout=timedelta(minutes=30))
    store, *_ = next(meeting)
    return Launch(store)

"""Processes of torchrun and srun meet before the trainer joins them."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from kdcore.run.launch import Launch, launch

STARTERS = ("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_WORLD_SIZE", "MASTER_")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(STARTERS)]:
        monkeypatch.delenv(name)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


def torchrun(monkeypatch: pytest.MonkeyPatch, rank: int, world: int, port: int) -> None:
    for name, value in {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "GROUP_RANK": 0, "LOCAL_WORLD_SIZE": world,
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": port,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))


def test_one_process_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch() is None
    torchrun(monkeypatch, rank=0, world=1, port=free_port())
    assert launch() is None


def test_the_others_hear_what_the_first_has_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = free_port()
    torchrun(monkeypatch, rank=0, world=2, port=port)
    first: list[Launch | None] = []
    serving = threading.Thread(target=lambda: first.append(launch()))
    serving.start()
    serving.join(1)  # the first process serves the store, and does not wait for the others
    torchrun(monkeypatch, rank=1, world=2, port=port)
    second = launch()
    serving.join(30)
    (told,) = first
    assert told is not None
    assert second is not None
    heard: list[Path] = []
    waiting = threading.Thread(target=lambda: heard.append(second.hear()))
    waiting.start()
    waiting.join(0.2)
    assert heard == []  # it waits until the folder is there

    monkeypatch.chdir(tmp_path)
    told.tell(Path("runs") / "one")
    waiting.join(30)

    assert heard == [tmp_path / "runs" / "one"]

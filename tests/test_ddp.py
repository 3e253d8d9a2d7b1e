"""Two processes that divide every batch end with the weights of one that has it whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from workshop import Workshop, weights

WORDS = (
    "models.teacher={use: convnet, width: 3, norm: none}",  # BatchNorm would see half a batch
    "models.student={use: convnet, width: 2, norm: none}",
    "data={use: digits, batch_size: 64, labels: 100}",  # 16 batches, each with another number of labels
    "trainer.accumulate_grad_batches=3",  # the last window of an epoch has one batch
)
GROUP = ("trainer.devices=2", "trainer.strategy=ddp")


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    one, two = Workshop(tmp_path / "one"), Workshop(tmp_path / "two")
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    started = subprocess.Popen(
        [sys.executable, "-m", "kdcore", "fit", str(two.recipe), *WORDS, *GROUP, "--runs", str(two.runs)],
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=two.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    one.fit(*WORDS)
    out, err = started.communicate(timeout=240)
    assert started.returncode == 0, err

    (single,), (double,) = one.folders(), two.folders()
    wanted, found = weights(single), weights(double)
    assert found.keys() == wanted.keys()
    assert len(found) > 20
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    # more than the initial weights are compared
    assert two.report()["models"]["teacher"]["metrics"] == one.report()["models"]["teacher"]["metrics"]

    # each rank goes on with its own random numbers
    for folder, ranks in ((single, 1), (double, 2)):
        assert len(torch.load(folder / "distil" / "last.ckpt", weights_only=True)["rng"]) == ranks

    lines = out.splitlines()
    assert len(lines) == len(set(lines)), out
    assert lines[0] == f"run folder: {double}"
    assert lines[-1] == f"report: {double / 'report.md'}"
    assert sum("`student` has accuracy" in line for line in lines) == 1
    assert err.count("epoch 2/2") == 3  # one line for each stage
    rows = (double / "distil" / "metrics.csv").read_text().splitlines()
    assert len(rows) == len({tuple(row.split(",")[:2]) for row in rows})

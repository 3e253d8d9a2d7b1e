"""The same nets, losses, data and optimizer end to end: kdcore as `fit` runs it against torchdistill.

    pip install --no-deps torchdistill
    python benchmarks/against_torchdistill.py [--steps 1000] [--rounds 5]

Both get the samples in memory and load them their own way; torchdistill's loop is the one of its examples. They run
in turn, A B A B, in one process; the figure is the median over rounds of the ratio of their times per step.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from typing import Any

import torch
from overhead import BATCH, kdcore, loader, nets
from torch.utils.data import TensorDataset

from kdcore.run.quiet import quiet

CONFIG: dict[str, Any] = {
    "num_epochs": 1,
    "train_data_loader": {
        "dataset_id": "train",
        "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
        "kwargs": {"batch_size": BATCH},
    },
    "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
    "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
    "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "fused": True}},
    "criterion": {
        "key": "WeightedSumLoss",
        "kwargs": {
            "sub_terms": {
                "kd": {
                    "criterion": {
                        "key": "KDLoss",
                        "kwargs": {
                            "student_module_path": ".",
                            "student_module_io": "output",
                            "teacher_module_path": ".",
                            "teacher_module_io": "output",
                            "temperature": 2.0,
                            "alpha": 0.1,
                            "reduction": "batchmean",
                        },
                    },
                    "weight": 1.0,
                }
            }
        },
    },
}


def torchdistill(steps: int) -> float:
    from copy import deepcopy

    from torchdistill.core.distillation import get_distillation_box

    teacher, student = nets()
    batch = loader(steps * BATCH).dataset.__getitems__(torch.arange(steps * BATCH))  # type: ignore[attr-defined]
    box = get_distillation_box(
        teacher,
        student,
        {"train": TensorDataset(batch["image"], batch["labels"])},
        deepcopy(CONFIG),
        torch.device("cpu"),
        [],
        False,
        1,
    )
    start = time.perf_counter()
    box.pre_epoch_process(epoch=0)
    for sample_batch, targets, supplement in box.train_data_loader:
        box.pre_forward_process()
        loss = box.forward_process(sample_batch, targets, supplement)
        box.post_forward_process(loss=loss)
    box.post_epoch_process()
    return 1000 * (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    for warm in (torchdistill, kdcore):
        warm(100)
    rows = [(torchdistill(options.steps), kdcore(options.steps)) for _ in range(options.rounds)]
    for theirs, ours in rows:
        print(f"torchdistill {theirs:.3f} ms  kdcore {ours:.3f} ms")
    ratios = [ours / theirs for theirs, ours in rows]
    print(f"kdcore / torchdistill: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()

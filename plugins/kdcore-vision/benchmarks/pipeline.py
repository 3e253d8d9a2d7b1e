"""How long a student waits for its pictures: the share of a training's time that is spent in the loader.

    python benchmarks/pipeline.py [--pictures 2000] [--size 96] [--workers 2]

JPEG files of 256x256 in class folders, read from disk every time (`keep: disk`) and in memory, each with and without
RandomResizedCrop, flip and RandAugment; the student is MobileNetV3-small (0.5) at the given size, on one thread. The
goal is a wait of less than 5 % with two workers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from kdcore.data.augment import Chain
from kdcore.data.base import Treatment
from kdcore.transforms.torchvision import Torchvision
from PIL import Image

from kdcore_vision.data.folders import Folders
from kdcore_vision.models.timm import timm
from kdcore_vision.task import ClassifyImages


def write(folder: Path, pictures: int) -> None:
    """Smooth noise, which takes a JPEG decoder about as long as a photograph does."""
    random = np.random.default_rng(0)
    for number in range(pictures):
        path = folder / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        small = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)


def chain(size: int) -> Chain:
    crop = {"size": [size, size], "antialias": True}
    return Chain(
        {
            "crop": Torchvision(name="RandomResizedCrop", options=crop),
            "flip": Torchvision(name="RandomHorizontalFlip"),
            "augment": Torchvision(name="RandAugment"),
        }
    )


def measure(data: Folders, net: torch.nn.Module) -> tuple[float, float]:
    """The share of the time that was spent waiting, and pictures a second."""
    task, optimizer = ClassifyImages(classes=4), torch.optim.SGD(net.parameters(), 0.01)
    waited, seen = 0.0, 0
    batches = iter(data.train_dataloader())
    next(batches)  # workers start
    start = mark = time.perf_counter()
    for batch in batches:
        waited += time.perf_counter() - mark
        logits = task.signals(net, batch, {})["logits"]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
        optimizer.step()
        seen += len(batch["id"])
        mark = time.perf_counter()
    total = time.perf_counter() - start
    return waited / total, seen / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = timm(name="mobilenetv3_small_050", classes=4).train()
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.pictures)
        for keep, augmented in ((keep, augmented) for keep in ("memory", "disk") for augmented in (False, True)):
            kept: Any = keep
            share, speed = _run(Path(name), kept, augmented, options, net)
            what = f"{keep}, {'RandAugment' if augmented else 'as they are'}, {options.workers} workers"
            print(f"{what:<38} waits {share:6.1%} of the time, {speed:.0f} pictures/s")


def _run(
    folder: Path, keep: Literal["memory", "disk"], augmented: bool, options: argparse.Namespace, net: torch.nn.Module
) -> tuple[float, float]:
    size = (options.size, options.size)
    data = Folders(path=folder, size=size, keep=keep, workers=options.workers, batch_size=32)
    if augmented:
        data.treatment = Treatment(chain=chain(options.size))
    data.split("train")
    return measure(data, net)


if __name__ == "__main__":
    main()

"""What 8 bits cost the student of the README's table: accuracy, bytes and time of an answer.

    FASHION_MNIST=/usr/share/datasets/fashion-mnist python benchmarks/int8.py [--steps 1000] [--runs runs]

Trains the student of `vision.fashion` alone on all labels, exports it with `vision.onnx` and `vision.onnx_int8`, and
scores both files on the 10,000 test pictures, which calibration has not seen. The goal is a loss below 0.5 points.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kdcore_vision.data.fashion import FashionMNIST
from kdcore_vision.exporters import open_session


def score(path: Path, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy, and milliseconds for one picture."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    right = 0
    for start in range(0, len(images), 500):
        probabilities = session.run(["probabilities"], {name: images[start : start + 500]})[0]
        right += int((probabilities.argmax(-1) == labels[start : start + 500]).sum())
    times = []
    for row in range(200):
        begin = time.perf_counter()
        session.run(["probabilities"], {name: images[row : row + 1]})
        times.append(time.perf_counter() - begin)
    return right / len(images), 1e3 * sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    words = [
        "vision.fashion", "~stages.teach", "~stages.distil", "data.labels=null",
        f"trainer.max_steps={options.steps}", f"trainer.val_check_interval={options.steps}", "logger=null",
        "name=fashion-int8", "--runs", str(options.runs),
    ]  # fmt: skip
    kdcore = [sys.executable, "-m", "kdcore"]
    subprocess.run([*kdcore, "fit", *words], check=True)
    with tempfile.TemporaryDirectory() as folder:
        formats = ["--format", "vision.onnx", "--format", "vision.onnx_int8", "--to", folder]
        subprocess.run([*kdcore, "export", *words, *formats], check=True)
        place = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
        test = FashionMNIST(path=Path(place)).split("test").columns
        images, labels = test["image"].numpy(), test["labels"].numpy()
        found = {}
        for name in ("model.onnx", "model.int8.onnx"):
            path = Path(folder) / "alone" / name
            found[name], milliseconds = score(path, images, labels)
            print(f"{name:<16} accuracy {found[name]:.4f}  {path.stat().st_size / 1e3:.0f} kB  {milliseconds:.2f} ms")
    print(f"lost: {100 * (found['model.onnx'] - found['model.int8.onnx']):+.2f} points (goal: below 0.5)")


if __name__ == "__main__":
    main()

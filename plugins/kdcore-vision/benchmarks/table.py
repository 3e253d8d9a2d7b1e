"""The table of the README: when distilling pays on Fashion-MNIST, and when it hurts.

    FASHION_MNIST=/usr/share/datasets/fashion-mnist python benchmarks/table.py [--seeds 5] [--steps 1720] [--runs runs]

One teacher, the convolutional one of the recipe; the student alone for each number of labels; the student distilled for
each number of labels, temperature and weight; all with five seeds. The student is a perceptron of 55 thousand
parameters, as a step of it takes a tenth of a convolutional one's. Stages that are finished are reused, so it may be
stopped and started again, and a second call prints the table from what is there. 150 trainings of four passes over the
training pictures: about half an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

LABELS = ("1000", "10000", "null")
TEMPERATURES = (1, 2, 4)
WEIGHTS = (0.3, 1, 3)
STUDENT = "{use: mlp, hidden: [64, 64], features: 784, mean: [0.286], std: [0.353]}"


def fit(runs: Path, seeds: int, steps: int, labels: str, temperature: float, weight: float) -> dict[str, Any]:
    """The report of one setting."""
    overrides = [
        f"data.labels={labels}", f"losses.kd.temperature={temperature}", f"losses.kd.weight={weight}",
        f"models.student={STUDENT}", f"trainer.max_steps={steps}", f"stages.teach.trainer.max_steps={steps}",
        "trainer.enable_progress_bar=false", "logger=null",
    ]  # fmt: skip
    command = [sys.executable, "-m", "kdcore", "fit", "vision.fashion", *overrides, "--seeds", str(seeds)]
    done = subprocess.run([*command, "--runs", str(runs)], stdout=subprocess.PIPE, text=True, check=True)
    page = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("report: "))
    report: dict[str, Any] = json.loads(Path(page.removeprefix("report: ")).with_suffix(".json").read_text())
    return report


def percent(values: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, in per cent."""
    found = values["metrics"]["accuracy"]["test"]
    if not isinstance(found, dict):
        return f"{100 * found:.1f}"
    return f"{100 * found['mean']:.1f} ± {100 * found['std']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1720)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    print("| labels | temperature | weight | teacher | alone | distilled | gain, points | p | verdict |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for labels, temperature, weight in product(LABELS, TEMPERATURES, WEIGHTS):
        report = fit(options.runs, options.seeds, options.steps, labels, temperature, weight)
        models, found = report["models"], report["comparisons"]["student"]
        p = "" if found["p"] is None else f"{found['p']:.3f}"
        print(
            f"| {'55000' if labels == 'null' else labels} | {temperature} | {weight} | {percent(models['teacher'])} | "
            f"{percent(models['alone'])} | {percent(models['student'])} | {100 * found['gain']:+.1f} | {p} | "
            f"{found['verdict']} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

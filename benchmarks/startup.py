"""How long the verbs take that a person waits for at the prompt, and whether they import torch.

    python benchmarks/startup.py [--runs 7]

Whole processes, wall seconds, median and range. The goal is under 0.5 s each, without torch in ``sys.modules``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

RECIPE = str(Path(__file__).resolve().parent.parent / "recipes" / "quickstart.yaml")
VERBS = (["--help"], ["check", RECIPE], ["plugins"], ["plugins", "--json"], ["new-recipe", "classify"])
PROBE = """
import contextlib, sys
from kdcore.cli import run
with contextlib.suppress(SystemExit):
    run(sys.argv[1:])
print("torch" in sys.modules, file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    for words in VERBS:
        seconds = []
        for _ in range(options.runs + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "kdcore", *words], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        kept = seconds[1:]  # the first fills the disk cache
        probed = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=True)
        torch = probed.stderr.strip().splitlines()[-1] == "True"
        name = " ".join(Path(word).name if "/" in word else word for word in words)
        print(
            f"{name:24} median {statistics.median(kept):.2f} s, from {min(kept):.2f} to {max(kept):.2f}, "
            f"torch {'IMPORTED' if torch else 'not imported'}"
        )


if __name__ == "__main__":
    main()

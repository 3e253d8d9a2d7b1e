"""What a teacher's codes take on disk, and what a student learns from them instead of from the embeddings themselves.

    python benchmarks/mvq_storage.py [--width 256] [--codebooks 2] [--seeds 3]

A wide teacher of telephone keys is trained once. Then, seed by seed, equal students learn from few transcripts alone,
from the codes of the teacher's last block, and from that block as it is (L1 and cosine of DistilHuBERT, teacher run in
every step). The bytes are those of the table's file, its ids and its padding included, against float32 embeddings
without either. The goals: 1/200 of the bytes, and error rates that differ by less than they vary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

RECIPE = """
kdcore: 1
name: mvq_storage
task: {{use: speech.ctc}}
data: {{use: speech.tones, batch_size: 8, labels: 150}}
models:
  teacher: {{use: speech.conv, width: {width}, depth: 2}}
  codes: {{use: speech.conv, width: 32, depth: 2}}
  embeddings: ${{models.codes}}
  alone: ${{models.codes}}
stages:
  teach: {{once: true, train: teacher, data: {{labels: null}}, losses: {{ctc: {{use: speech.ctc}}}}}}
  quantise:
    once: true
    do: {{use: speech.quantise, model: teacher, layer: encoder.blocks.1, codebooks: {codebooks}}}
  alone: {{train: alone, losses: {{ctc: {{use: speech.ctc}}}}}}
  from_codes:
    train: codes
    data: {{table: quantise}}
    losses:
      ctc: {{use: speech.ctc, weight: 0.1}}
      kd: {{use: speech.mvq, at: last, codebooks: {codebooks}, weight: 0.1}}
  from_embeddings:
    train: embeddings
    teachers: [teacher]
    losses:
      ctc: {{use: speech.ctc, weight: 0.1}}
      kd: {{use: speech.distilhubert, at: last}}
taps: {{last: {{student: encoder.blocks.1, teacher: encoder.blocks.1}}}}
metrics: {{wer: {{use: speech.wer}}}}
optimizer: {{use: adamw, lr: 3.0e-3, schedule: {{use: cosine, warmup: 0.1}}}}
trainer: {{max_epochs: 15, gradient_clip_val: 1.0}}
logger: null
"""


def main() -> None:
    """Train, and print the bytes and the error rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="of the teacher's embeddings")
    parser.add_argument("--codebooks", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(RECIPE.format(width=given.width, codebooks=given.codebooks))
        words = ["fit", str(recipe), "--runs", folder, "--seeds", str(given.seeds)]
        subprocess.run([sys.executable, "-m", "kdcore", *words], check=True)
        print(stored(next(Path(folder).glob("**/quantise/table.safetensors")), given.width))
        report = json.loads(next(Path(folder).glob("**/report.json")).read_text())
    for name in ("teacher", "alone", "codes", "embeddings"):
        print(f"{name}: word error rate {rate(report, name)}")


def stored(table: Path, width: int) -> str:
    """The table's size beside that of the embeddings."""
    frames = int(load_file(table)["codes_frames"].sum())
    embeddings, codes = 4 * width * frames, table.stat().st_size
    return f"{frames} frames: {codes} bytes of codes, {embeddings} of embeddings: 1/{embeddings / codes:.0f}"


def rate(report: dict[str, Any], name: str) -> str:
    """A model's error rate, with its spread over seeds where there are several."""
    found = report["models"][name]["metrics"]["wer"]
    return f"{found['mean']:.3f} +- {found['std']:.3f}" if "mean" in found else f"{found['best']:.3f}"


if __name__ == "__main__":
    main()

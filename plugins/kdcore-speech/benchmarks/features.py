"""How fast features are made, how fast nets hear, and how much of a batch is padding.

    python benchmarks/features.py [--seconds 15] [--rounds 7]

Times are of one thread of the CPU, the median over rounds, on batches of eight clips; a real-time factor is seconds of
computing for a second of sound. The goals: features at 100 times real time, less than 10 % padding in batches of
clips of similar length.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable

import torch
from kdcore.data.loader import EpochBatches
from torch import Tensor, nn

from kdcore_speech.data.buckets import BucketBatches
from kdcore_speech.data.tones import Tones
from kdcore_speech.features import LogMel
from kdcore_speech.models.conformer import conformer
from kdcore_speech.models.conv import conv

CLIPS = 8
VOCABULARY = 32


def main() -> None:
    """Measure everything, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a clip")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for rate, mels in ((16000, 80), (8000, 40)):
        audio, lengths = sound(rate, given.seconds)
        taken = median(LogMel(sample_rate=rate, mels=mels), audio, lengths, rounds=given.rounds)
        print(f"features, {rate} Hz, {mels} mels: {CLIPS * given.seconds / taken:.0f} times real time")
    audio, lengths = sound(16000, given.seconds)
    nets: dict[str, nn.Module] = {
        "speech.conv": conv(sample_rate=16000, vocabulary=VOCABULARY),
        "speech.conformer": conformer(sample_rate=16000, vocabulary=VOCABULARY),
    }
    for name, net in nets.items():
        taken = median(net.eval(), audio, lengths, rounds=given.rounds)
        print(f"{name}, 16000 Hz: real-time factor {taken / (CLIPS * given.seconds):.5f}")
    for name, seconds in durations().items():
        limit = 8 * max(seconds)
        sorted_in = BucketBatches(len(seconds), 256, seconds=seconds, batch_seconds=limit)
        anyhow = EpochBatches(len(seconds), round(limit * len(seconds) / sum(seconds)), shuffle=True)
        print(
            f"padding, {name}: {padding(seconds, sorted_in):.1%} of {len(sorted_in)} batches of {limit:.0f} s at most; "
            f"in random batches of as many clips {padding(seconds, anyhow):.1%}"
        )


def sound(rate: int, seconds: float) -> tuple[Tensor, Tensor]:
    """Noise (N, S), all of one length."""
    samples = round(rate * seconds)
    return 0.1 * torch.randn(CLIPS, samples), torch.full((CLIPS,), samples)


@torch.inference_mode()
def median(net: nn.Module, audio: Tensor, lengths: Tensor, *, rounds: int) -> float:
    """Seconds, after one round that does not count."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        net(audio, lengths)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def durations() -> dict[str, list[float]]:
    """Of the embedded data, and of utterances of 1 to 16 seconds, most of them long, as in read speech."""
    clips = Tones().split("train")
    assert clips is not None
    long = 1 + 15 * torch.rand(5000, generator=torch.Generator().manual_seed(0)).sqrt()
    return {"telephone keys": clips.seconds, "1 to 16 s": long.tolist()}


def padding(seconds: list[float], batches: Iterable[list[int]]) -> float:
    """Which share of an epoch is padding."""
    padded = sum(len(batch) * max(seconds[row] for row in batch) for batch in batches)
    return 1 - sum(seconds) / padded


if __name__ == "__main__":
    main()

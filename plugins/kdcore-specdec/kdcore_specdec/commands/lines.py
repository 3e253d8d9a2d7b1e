"""What was measured, for the person who watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcore_specdec.decoding.bench import spread

_VERDICTS: Mapping[bool | None, str] = {True: "output unchanged", False: "OUTPUT CHANGED", None: "output not tested"}


def of_models(result: Mapping[str, Any]) -> list[str]:
    """One temperature's result of :func:`~kdcore_specdec.decoding.bench.bench`."""
    alone = _speed(result["autoregressive"]["tokens_per_second"])
    lines = [f"temperature {result['temperature']:g}  autoregressive: {alone}"]
    for one in result["drafts"]:
        rates = " ".join(f"{rate:.2f}" for rate in one["acceptance"])
        lines += [
            f"    {one['draft']}, k = {one['k']}: {_speed(one['tokens_per_second'])}, {_times(one['speedup'])}",
            f"        acceptance {rates}; mean accepted length {one['mean_accepted_length']:.2f} without the bonus "
            f"token, {one['tokens_per_round']:.2f} tokens per round with it",
            f"        {_VERDICTS[one['unchanged']]}: {one['evidence']}",
        ]
    return lines


def of_servers(result: Mapping[str, Any]) -> list[str]:
    """One temperature's result of :func:`~kdcore_specdec.decoding.endpoint.bench_servers`."""
    lines = [f"temperature {result['temperature']:g}"]
    lines += [
        f"    {one['endpoint']} ({one['model']}): {_speed(one['tokens_per_second'])}" for one in result["servers"]
    ]
    if "speedup" in result:
        lines.append(f"    {_times(result['speedup'])}")
    if "same_text" in result:
        lines.append(f"    same text for {result['same_text']}")
    return lines


def _speed(values: list[float]) -> str:
    found = spread(values)
    return f"{found['median']:.1f} tokens/s ({found['min']:.1f} to {found['max']:.1f} over {len(values)} rounds)"


def _times(speedup: Mapping[str, float]) -> str:
    return f"{speedup['median']:.2f}x as fast ({speedup['min']:.2f} to {speedup['max']:.2f})"

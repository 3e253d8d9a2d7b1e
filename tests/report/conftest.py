from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch

from kdcore.report.page import ModelResult, Pair, SeedResult, build_report

ReportMaker = Callable[..., dict[str, Any]]


def model(role: str, value: float, parameters: int, latency: float, metric: str = "accuracy") -> ModelResult:
    metrics = {
        metric: {"last": value - 0.01, "best": value + 0.005, "test": value},
        "ece": {"last": 0.02, "best": 0.03},
    }
    cost = {"parameters": parameters, "bytes": 4 * parameters, "flops": 1e6, "latency_ms": latency, "throughput": 5e4}
    return ModelResult(role, metrics, {**cost, "peak_memory_bytes": None})


@pytest.fixture
def make_report() -> ReportMaker:
    """A report on a teacher, a student alone and a student, of which only the test values are given, per seed."""

    def make(
        student: Sequence[float] = (0.932,),
        alone: Sequence[float] | None = (0.901,),
        *,
        teacher: float = 0.95,
        primary: tuple[str, str] = ("accuracy", "max"),
        split: Literal["test", "val"] = "test",
        rights: tuple[Sequence[int], Sequence[int]] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        seeds = []
        for seed, value in enumerate(student):
            models = {"teacher": model("teacher", teacher, 130_000, 0.8, primary[0])}
            if alone is not None:
                models["alone"] = model("alone", alone[seed], 5_000, 0.2, primary[0])
            models["student"] = model("student", value, 5_000, 0.2, primary[0])
            if rights is not None:
                models["student"].scores, models["alone"].scores = (torch.tensor(right) for right in rights)
            seeds.append(SeedResult(seed, models))
        return build_report(
            name="quickstart",
            task="classify",
            primary=primary,
            seeds=seeds,
            pairs=[Pair("student", "teacher", "alone" if alone is not None else None)],
            split=split,
            provenance=provenance or {},
        )

    return make

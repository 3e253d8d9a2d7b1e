"""The report of a run: ``report.json`` for machines, ``report.md`` for people, and one picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median_low, stdev
from typing import Any, Literal

from torch import Tensor

from kdcore.atomic import replacing
from kdcore.report.figure import tradeoff
from kdcore.report.statistics import verdict
from kdcore.report.words import answer, page

SAME_SPLIT = "selected and measured on the same split"


@dataclass
class ModelResult:
    """One model of one seed.

    Attributes:
        role: ``teacher``, ``alone``, ``student`` or ``trained``.
        metrics: by name: ``last`` (validation, last epoch), ``best`` (validation, the kept weights) and,
            where the data has a test split, ``test``.
        cost: what :func:`kdcore.report.measure.cost` returned.
        scores: the primary metric sample by sample, on the split that the verdict uses, always in the same order:
            values (N,), or shares (N, ...).
        value_of: makes the primary metric from a sum of shares.
    """

    role: str
    metrics: dict[str, dict[str, float]]
    cost: dict[str, float | None] = field(default_factory=dict)
    scores: Tensor | None = None
    value_of: Callable[[Tensor], Tensor] | None = None


@dataclass
class SeedResult:
    """All models of one seed, by name."""

    seed: int
    models: dict[str, ModelResult]


@dataclass
class Pair:
    """A distilled student, its teacher, and the same net trained without one."""

    student: str
    teacher: str | None
    alone: str | None


def build_report(
    *,
    name: str,
    task: str,
    primary: tuple[str, str],
    seeds: Sequence[SeedResult],
    pairs: Sequence[Pair],
    split: Literal["test", "val"],
    provenance: dict[str, Any],
    data_notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The report as plain values, ready for JSON: no NaN (``null`` instead), no tensors.

    With several seeds, ``last``, ``best`` and ``test`` of a metric are means, and ``mean`` and ``std`` (n - 1)
    describe its value on ``split``. ``gain`` and ``gap`` are the student minus the student alone and minus the
    teacher in the primary metric on ``split``, signed so that more is better.

    Args:
        task: the task's registered name.
        primary: the primary metric and its direction, ``max`` or ``min``.
        split: where the comparison is made; ``val`` means that the data has no test split.
        provenance: how it was measured (machine, versions, git sha, ...), shown as it is.
        data_notes: what a person should know of the data.
    """
    if not seeds:
        raise ValueError("a report needs at least one seed")
    metric, mode = primary
    report: dict[str, Any] = {
        "name": name,
        "task": task,
        "primary": {"name": metric, "mode": mode},
        "seeds": [result.seed for result in seeds],
        "split": split,
        "models": {model: _model(_of(seeds, model), split) for model in _names(seeds)},
        "data_notes": list(data_notes),
        "provenance": provenance,
    }
    if split == "val":
        report["note"] = SAME_SPLIT
    report["comparisons"] = {pair.student: _comparison(pair, report, seeds) for pair in pairs}
    for student, comparison in report["comparisons"].items():
        comparison["answer"] = answer(report, student)
    plain: dict[str, Any] = _plain(report)
    return plain


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    """Writes ``tradeoff.png``, ``report.md`` and, last, ``report.json``; each appears whole or not at all.

    Returns:
        The path of ``report.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = tradeoff(report)
    with replacing(folder / "tradeoff.png") as beside:
        figure.savefig(beside, format="png")
    with replacing(folder / "report.md") as beside:
        beside.write_text(page(report), encoding="utf-8")
    # last, because a run folder with a report.json counts as finished
    text = json.dumps(_plain(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(folder / "report.json") as beside:
        beside.write_text(text, encoding="utf-8")
    return folder / "report.md"


def _names(seeds: Sequence[SeedResult]) -> list[str]:
    return list(dict.fromkeys(name for result in seeds for name in result.models))


def _of(seeds: Sequence[SeedResult], model: str) -> list[ModelResult]:
    return [result.models[model] for result in seeds if model in result.models]


def _model(results: Sequence[ModelResult], split: str) -> dict[str, Any]:
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    costs = dict.fromkeys(name for result in results for name in result.cost)
    return {
        "role": results[0].role,
        "metrics": {name: _metric([r.metrics[name] for r in results if name in r.metrics], split) for name in metrics},
        # low, so that a count stays a whole number
        **{name: _over(median_low, (result.cost.get(name) for result in results)) for name in costs},
    }


def _metric(values: Sequence[Mapping[str, float]], split: str) -> dict[str, Any]:
    """Means over seeds; one seed's values stay as they are."""
    merged = {
        which: _over(fmean, (value.get(which) for value in values))
        for which in ("last", "best", "test")
        if any(which in value for value in values)
    }
    if len(values) > 1:
        measured = [_on(split, value) for value in values]
        merged["mean"] = _over(fmean, measured)
        merged["std"] = _over(lambda finite: stdev(finite) if len(finite) > 1 else None, measured)
    return merged


def _on(split: str, value: Mapping[str, float]) -> float | None:
    return value.get("test" if split == "test" else "best")


def _over(summary: Callable[[list[Any]], Any], values: Iterable[float | None]) -> Any:
    """A summary of what was measured; ``None`` when one of the values is missing or no number."""
    found = list(values)
    return summary(found) if found and all(v is not None and math.isfinite(v) for v in found) else None


def _comparison(pair: Pair, report: dict[str, Any], seeds: Sequence[SeedResult]) -> dict[str, Any]:
    """Everything about one student but the sentence."""
    gaps = _differences(report, seeds, pair.student, pair.teacher)
    gains = _differences(report, seeds, pair.student, pair.alone)
    compared: dict[str, Any] = {"teacher": pair.teacher, "alone": pair.alone, "gap": fmean(gaps) if gaps else None}
    if gains:
        found = asdict(verdict(gains, **_by_sample(pair, seeds[0], report["primary"]["mode"])))
        compared |= {"gain": found["gain"], "gains": gains, "std": found["std"]}
        compared |= {key: found[key] for key in ("p", "verdict", "method")}
    else:
        why = "no test: the student alone was not measured" if pair.alone else "no test: no student alone"
        compared |= {"gain": None, "gains": [], "std": None, "p": None, "verdict": "undecided", "method": why}
    models = report["models"]
    if pair.teacher in models:
        compared["compression"] = _compression(models[pair.student], models[pair.teacher], report)
    return compared


def _differences(report: dict[str, Any], seeds: Sequence[SeedResult], student: str, other: str | None) -> list[float]:
    """Per seed, student minus other in the primary metric; more is better. Seeds that lack one of them are left out."""
    name, sign = report["primary"]["name"], 1.0 if report["primary"]["mode"] == "max" else -1.0
    found = []
    for result in seeds:
        if other is None or student not in result.models or other not in result.models:
            continue
        ours, theirs = (_on(report["split"], result.models[m].metrics.get(name, {})) for m in (student, other))
        if ours is not None and theirs is not None:
            found.append(sign * (ours - theirs))
    return found


def _by_sample(pair: Pair, result: SeedResult, mode: str) -> dict[str, Any]:
    """What a verdict reads of the samples of one seed, where both nets have it."""
    student, alone = (result.models.get(name) if name else None for name in (pair.student, pair.alone))
    if student is None or alone is None or student.scores is None or alone.scores is None:
        return {"paired_scores": None}
    # where less is better the two change places: that turns the differences round and keeps scores of 0 and 1
    first, second = (student, alone) if mode == "max" else (alone, student)
    return {"paired_scores": (first.scores, second.scores), "value_of": student.value_of}


def _compression(student: dict[str, Any], teacher: dict[str, Any], report: dict[str, Any]) -> dict[str, float | None]:
    """How many times smaller and faster than the teacher, and which share of its primary metric it keeps."""
    name, mode = report["primary"]["name"], report["primary"]["mode"]
    scores = [_on(report["split"], model["metrics"].get(name, {})) for model in (student, teacher)]
    return {
        "size": _ratio(teacher.get("bytes"), student.get("bytes")),
        "speed": _ratio(teacher.get("latency_ms"), student.get("latency_ms")),
        # a share only makes sense of a quantity that grows from 0
        "kept": _ratio(*scores) if mode == "max" and all(score is not None and score > 0 for score in scores) else None,
    }


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


def _plain(value: Any) -> Any:
    """The same value as JSON knows it; what is not finite becomes ``None``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # tensors, and numpy's arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)

"""Scoring models on a split, outside of training: teachers before it, everyone after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.recipe.schema import Ref
from kdcore.scores import Scores, to_device
from kdcore.signals import Batch
from kdcore.task import evaluating


@torch.no_grad()
def evaluate(
    cast: Cast,
    scores: Mapping[str, Scores],
    batches: Iterable[Batch],
    device: torch.device,
    *,
    teachers: Mapping[str, tuple[str, ...]] | None = None,
    per_sample: str | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """Every model's metrics over all batches.

    Args:
        cast: the models; those it trains are put into eval mode for the time being.
        scores: empty metrics by model; their keys say which models are scored.
        batches: one pass over a split.
        device: where to run.
        teachers: each model's teachers, first one first, for the metrics that compare.
        per_sample: a metric of which each sample's ``scores`` or ``shares`` are collected too, where it offers them.

    Returns:
        The metrics by model, and each model's per-sample scores where asked for and offered.

    Raises:
        RunError: there is no batch.
    """
    taught_by = teachers or {}
    for module in (*cast.trained.values(), *scores.values()):
        module.to(device)
    cast.apply(lambda tensor: tensor.to(device))
    order = cast.order({Ref(name) for model in scores for name in (model, *taught_by.get(model, ()))})
    collected: dict[str, list[Tensor]] = {}
    seen = False
    with evaluating(cast.trained.values()):
        for cpu_batch in batches:
            seen = True
            batch: Batch = to_device(cpu_batch, device)
            signals = cast.run(order, batch)
            for model, own in scores.items():
                others = {name: signals[Ref(name)] for name in taught_by.get(model, ())}
                own.update(cast.task, signals[Ref(model)], others, batch)
                if per_sample is not None:
                    values = own.per_sample(per_sample, cast.task, signals[Ref(model)], others, batch)
                    if values is not None:
                        collected.setdefault(model, []).append(values.cpu())
    if not seen:
        raise RunError(
            f"there is no sample to score {', '.join(f'`{name}`' for name in scores)} on: the split is empty"
        )
    metrics = {model: own.compute() for model, own in scores.items()}
    return metrics, {model: torch.cat(parts) for model, parts in collected.items()}

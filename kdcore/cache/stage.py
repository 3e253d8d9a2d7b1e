"""Which stage may read its teacher from a cache, what such a cache depends on, and where it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.binding import BoundLoss
from kdcore.cache.format import Facts
from kdcore.cache.source import CachedTeacher, Pass
from kdcore.cast import Cast
from kdcore.data.base import Data
from kdcore.data.loader import Batches, Loader, Samples
from kdcore.errors import Problem, RecipeError, RunError
from kdcore.recipe.content import content, digest
from kdcore.recipe.schema import Cache, ModelSlot, Ref, Stage
from kdcore.scores import to_device
from kdcore.signals import Batch, Signals
from kdcore.task import Task
from kdcore.window import StageData

PROBED = 64
"""Training samples, evenly spaced, whose content is compared: a changed file is noticed without reading all of it."""

_ELSEWHERE = {"weights", "partial", "compile", "seed"}
"""Keys of a model's slot that say nothing which its weights do not say themselves."""


class CachedData(StageData):
    """A stage's data that brings the teacher's signals along with every training batch."""

    def __init__(self, cache: CachedTeacher, data: Any, losses: Iterable[BoundLoss], *, look_ahead: bool) -> None:
        super().__init__(data, losses, look_ahead=look_ahead)
        self._cache = cache

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Validation runs the teacher itself."""
        return self._cache.attach(batch) if self.trainer is not None and self.trainer.training else batch


def plan(stage: Stage, cast: Cast, losses: list[BoundLoss]) -> CachedTeacher | None:
    """The cached teacher of a stage, still closed; ``None`` where the stage has none, or no loss reads it.

    Raises:
        RecipeError: what the teacher says would not be the same in every epoch, or a loss reads what is not kept.
    """
    if stage.cache is None:
        return None
    views = [
        ref.view for ref in cast.order({ref for loss in losses for ref in loss.refs}) if ref.model == stage.cache.of
    ]
    problems = [
        Problem(message, hint, f"{stage.path}.cache")
        for message, hint in (*_changing(stage, cast), *_unread(stage.cache, cast, losses))
    ]
    if views and problems:
        raise RecipeError(problems)
    return CachedTeacher(stage.cache.of, views) if views else None


def _changing(stage: Stage, cast: Cast) -> Iterator[tuple[str, str]]:
    """What makes a teacher say something else of the same sample in another step."""
    of = "" if stage.cache is None else stage.cache.of
    if stage.prepare:
        yield (
            f"`prepare: {', '.join(stage.prepare)}` changes the batches of stage `{stage.name}`, and the cached "
            f"signals of `{of}` would be those of the unchanged ones",
            "take `prepare` or `cache` out of the stage",
        )
    if (stage.data.transform or stage.data.views) and not stage.data.variants:
        yield (
            f"the data's transforms show every sample in a new way in every epoch, and the cached signals of `{of}` "
            "would be those of other ways",
            "set `data.variants` to how many ways each sample is shown in (each is one pass of the teacher)",
        )
    if type(cast.task).prepare is not Task.prepare:
        yield (
            f"the task `{stage.task.use}` prepares every batch anew, and the cached signals of `{of}` would be those "
            "of other batches",
            "take `cache` out of the stage",
        )
    for member in cast.members(of):
        if member in cast.trained or member in cast.followers:
            yield f"`{member}`, of which `{of}` is made, changes while stage `{stage.name}` runs", "take `cache` out"


def _unread(cache: Cache, cast: Cast, losses: list[BoundLoss]) -> Iterator[tuple[str, str]]:
    """Losses that would not find in the cache what they read."""
    if cache.topk is not None and "logits" not in cache.keep:
        yield f"`topk: {cache.topk}` ranks `logits`, and `keep` names {', '.join(cache.keep)}", "take `topk` out"
    for loss in losses:
        for read in loss.reads:
            bound = loss.roles[read.of]
            models = {ref.model for ref in (bound if isinstance(bound, tuple) else (bound,))}
            if not any(cache.of in (model, *cast.members(model)) for model in models):
                continue
            if loss.loss.live:
                yield (
                    f"loss `{loss.name}` sends gradients through `{cache.of}`, which must be run for that",
                    "take `cache` out",
                )
            source = read.source.removesuffix(".lengths")
            if source not in cache.keep and source.partition("@")[0] not in cache.keep:
                kept = ", ".join([*cache.keep, source])
                yield (
                    f"loss `{loss.name}` reads `{source}` of `{cache.of}`, which is not kept",
                    f"write `keep: [{kept}]`",
                )


def fill(
    teacher: CachedTeacher,
    stage: Stage,
    cast: Cast,
    data: Data,
    *,
    slots: Mapping[str, ModelSlot],
    folder: Path,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Open a stage's cache, after writing what is missing.

    Args:
        teacher: from :func:`plan`.
        data: of the stage.
        slots: of the recipe's models.
        folder: holds the caches of all runs of the recipe, each under the digest of what it depends on.
        device: where the teacher runs.
        say: prints a line.

    Raises:
        RecipeError: the data gives a sample in another way each time.
        RunError: see :meth:`kdcore.cache.source.Pass.write`.
    """
    if stage.cache is None:
        return
    samples = _samples(data)
    facts: Facts = {
        "teacher": teacher_digest(cast, teacher.of, slots),
        **_data_facts(data, stage),
        "keep": list(stage.cache.keep),
        "topk": stage.cache.topk,
        "dtype": stage.cache.dtype,
    }
    cast.apply(lambda tensor: tensor.to(device))

    variants = stage.data.variants or 1

    def batches(done: int) -> Iterator[Batch]:
        loader = Loader(
            samples,
            batch_size=data.batch_size,
            seed=data.seed,
            variants=variants,
            collate=data.collate,
            workers=data.workers,
        )
        first, done = divmod(done, len(samples))
        for variant in range(first, variants):
            loader.batches.seek(variant, done // data.batch_size if variant == first else 0)
            yield from loader

    def run(batch: Batch, view: str | None) -> Signals:
        ref = Ref(teacher.of, view)
        return cast.run(cast.order({ref}), to_device(batch, device))[ref]

    written = Pass(teacher.of, stage.cache, cast.task.class_axis, len(samples) * variants, batches, run, say)
    teacher.open(written.write(folder / digest(facts), {view: {**facts, "view": view} for view in teacher.views}))


def teacher_digest(cast: Cast, name: str, slots: Mapping[str, ModelSlot]) -> str:
    """Of all that a teacher's signals depend on: its slot, its weights and buffers, and those of its members."""
    said = {key: value for key, value in content(slots[name]).items() if key not in _ELSEWHERE}
    if name in cast.ensembles:
        members = cast.ensembles[name].of
        # not their names, which mean nothing
        return digest(
            [said["use"], cast.ensembles[name].average, [teacher_digest(cast, one, slots) for one in members]]
        )
    return digest([said, _weights(cast.module(name))])


def _weights(module: nn.Module) -> str:
    found = hashlib.sha256()
    # buffers once more: those that are not in the state dict, as the input's mean and std, count too
    for key, tensor in sorted({**module.state_dict(), **dict(module.named_buffers())}.items()):
        found.update(_said(key, tensor))
    return found.hexdigest()


def _data_facts(data: Data, stage: Stage) -> Facts:
    """Of the training data: what its slot says, the seed, how many samples there are and what some of them hold.

    Raises:
        RecipeError: a sample is not the same when it is read again.
    """
    batch = _some(data)
    first, second = _batch_digest(batch), _batch_digest(_some(data))
    if first != second:
        raise RecipeError(
            [
                Problem(
                    f"the data `{stage.data.use}` gives the same training samples in another way each time, and a "
                    "cache holds what the teacher said of one way",
                    "write its random part as `data.transform`, or take `cache` out of the stage",
                    f"{stage.path}.cache",
                )
            ]
        )
    return {
        "data": digest([replace(stage.data, table=None), stage.data.order]),
        "data_seed": data.seed,
        "data_content": first,
        "data_samples": len(_samples(data)),
    }


def _samples(data: Data) -> Samples | Batches:
    samples = data.samples("train")
    if samples is None:
        raise RunError(f"the data ({type(data).__name__}) has no train split")
    return samples


def _some(data: Data) -> Batch:
    """A batch of samples from all over the training split."""
    samples = _samples(data)
    rows = torch.linspace(0, len(samples) - 1, min(PROBED, len(samples)), dtype=torch.float64).long()
    fetched = samples.__getitems__(rows) if isinstance(samples, Batches) else [samples[row] for row in rows.tolist()]
    return data.collate(fetched) if isinstance(fetched, list) else fetched


def _batch_digest(batch: Batch) -> str:
    found = hashlib.sha256()

    def add(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value):
                add(f"{key}.{name}", value[name])
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                add(f"{key}.{index}", item)
        else:
            found.update(_said(key, value) if isinstance(value, Tensor) else f"{key}={value!r};".encode())

    add("", batch)
    return found.hexdigest()[:16]


def _said(key: str, tensor: Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    return (
        f"{key}:{tensor.dtype}:{tuple(tensor.shape)};".encode() + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    )

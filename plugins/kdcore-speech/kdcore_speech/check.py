"""What is wrong with a recipe for speech beyond what signatures tell. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from kdcore.errors import Problem
from kdcore.recipe.schema import LossSlot, ModelSlot, Recipe, Ref, Stage

TRANSCRIPTS, LABELS = ("speech.ctc", "speech.seq2seq"), ("speech.tagging", "speech.speaker")
"""Tasks by what their clips have."""

TASKS = (*TRANSCRIPTS, *LABELS, "speech.representation")

FRAME_WISE = ("kl", "divergence", "mse", "smooth_l1", "cosine")
"""The core's losses that have a term for each position."""

STRIDES = {"speech.conv": 2, "speech.conformer": 4}
"""Our CTC nets, and the defaults of their ``stride``, which counts features of 10 ms."""


def check_recipe(recipe: Recipe) -> list[Problem]:
    """Every problem of every stage, each once."""
    found = [problem for stage in recipe.stages.values() for problem in _stage(recipe, stage)]
    return list(dict.fromkeys(found))


def _stage(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    if stage.task.use not in TASKS:
        return
    for name in (*stage.train, *stage.teachers):
        yield from _raw(recipe.models[name])
    yield from _kind_of_clips(stage)
    if stage.task.use == "speech.seq2seq":
        yield from _written(recipe, stage)
    if stage.task.use == "speech.ctc":
        for loss in stage.losses.values():
            yield from _frame_wise(recipe, stage, loss)


def _raw(slot: ModelSlot) -> Iterator[Problem]:
    for name in ("mean", "std"):
        if getattr(slot, name) is not None:
            what = "is of no use here: nets of speech take waveforms as they are"
            yield Problem(what, "leave it out", f"{slot.path}.{name}")


def _kind_of_clips(stage: Stage) -> Iterator[Problem]:
    """Strings of digits have transcripts, single digits have labels."""
    if stage.data.use != "speech.fsdd":
        return
    has_strings = stage.data.args.get("strings") is not None
    if has_strings and stage.task.use in LABELS:
        what, hint = "strings of digits, which have transcripts", "remove it"
    elif not has_strings and stage.task.use in TRANSCRIPTS:
        what = "single digits, which have no transcripts"
        hint = "say how many strings to train on, such as `strings: 1000`"
    else:
        return
    yield Problem(f"gives `{stage.task.use}` {what}", hint, f"{stage.data.path}.strings")


def _written(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    """What an ensemble writes would be what its first member alone writes."""
    for name in stage.teachers:
        slot = recipe.models[name]
        if slot.use == "ensemble":
            what = "is an ensemble, which cannot write a transcript token by token"
            yield Problem(what, "name its members as teachers", slot.path)


def _frame_wise(recipe: Recipe, stage: Stage, loss: LossSlot) -> Iterator[Problem]:
    """A loss of the core on frames needs to know which of them count, and equally many of both nets."""
    if loss.use not in FRAME_WISE:
        return
    if stage.task.args.get("mask_of") is None:
        yield Problem(
            f"`{loss.use}` would count the padding behind each clip's end",
            f"add `task: {{mask_of: {_one(loss, 'student') or 'student'}}}` to the stage",
            loss.path,
        )
    bound = [_one(loss, role) for role in ("student", "teacher")]
    names = [name for name in bound if name in recipe.models]
    strides = {name: stride for name in names if (stride := _stride(recipe.models[name])) is not None}
    if loss.resize is None and len(set(strides.values())) == 2:
        what = " and ".join(f"`{name}` a frame of {10 * stride} ms" for name, stride in strides.items())
        yield Problem(f"compares frames, and makes {what}", "add `resize: teacher`", loss.path)


def _one(loss: LossSlot, role: str) -> str | None:
    bound = loss.roles.get(role)
    return bound.model if isinstance(bound, Ref) else None


def _stride(slot: ModelSlot) -> int | None:
    """In features of 10 ms, where the recipe tells."""
    stride: int | None = slot.args.get("stride", STRIDES.get(slot.use)) if slot.use in STRIDES else None
    return stride

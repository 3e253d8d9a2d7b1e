"""Fitting a state dict into a model: strict, after what checkpoints usually wrap around it is taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.weights.state import NESTS, State

PREFIXES = ("module.", "model.")
"""What DataParallel and training wrappers put before every name."""

COMPILED = "_orig_mod."
"""What ``torch.compile(module)`` puts before the names of the module it wraps, wherever that stands."""

SHOWN = 5


@dataclass(frozen=True)
class _Candidate:
    """One reading of a file, and what was taken off to get it."""

    tensors: dict[str, Tensor]
    steps: tuple[str, ...]


def fit_state(model: nn.Module, state: State, *, partial: Sequence[str] = (), source: str) -> list[str]:
    """Loads a state dict into a model, every tensor or an error.

    Of all readings of the file (inside the usual nests ``state_dict``, ``model``, ..., with or without the prefixes
    ``module.``, ``model.``, ``_orig_mod.``) the one that fits most tensors is taken.

    Args:
        model: loaded in place; its own types and devices are kept.
        partial: globs of names (``head.*``) that may be missing, left over or of another shape.
        source: where the state comes from, for messages.

    Returns:
        Lines that say what was taken off, and which names ``partial`` left as they were.

    Raises:
        RunError: something does not fit; the model is unchanged.
    """
    own = model.state_dict(keep_vars=True)
    candidate = max(_readings(state), key=lambda reading: _fitting(own, reading.tensors))
    fits = _fitting(own, candidate.tensors)
    if own and not fits:
        raise RunError(
            f"weights `{source}` fit none of the model's {len(own)} tensors: another architecture?\n"
            f"  the model has {_some(own)}\n  the file has {_some(candidate.tensors) or 'no tensors'}"
        )
    found = {name: tensor for name, tensor in candidate.tensors.items() if name in own}
    missing = [name for name in own if name not in found and not _given_otherwise(name, own, found)]
    unexpected = [name for name in candidate.tensors if name not in own]
    differing = [name for name, tensor in found.items() if not _compatible(own[name], tensor)]

    def refused(names: list[str]) -> list[str]:
        return [name for name in names if not any(fnmatchcase(name, glob) for glob in partial)]

    wrong = [refused(names) for names in (missing, unexpected, differing)]
    if any(wrong):
        raise RunError(_complaint(source, own, candidate.tensors, fits, *wrong))
    model.load_state_dict({name: tensor for name, tensor in found.items() if name not in differing}, strict=False)
    return [*candidate.steps, *_left(own, candidate.tensors, missing, unexpected, differing)]


def _readings(state: State) -> Iterator[_Candidate]:
    """Every way to read the file, the plainest first (of equal ones, ``max`` keeps the first)."""
    for nested, nests in _nested(state, ()):
        tensors = {str(name): value for name, value in nested.items() if isinstance(value, Tensor)}
        yield from _stripped(_Candidate(tensors, nests))


def _nested(
    state: Mapping[str, object], nests: tuple[str, ...]
) -> Iterator[tuple[Mapping[str, object], tuple[str, ...]]]:
    yield state, nests
    for key in NESTS:
        inner = state.get(key)
        if isinstance(inner, Mapping):
            yield from _nested(inner, (*nests, f"took the tensors under `{key}`"))


def _stripped(candidate: _Candidate) -> Iterator[_Candidate]:
    yield candidate
    for prefix in (*PREFIXES, COMPILED):
        anywhere = prefix == COMPILED
        hit = [name for name in candidate.tensors if (prefix in name if anywhere else name.startswith(prefix))]
        if hit:
            bare = {name: name.replace(prefix, "") if anywhere else name.removeprefix(prefix) for name in hit}
            tensors = {bare.get(name, name): tensor for name, tensor in candidate.tensors.items()}
            step = f"stripped `{prefix}` from {len(hit)} of {len(candidate.tensors)} names"
            yield from _stripped(_Candidate(tensors, (*candidate.steps, step)))


def _fitting(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int:
    return sum(name in own and _compatible(own[name], tensor) for name, tensor in tensors.items())


def _compatible(mine: Tensor, theirs: Tensor) -> bool:
    """Equal shapes, and floats for floats: integers copied into floats would be quantised codes taken for weights."""
    return mine.shape == theirs.shape and mine.is_floating_point() == theirs.is_floating_point()


def _given_otherwise(name: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """A tied tensor that the file holds under its other name, or a counter that files older than 2018 lack."""
    return name.endswith("num_batches_tracked") or any(own[name] is own[other] for other in found)


def _complaint(
    source: str,
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    fits: int,
    missing: list[str],
    unexpected: list[str],
    differing: list[str],
) -> str:
    lines = [f"weights `{source}` do not fit: {fits} of the model's {len(own)} tensors fit"]
    lines += _listed("missing in the file", [f"{name} {_shape(own[name])}" for name in missing])
    lines += _listed("only in the file", [f"{name} {_shape(tensors[name])}" for name in unexpected])
    lines += _listed(
        "different", [f"{name}: file {_shape(tensors[name])}, model {_shape(own[name])}" for name in differing]
    )
    globs = list(dict.fromkeys(_glob(name) for name in (*missing, *differing, *unexpected)))
    lines.append(
        f"  if that is meant, allow it with `partial: [{', '.join(globs[:SHOWN])}]` in the model's slot: what does not "
        "fit keeps its fresh values; else build the model that the file was made with"
    )
    return "\n".join(lines)


def _listed(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    return [f"  {title} ({len(items)}): {'; '.join(items[:SHOWN])}{'; ...' if len(items) > SHOWN else ''}"]


def _glob(name: str) -> str:
    parent, dot, _ = name.rpartition(".")
    return f"{parent}.*" if dot else name


def _left(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    differing: list[str],
) -> list[str]:
    lines = [f"partial: `{name}` {_shape(own[name])} is not in the file and keeps its fresh values" for name in missing]
    lines += [
        f"partial: `{name}` is {_shape(tensors[name])} in the file, {_shape(own[name])} here: it keeps its fresh values"
        for name in differing
    ]
    return lines + [f"partial: `{name}` {_shape(tensors[name])} of the file is not used" for name in unexpected]


def _some(tensors: Mapping[str, Tensor]) -> str:
    names = [f"{name} {_shape(tensor)}" for name, tensor in list(tensors.items())[:3]]
    return ", ".join(names) + (", ..." if len(tensors) > 3 else "")


def _shape(tensor: Tensor) -> str:
    """``(64, 3, 7, 7)``, with the type where it is not a floating one."""
    return f"{tuple(tensor.shape)}" + (
        "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    )

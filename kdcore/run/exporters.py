"""The deployed net as files that run without kdcore, each compared with the net it came from."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kdcore.errors import RunError
from kdcore.weights.state import save_state

Example: TypeAlias = "tuple[Tensor, ...]"
"""The inputs of a deployed net, batch first: real samples, because they also prove that a file agrees with the net."""

TOLERANCE = 1e-4
"""Largest difference allowed between an exported net's answers and the net's own, relative to answers above 1."""

PROTOBUF_LIMIT = 2**31
"""ONNX files end here; a larger net keeps its weights in a file beside."""


def safetensors(module: nn.Module, example: Example, folder: Path) -> list[Path]:
    """``model.safetensors``: the state dict, a tensor with several names stored once."""
    path = folder / "model.safetensors"
    save_state(module.state_dict(), path)
    return [path]


def onnx(
    module: nn.Module,
    example: Example,
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    card: dict[str, Any] | None = None,
) -> list[Path]:
    """``model.onnx`` with a dynamic batch, run through onnxruntime and compared with the net.

    Outputs are called as in the dict or the named tuple that the net returns, where it returns one.

    Args:
        tolerance: largest difference allowed on any answer; relative, where the answer is above 1 (pixels).
        card: what one must know to use the net (class names, input shapes, ...), written into the file's metadata as
            JSON, a key each; filled in by ``export``.

    Raises:
        RunError: packages are missing, the net cannot be exported, or the file does not agree with it.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"exporting to ONNX needs {', '.join(missing)}: `pip install kdcore[onnx]`")
    import onnx as onnx_format
    import onnxruntime

    net, inputs = _on_cpu(module, example)
    path = folder / "model.onnx"
    names = ["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))]
    large = sum(tensor.nbytes for tensor in net.state_dict().values()) > 0.9 * PROTOBUF_LIMIT
    with _all_or_nothing(path, "ONNX"):
        torch.onnx.export(
            net, _at_least_two(inputs), path, dynamo=True, dynamic_shapes=_dynamic(net, inputs), input_names=names,
            output_names=_answers(net, inputs), external_data=large, verbose=False,
        )  # fmt: skip
        model = onnx_format.load(path, load_external_data=False)
        onnx_format.helper.set_model_props(model, {key: json.dumps(value) for key, value in (card or {}).items()})
        onnx_format.save(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(*given: Tensor) -> list[Tensor]:
            fed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
            return [torch.from_numpy(answer) for answer in session.run(None, fed)]

        check_parity(net, run, inputs, what=str(path), tolerance=tolerance)
    return [path, *([path.with_name("model.onnx.data")] if large else [])]


def torch_export(module: nn.Module, example: Example, folder: Path, *, tolerance: float = TOLERANCE) -> list[Path]:
    """``model.pt2`` from ``torch.export`` with a dynamic batch, loaded again and compared with the net.

    Args:
        tolerance: largest difference allowed on any answer; relative, where the answer is above 1 (pixels).

    Raises:
        RunError: the net cannot be exported, or the file does not agree with it.
    """
    net, inputs = _on_cpu(module, example)
    path = folder / "model.pt2"
    with _all_or_nothing(path, "torch.export"):
        torch.export.save(torch.export.export(net, _at_least_two(inputs), dynamic_shapes=_dynamic(net, inputs)), path)
        check_parity(net, torch.export.load(path).module(), inputs, what=str(path), tolerance=tolerance)
    return [path]


def check_parity(
    net: nn.Module, exported: Callable[..., Any], inputs: Example, *, what: str, tolerance: float = TOLERANCE
) -> float:
    """Compares an exported net with the net itself, on all samples at once and on the first alone.

    The two batch sizes prove that the batch is dynamic. Answers whose order is not determined (boxes, best first, of
    which two are equally good) are compared by the net itself: its ``difference(ours, theirs)`` is given both as
    sequences of tensors.

    Returns:
        The largest difference between any two answers; relative, where the net's own is above 1.

    Raises:
        RunError: it does not run at one of the sizes, or its answers have other shapes or differ by ``tolerance``.
    """
    largest = 0.0
    for size in sorted({1, len(inputs[0])}):
        given = tuple(tensor[:size] for tensor in inputs)
        with torch.inference_mode():
            wanted = _leaves(net(*given))
        try:
            with torch.no_grad():
                found = _leaves(exported(*given))
        except Exception as error:  # each runtime has exceptions of its own
            raise RunError(f"{what} does not run on a batch of {size}: {_first_line(error)}") from error
        shapes = [[tuple(answer.shape) for answer in answers] for answers in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise RunError(f"{what} answers a batch of {size} with shapes {shapes[0]}, the net with {shapes[1]}")
        difference = getattr(net, "difference", _differences)(wanted, found)
        if not difference < tolerance:  # NaN is not smaller than anything
            raise RunError(
                f"{what} differs from the net by {difference:.3g} on a batch of {size}; less than {tolerance:g} is "
                "allowed. The file was removed: look for operators that the export approximates, or for random ones"
            )
        largest = max(largest, difference)
    return largest


def _differences(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest of all answers; NaN where there is one."""
    return float(np.max([_difference(a, b) for a, b in zip(ours, theirs, strict=True)], initial=0.0))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; equal infinities, and NaN where both have it, agree."""
    ours, theirs = ours.double(), theirs.double()
    # a coordinate of 500 pixels has a thousand times the rounding error of a probability
    size = torch.where(ours.isfinite(), ours.abs().clamp(min=1.0), 1.0)
    apart = torch.where((ours == theirs) | (ours.isnan() & theirs.isnan()), 0.0, (ours - theirs).abs() / size)
    return float(apart.max()) if apart.numel() else 0.0


def _on_cpu(module: nn.Module, example: Example) -> tuple[nn.Module, Example]:
    """A copy of the net as it will run, in eval mode and without gradients; the caller's net stays as it is."""
    net = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    return net, tuple(tensor.detach().cpu().contiguous() for tensor in example)


def _at_least_two(inputs: Example) -> Example:
    """Export takes a batch of one for a constant."""
    return inputs if len(inputs[0]) > 1 else tuple(torch.cat([tensor, tensor]) for tensor in inputs)


def _answers(net: nn.Module, inputs: Example) -> list[str] | None:
    """The names of the answers, where the net returns them by name: in a dict or a named tuple."""
    with torch.inference_mode():
        answer = net(*(tensor[:1] for tensor in inputs))
    return list(answer) if isinstance(answer, dict) else list(getattr(answer, "_fields", ())) or None


def _dynamic(net: nn.Module, inputs: Sequence[Tensor]) -> tuple[dict[int, Any], ...]:
    """The batch, and what the net itself says: its ``dynamic`` gives axes of the inputs by the inputs' names.

    ``{"audio": [1]}``: the exported net takes recordings of any length.
    """
    said: Mapping[str, Collection[int]] = getattr(net, "dynamic", {})
    batch = torch.export.Dim("batch", min=1)
    names = inspect.signature(net.forward).parameters
    # DYNAMIC, not a Dim: that would promise every length from 0 on, and a net that strides over it has a least one
    return tuple(
        {0: batch, **dict.fromkeys(said.get(name, ()), torch.export.Dim.DYNAMIC)}
        for name, _ in zip(names, inputs, strict=False)
    )


def _leaves(answers: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(answers) if isinstance(leaf, Tensor)]


@contextmanager
def _all_or_nothing(path: Path, what: str) -> Iterator[None]:
    """Silences the exporters; on failure leaves no file and says in a line why."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            yield
    except Exception as error:
        for file in (path, path.with_name(path.name + ".data")):
            file.unlink(missing_ok=True)
        if isinstance(error, RunError):
            raise
        raise RunError(
            f"the net cannot be exported with {what}: {_first_line(error)}. Its forward must not depend on the batch "
            "size or branch on values, and must use only operators that the export knows"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _first_line(error: BaseException) -> str:
    """What went wrong at the root: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

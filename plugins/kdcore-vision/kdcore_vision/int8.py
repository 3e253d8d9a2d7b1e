"""A student of 8 bits: calibrated on training pictures, and scored again, so that one knows what it lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from kdcore.atomic import replacing
from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.run.exporters import Example
from kdcore.run.exporters import onnx as core_onnx
from kdcore.signals import IGNORE
from torch import Tensor, nn

from kdcore_vision.exporters import OUTPUTS, answer_with_names, check_names, class_names, open_session

if TYPE_CHECKING:
    import numpy as np

CALIBRATION = 512
"""Training pictures that the ranges of the activations are read from."""

BATCH = 64


def onnx_int8(
    module: nn.Module,
    example: Example,
    folder: Path,
    *,
    data: Data | None = None,
    card: dict[str, Any] | None = None,
) -> list[Path]:
    """``model.int8.onnx``: weights and activations of 8 bits, by onnxruntime's static quantisation.

    It takes and answers what ``vision.onnx`` does. The ranges of the activations are those of 512 training pictures, as
    the data gives them, without transforms; convolutions have a range for every channel. It is scored on the validation
    set beside the net that it came from: ``model.int8.json`` holds both accuracies, and they are printed.

    Args:
        data: of the recipe; filled in by ``export``.
        card: what one must know to use the net; filled in by ``export``.

    Raises:
        RunError: packages are missing, the net cannot be exported or quantised, or there are no data to calibrate on.
    """
    if data is None:
        raise RunError("vision.onnx_int8 calibrates on training pictures and was given no data: call it through export")
    path = folder / "model.int8.onnx"
    with TemporaryDirectory() as exact, replacing(path) as beside:
        source = core_onnx(module, example, Path(exact), card=card)[0]
        _quantise(source, beside, _batches(data, open_session(source).get_inputs()[0].name))
        answer_with_names(beside, class_names(card, int(module(example[0][:1]).shape[-1])))
        check_names(beside, example)
    scores = _score(path, module, data)
    notes = path.with_suffix(".json")
    with replacing(notes) as beside:
        beside.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(
        f"{path.name}: accuracy {scores['accuracy']:.4f} on {scores['samples']} validation pictures, where the net has "
        f"{scores['accuracy_of_the_net']:.4f}; the same answer for {scores['agreement']:.1%}"
    )
    return [path, notes]


def _quantise(source: Path, target: Path, batches: Iterator[dict[str, np.ndarray[Any, Any]]]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it must be one of theirs
        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(batches, None)

    ready = source.with_name("ready.onnx")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(str(source), str(ready))
        quantization.quantize_static(
            str(ready),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
    except Exception as error:  # onnxruntime raises whatever its passes met
        raise RunError(f"the net cannot be quantised by onnxruntime: {type(error).__name__}: {error}") from error
    finally:
        logging.disable(level)


def _batches(data: Data, name: str) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Training pictures from all over the set, without transforms, as onnxruntime is fed them."""
    training: Any = data.split("train")
    count = len(training)
    rows = torch.linspace(0, count - 1, min(CALIBRATION, count)).long()
    for some in torch.split(rows, BATCH):
        if hasattr(training, "__getitems__"):
            images = training.__getitems__(some)["image"]
        else:
            images = torch.stack([training[row]["image"] for row in some.tolist()])
        yield {name: images.numpy()}


@torch.no_grad()
def _score(path: Path, module: nn.Module, data: Data) -> dict[str, Any]:
    """Both nets on the validation set."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    labels, ours, theirs = list[Tensor](), list[Tensor](), list[Tensor]()
    for batch in data.val_dataloader():
        labels.append(batch["labels"])
        ours.append(module(batch["image"]).argmax(-1))
        theirs.append(torch.from_numpy(session.run([OUTPUTS[0]], {name: batch["image"].numpy()})[0]).argmax(-1))
    right, exact, rounded = torch.cat(labels), torch.cat(ours), torch.cat(theirs)
    labelled = right != IGNORE
    return {
        "accuracy": float((rounded == right)[labelled].double().mean()),
        "accuracy_of_the_net": float((exact == right)[labelled].double().mean()),
        "agreement": float((exact == rounded).double().mean()),
        "samples": int(labelled.sum()),
        "split": "val",
        "bytes": path.stat().st_size,
    }

"""ONNX files that take pixels and answer with the names of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.errors import RunError
from kdcore.run.exporters import TOLERANCE, Example
from kdcore.run.exporters import onnx as core_onnx
from torch import nn

if TYPE_CHECKING:
    from onnx import ModelProto

OUTPUTS = ("probabilities", "name")
"""What the file answers: float32 (N, classes), and the name of the most probable class, text (N,)."""


def onnx(
    module: nn.Module,
    example: Example,
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    card: dict[str, Any] | None = None,
) -> list[Path]:
    """``model.onnx`` as the core exports it, which also answers with the name of the most probable class.

    ``input`` is ``image`` as the data gives it: with data of this plugin raw pixels, uint8 (N, C, H, W). Outputs are
    ``probabilities`` (N, classes) and ``name``, text (N,). Size, mean, std and softmax are part of the graph; all class
    names are in the file's metadata too.

    Args:
        tolerance: largest difference allowed on any answer.
        card: what one must know to use the net; filled in by ``export``.

    Raises:
        RunError: packages are missing, the net cannot be exported, or the file does not agree with it.
    """
    paths = core_onnx(module, example, folder, tolerance=tolerance, card=card)
    answer_with_names(paths[0], class_names(card, int(module(example[0][:1]).shape[-1])))
    check_names(paths[0], example)
    return paths


def class_names(card: dict[str, Any] | None, classes: int) -> list[str]:
    """Those of the card, or numbers."""
    names = (card or {}).get("class_names")
    return [str(number) for number in range(classes)] if names is None else [str(name) for name in names]


def answer_with_names(path: Path, names: Sequence[str]) -> None:
    """Add the output ``name`` to a file whose only output is probabilities."""
    import onnx as library

    model = library.load(str(path), load_external_data=False)
    graph = model.graph
    _rename(model, graph.output[0].name, OUTPUTS[0])
    words: Any = [name.encode() for name in names]
    graph.initializer.append(library.helper.make_tensor("class_names", library.TensorProto.STRING, [len(words)], words))
    graph.node.extend(
        [
            library.helper.make_node("ArgMax", [OUTPUTS[0]], ["class_number"], axis=-1, keepdims=0),
            library.helper.make_node("Gather", ["class_names", "class_number"], [OUTPUTS[1]], axis=0),
        ]
    )
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    graph.output.append(library.helper.make_tensor_value_info(OUTPUTS[1], library.TensorProto.STRING, [batch]))
    library.save(model, str(path))


def check_names(path: Path, example: Example) -> None:
    """Run the file, and compare the names with its own probabilities.

    Raises:
        RunError: they are not those of the most probable classes.
    """
    session = open_session(path)
    probabilities, names = session.run(list(OUTPUTS), {session.get_inputs()[0].name: example[0].cpu().numpy()})
    known = session.get_modelmeta().custom_metadata_map.get("class_names")
    order = json.loads(known) if known else None
    if order is not None and [order[row] for row in probabilities.argmax(-1)] != [str(name) for name in names]:
        raise RunError(f"{path} names other classes than its probabilities say: do not use it, and report this")


def open_session(path: Path) -> Any:
    """onnxruntime on the CPU, which prints errors only."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _rename(model: ModelProto, old: str, new: str) -> None:
    """Another name for a value, wherever it stands."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in (*model.graph.output, *model.graph.value_info):
        if value.name == old:
            value.name = new

"""The student as an ONNX file that says which column is which."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from kdcore.run.exporters import TOLERANCE, Example
from kdcore.run.exporters import onnx as plain_onnx


def onnx(module: nn.Module, example: Example, folder: Path, *, tolerance: float = TOLERANCE) -> list[Path]:
    """``model.onnx`` as the core exports it, with the names of the columns in its metadata.

    Scaling is part of the graph, so whoever runs it gives the columns as they are, in the order of the metadata's
    ``columns``, a JSON list.

    Args:
        tolerance: largest difference allowed on any answer.

    Raises:
        RunError: packages are missing, the net cannot be exported, or the file does not agree with it.
    """
    paths = plain_onnx(module, example, folder, tolerance=tolerance)
    columns = getattr(module, "columns", None)
    if columns is not None:
        import onnx as library

        model = library.load(str(paths[0]), load_external_data=False)
        library.helper.set_model_props(model, {"columns": json.dumps(list(columns))})
        library.save(model, str(paths[0]))
    return paths

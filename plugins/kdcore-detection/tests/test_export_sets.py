"""Set detectors and Faster R-CNN as they are shipped: a batch of any size, the same boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.run.exporters import onnx, torch_export
from small_sets import small_detr
from tiny import task
from two_stages import two_stages


@pytest.mark.slow
@pytest.mark.parametrize("export", [onnx, torch_export])
@pytest.mark.parametrize("make", [small_detr, two_stages])
def test_an_export_gives_the_same_boxes(export: Any, make: Any, tmp_path: Path):
    torch.manual_seed(0)
    deployed = task().deploy(make())
    # the exporter itself compares, on batches of other sizes, and raises where they differ
    (path,) = export(deployed, (torch.rand(3, 3, 64, 96),), tmp_path)
    assert path.is_file()

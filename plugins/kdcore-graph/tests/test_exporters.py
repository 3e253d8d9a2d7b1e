from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.run.exporters import onnx
from kdcore_graph.models.mlp import MLP
from kdcore_graph.tasks.nodes import NodeClassification

pytest.importorskip("onnxruntime")

ALONE = """\
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
assert json.loads(session.get_modelmeta().custom_metadata_map["facts"])["columns"] == ["age", "income"]
np.save(sys.argv[3], session.run(None, {"input": np.load(sys.argv[2])})[0])
assert not {"torch", "kdcore", "kdcore_graph", "torch_geometric"} & set(sys.modules)
"""


def test_another_process_predicts_from_the_file_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = NodeClassification(classes=3)
    task.facts |= {"columns": ["age", "income"]}  # type: ignore[dict-item]
    net = MLP(classes=3, features=2, width=4, norm="batch", feature_mean=[40.0, 2e4], feature_std=[10.0, 5e3])
    raw = torch.tensor([[30.0, 1e4], [55.0, 3e4], [20.0, 2e4]])
    deployed = task.deploy(net)
    (path,) = onnx(deployed, (raw,), tmp_path, card={"facts": task.facts})
    np.save(tmp_path / "in.npy", raw.numpy())
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, "alone.py", str(path), "in.npy", "out.npy"]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PATH": ""})
    answer = torch.from_numpy(np.load(tmp_path / "out.npy"))
    assert torch.allclose(answer, deployed(raw), atol=1e-5)

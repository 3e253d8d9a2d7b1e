"""GLNN has no loss of its own: it is the core's ``kl``, which must agree with what others compute."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.losses.kl import KL

REFERENCE = Path(os.environ.get("KDCORE_REFERENCE", "reference"))


@pytest.mark.skipif(not (REFERENCE / "losses.json").is_file(), reason="no reference values: set KDCORE_REFERENCE")
def test_the_cores_kl_is_glnns() -> None:
    case = json.loads((REFERENCE / "losses.json").read_text())["glnn_kl"]
    arrays = np.load(REFERENCE / "losses.npz")
    student, teacher = (torch.from_numpy(arrays[case["inputs"][f"{role}_logits"]]) for role in ("student", "teacher"))
    student.requires_grad_()
    found = KL()({"logits": student}, {"logits": teacher}, {})
    value = found.sum / found.count
    value.backward()
    assert float(value.detach()) == pytest.approx(case["value"], rel=1e-6)
    assert student.grad is not None
    assert float(student.grad.norm()) == pytest.approx(case["grad_norm"], rel=1e-5)

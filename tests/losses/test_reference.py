"""Values and gradients on which independent implementations agree, and variants that we differ from knowingly.

Runs where ``KDCORE_REFERENCE`` names the folder that holds ``losses.json`` and ``losses.npz``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.losses.divergence import Divergence
from kdcore.losses.kl import KL
from kdcore.losses.regression import MSE

np = pytest.importorskip("numpy")

if "KDCORE_REFERENCE" not in os.environ:
    pytest.skip("KDCORE_REFERENCE is unset: the reference values are not at hand", allow_module_level=True)
FOLDER = Path(os.environ["KDCORE_REFERENCE"])
EXPECTED: dict[str, Any] = json.loads((FOLDER / "losses.json").read_text(encoding="utf-8"))

CASES: dict[str, Callable[[dict[str, Any]], list[tuple[float, Loss]]]] = {
    "kd_temperature4": lambda p: [(1.0, KL(temperature=p["temperature"]))],
    "ce_plus_kd": lambda p: [
        (p["ce_weight"], CrossEntropy()),
        (p["kd_weight"], KL(temperature=p["temperature"])),
    ],
    "fitnet": lambda _: [(1.0, MSE())],
    "glnn_kl": lambda _: [(1.0, KL())],
    "forward_kl_tokens": lambda _: [(1.0, Divergence(kind="forward_kl"))],
    "reverse_kl_tokens": lambda _: [(1.0, Divergence(kind="reverse_kl"))],
    "jsd_tokens": lambda p: [(1.0, Divergence(kind="jsd", beta=p["beta"]))],
    "tvd_tokens": lambda _: [(1.0, Divergence(kind="tvd"))],
}
"""The cases that belong to the core's losses, each as weighted losses."""


def inputs(case: str) -> dict[str, Tensor]:
    with np.load(FOLDER / "losses.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[key]) for name, key in EXPECTED[case]["inputs"].items()}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_norm_agree(case: str):
    expected, given = EXPECTED[case], inputs(case)
    student = given[expected["student"]].requires_grad_()
    (teacher,) = (tensor for name, tensor in given.items() if name.startswith("teacher"))
    batch = {"labels": given["labels"]} if "labels" in given else {}
    if case.endswith("_tokens"):
        batch["mask"] = given["labels"] != -100
    total = torch.zeros(())
    for weight, loss in CASES[case](expected["params"]):
        found = loss({"logits": student}, {"logits": teacher}, batch)
        total = total + weight * found.sum / found.count
    (gradient,) = torch.autograd.grad(total, student)
    assert total.item() == pytest.approx(expected["value"], rel=1e-5)
    assert gradient.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-5)


def test_the_factor_t_squared_is_there():
    given = inputs("kd_temperature4")
    without = functional.kl(given["student_logits"], given["teacher_logits"], temperature=4.0).mean().item()
    assert without == pytest.approx(0.334, abs=5e-4)
    assert EXPECTED["kd_temperature4"]["value"] == pytest.approx(16 * without, rel=1e-5)


def test_classes_are_summed_not_averaged():
    given = inputs("kd_temperature4")
    total = KL(temperature=4.0)({"logits": given["student_logits"]}, {"logits": given["teacher_logits"]}, {})
    classes = given["student_logits"].shape[-1]
    assert (total.sum / total.count / classes).item() == pytest.approx(0.534, abs=5e-4)
    assert total.count.item() == given["student_logits"].shape[0]


def test_forward_kl_is_no_cross_entropy():
    given = inputs("forward_kl_tokens")
    kept = given["labels"] != -100
    s, t = (given[name][kept].double() for name in ("student_logits", "teacher_logits"))
    soft_cross_entropy = functional.cross_entropy(s, t.softmax(-1)).mean().item()
    assert soft_cross_entropy == pytest.approx(4.256, abs=5e-4)
    entropy = -(t.softmax(-1) * t.log_softmax(-1)).sum(-1).mean().item()
    assert EXPECTED["forward_kl_tokens"]["value"] == pytest.approx(soft_cross_entropy - entropy, rel=1e-5)

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore_vision.losses.ofa import ExitHeads, MapExit, TokenExit

Roles = dict[str, dict[str, Tensor]]


def signals(n: int = 4, classes: int = 3, *, grad: bool = False) -> Roles:
    generator = torch.Generator().manual_seed(n)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_(grad)

    student = {
        "feature@0": random(n, 4, 8, 8), "feature@1": random(n, 8, 4, 4), "feature@2": random(n, 5, 6),
        "logits": random(n, classes),
    }  # fmt: skip
    return {"student": student, "teacher": {"logits": random(n, classes)}}


def made(given: Roles, **parameters: Any) -> ExitHeads:
    torch.manual_seed(0)
    loss = ExitHeads(**parameters)
    loss.setup(given, {"classes": 3}, lambda role: None)
    return loss


def naive(student: Tensor, teacher: Tensor, labels: list[int], gamma: float, temperature: float) -> float:
    added = 0.0
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        p, q = ([math.exp(v / temperature) for v in one] for one in (theirs, ours))
        for c in range(len(p)):
            y = float(c == label)
            added -= ((p[c] / sum(p) + y) ** gamma - y) * math.log(q[c] / sum(q))
    return added


@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 1.0), (1.5, 2.0)])
def test_the_logits_against_loops(gamma: float, temperature: float):
    given = signals()
    labels = [0, 2, -100, 1]
    found = made(given, gamma=gamma, temperature=temperature)(
        given["student"], given["teacher"], {"labels": torch.tensor(labels)}
    )
    expected = naive(given["student"]["logits"], given["teacher"]["logits"], labels, gamma, temperature)
    assert found["logits"].sum.item() == pytest.approx(expected, rel=1e-5)
    assert found["logits"].count.item() == 4


def test_every_activation_has_an_exit():
    given = signals()
    loss = made(given)
    found = loss(given["student"], given["teacher"], {"labels": torch.tensor([0, 1, 2, 0])})
    assert set(found) == {"exit0", "exit1", "exit2", "logits"}
    exits = {name: type(head) for name, head in loss.exits.items()}
    assert exits == {"exit0": MapExit, "exit1": MapExit, "exit2": TokenExit}
    assert (len(loss.exits["exit0"].down), len(loss.exits["exit1"].down)) == (1, 0)  # 8x8 becomes 4x4
    logits = loss.exits["exit0"](given["student"]["feature@0"])
    expected = naive(logits, given["teacher"]["logits"], [0, 1, 2, 0], 1.0, 1.0)
    assert found["exit0"].sum.item() == pytest.approx(expected, rel=1e-5)


def test_with_gamma_1_it_is_the_cross_entropy_with_the_teacher():
    given = signals()
    loss = made(given)
    labelled = loss(given["student"], given["teacher"], {"labels": torch.tensor([0, 1, 2, 0])})["logits"]
    unlabelled = loss(given["student"], given["teacher"], {})["logits"]
    assert labelled.sum.item() == pytest.approx(unlabelled.sum.item(), rel=1e-6)


def test_gamma_above_1_stresses_the_label_of_a_sure_teacher():
    given = signals(1)
    given["teacher"]["logits"] = torch.tensor([[9.0, 0.0, 0.0]])
    right, wrong = (
        made(given, gamma=1.5)(given["student"], given["teacher"], {"labels": torch.tensor([label])})["logits"].sum
        for label in (0, 1)
    )
    log_q = given["student"]["logits"].log_softmax(-1)[0]
    assert right.item() == pytest.approx(float(-(2**1.5 - 1) * log_q[0]), rel=1e-2)
    assert wrong.item() == pytest.approx(float(-log_q[0]), rel=1e-2)


def test_soft_labels_are_taken():
    given = signals()
    hard = torch.tensor([0, 2, 1, 1])
    loss = made(given, gamma=1.3)
    one = loss(given["student"], given["teacher"], {"labels": hard})["logits"]
    other = loss(given["student"], given["teacher"], {"labels": torch.eye(3)[hard]})["logits"]
    assert one.sum.item() == pytest.approx(other.sum.item(), rel=1e-6)


def test_gradients_reach_student_and_exits_and_not_the_teacher():
    given = signals(grad=True)
    loss = made(given)
    teacher = {"logits": given["teacher"]["logits"].detach()}
    found = loss(given["student"], teacher, {"labels": torch.tensor([0, 1, 2, 0])})
    torch.stack([part.sum for part in found.values()]).sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in given["student"].values())
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_a_mask_leaves_samples_out():
    given = signals()
    loss, mask = made(given), torch.tensor([True, False, True, False])
    found = loss(given["student"], given["teacher"], {"labels": torch.tensor([0, 1, 2, 0]), "mask": mask})
    assert {part.count.item() for part in found.values()} == {2}
    expected = naive(given["student"]["logits"][mask], given["teacher"]["logits"][mask], [0, 2], 1.0, 1.0)
    assert found["logits"].sum.item() == pytest.approx(expected, rel=1e-5)


def test_a_schedule_is_followed():
    given = signals()
    loss = made(given, temperature=lambda progress: 1.0 + progress)
    before = loss(given["student"], given["teacher"], {})["logits"].sum
    loss.progress = 1.0
    after = loss(given["student"], given["teacher"], {})["logits"].sum
    assert after.item() == pytest.approx(
        naive(given["student"]["logits"], given["teacher"]["logits"], [-1] * 4, 1, 2.0), rel=1e-5
    )
    assert before != after


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"gamma=0 is not above 0"):
        ExitHeads(gamma=0)
    with pytest.raises(ValueError, match=r"temperature=-1 is not above 0"):
        ExitHeads(temperature=-1)
    given = signals()
    given["student"]["feature@0"] = torch.randn(4, 7)
    with pytest.raises(ValueError, match=r"reads maps \(N, C, H, W\) or tokens \(N, T, C\), the tap gives \(4, 7\)"):
        made(given)
    given = signals()
    with pytest.raises(ValueError, match=r"labels of shape \(4, 2\): one class for each sample is wanted"):
        made(given)(given["student"], given["teacher"], {"labels": torch.zeros(4, 2, dtype=torch.int64)})

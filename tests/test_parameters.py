"""Parameter groups: what decays, what a pattern sets, and what is wrong with a pattern."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy_stage import net

from kdcore.errors import RunError
from kdcore.optimizers import adamw
from kdcore.parameters import group_parameters

ALL = {f"student.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")}


def grouped(
    modules: dict[str, nn.Module], patterns: dict[str, dict[str, Any]]
) -> list[tuple[set[str], dict[str, Any]]]:
    """Groups with names instead of parameters."""
    names = {id(p): f"{o}.{n}" for o, m in reversed(modules.items()) for n, p in m.named_parameters()}
    found = group_parameters(modules, patterns)
    return [({names[id(p)] for p in g["params"]}, {k: v for k, v in g.items() if k != "params"}) for g in found]


def test_norms_and_biases_do_not_decay() -> None:
    found = grouped({"student": net(norm=True)}, {})
    assert found == [
        ({"student.0.weight", "student.3.weight"}, {}),
        ({"student.0.bias", "student.1.weight", "student.1.bias", "student.3.bias"}, {"weight_decay": 0.0}),
    ]


def test_scalars_do_not_decay() -> None:
    owner = nn.Module()
    owner.temperature = nn.Parameter(torch.ones(()))
    assert grouped({"kd": owner}, {}) == [({"kd.temperature"}, {"weight_decay": 0.0})]


def test_an_optimizer_takes_the_groups_and_keeps_its_own_decay_for_the_rest() -> None:
    optimizer = adamw(group_parameters({"student": net()}, {"student.3.*": {"lr": 0.5}}), lr=0.1, weight_decay=0.3)
    by_shape = {tuple(p.shape): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert by_shape == {(8, 6): (0.1, 0.3), (8,): (0.1, 0.0), (3, 8): (0.5, 0.3), (3,): (0.5, 0.0)}


@pytest.mark.parametrize(
    ("patterns", "rates"),
    [
        ({"student.0.*": {"lr": 1.0}}, {1.0: {"student.0.weight", "student.0.bias"}}),
        (  # the first that matches wins, whole
            {"student.0.weight": {"lr": 2.0}, "student.**": {"lr": 1.0}},
            {2.0: {"student.0.weight"}, 1.0: ALL - {"student.0.weight"}},
        ),
        ({"student.**": {"lr": 1.0}, "student.0.weight": {"lr": 2.0}}, {1.0: ALL}),
        ({"student.(1..3).bias": {"lr": 1.0}}, {1.0: {"student.1.bias", "student.3.bias"}}),
        ({"**.bias": {"lr": 1.0}}, {1.0: {"student.0.bias", "student.1.bias", "student.3.bias"}}),
    ],
)
def test_patterns(patterns: dict[str, dict[str, Any]], rates: dict[float, set[str]]) -> None:
    found: dict[float, set[str]] = {}
    for names, settings in grouped({"student": net(norm=True)}, patterns):
        if "lr" in settings:
            found.setdefault(settings["lr"], set()).update(names)
    assert found == rates


def test_the_first_pattern_that_matches_takes_the_whole_parameter() -> None:
    patterns = {"student.0.weight": {"lr": 2.0}, "student.**": {"lr": 1.0, "weight_decay": 0.5}}
    settings = {name: own for names, own in grouped({"student": net()}, patterns) for name in names}
    assert settings["student.0.weight"] == {"lr": 2.0}
    assert settings["student.3.weight"] == {"lr": 1.0, "weight_decay": 0.5}


def test_a_decay_that_a_pattern_gives_holds_for_biases_too() -> None:
    found = grouped({"student": net()}, {"student.3.*": {"weight_decay": 0.7}})
    assert ({"student.3.weight", "student.3.bias"}, {"weight_decay": 0.7}) in found


def test_equal_settings_share_a_group_and_lists_are_settings_too() -> None:
    patterns = {
        "student.0.weight": {"betas": [0.9, 0.95], "lr": 1.0},
        "student.3.weight": {"lr": 1.0, "betas": [0.9, 0.95]},
    }
    assert [names for names, own in grouped({"student": net()}, patterns) if "betas" in own] == [
        {"student.0.weight", "student.3.weight"}
    ]


def test_losses_learn_too_and_frozen_parts_do_not() -> None:
    student = net()
    student[0].requires_grad_(False)
    found = grouped({"student": student, "kd": nn.Linear(2, 2)}, {"kd.*": {"lr": 1.0}})
    assert set().union(*(names for names, _ in found)) == {"student.3.weight", "student.3.bias", "kd.weight", "kd.bias"}
    assert {"kd.weight"} in [names for names, own in found if own == {"lr": 1.0}]


def test_a_parameter_with_several_names_is_in_one_group_once() -> None:
    """A loss that keeps a part of its student would have it updated twice."""
    student, loss = net(), nn.Module()
    loss.head = student[3]
    groups = group_parameters({"student": student, "kd": loss}, {"student.3.*": {"lr": 1.0}})
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in student.parameters())
    assert next(g for g in groups if any(p is student[3].weight for p in g["params"]))["lr"] == 1.0


def test_a_pattern_that_matches_nothing_suggests_a_name() -> None:
    expected = (
        r"optimizer.groups: `student.0.wieght` matches no parameter that learns: did you mean `student.0.weight`\?"
    )
    with pytest.raises(RunError, match=expected):
        group_parameters({"student": net()}, {"student.0.wieght": {"lr": 1.0}})


def test_a_pattern_that_resembles_nothing_is_told_how_names_begin() -> None:
    with pytest.raises(
        RunError, match="`encoder.**` matches no .*: its names begin with student, kd".replace("**", r"\*\*")
    ):
        group_parameters({"student": net(), "kd": nn.Linear(2, 2)}, {"encoder.**": {"lr": 1.0}})


def test_a_pattern_that_matches_frozen_parameters_only() -> None:
    student = net()
    student[0].requires_grad_(False)
    with pytest.raises(RunError, match=r"`student.0.\*` matches no parameter that learns"):
        group_parameters({"student": student}, {"student.0.*": {"lr": 1.0}})


def test_nothing_to_train() -> None:
    with pytest.raises(RunError, match="nothing to train: no parameter of student, kd requires a gradient"):
        group_parameters({"student": net().requires_grad_(False), "kd": nn.Identity()}, {})

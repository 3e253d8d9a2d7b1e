from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.weights.fitting import fit_state

Tensors = dict[str, Tensor]


def net(classes: int = 3) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("body", nn.Linear(4, 5))
    model.add_module("norm", nn.BatchNorm1d(5))
    model.add_module("head", nn.Linear(5, classes))
    return model


def prefixed(state: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in state.items()}


def inserted(state: Tensors, word: str) -> Tensors:
    """The word after the first part of each name, as `torch.compile` of a submodule does."""
    return {name.replace(".", f".{word}", 1): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("wrap", "lines"),
    [
        (lambda s: s, []),
        (lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}}, ["took the tensors under `state_dict`"]),
        (lambda s: {"model": s}, ["took the tensors under `model`"]),
        (lambda s: {"ema": s, "args": "x"}, ["took the tensors under `ema`"]),
        (lambda s: {"model_state_dict": s}, ["took the tensors under `model_state_dict`"]),
        (lambda s: {"module": s}, ["took the tensors under `module`"]),
        (
            lambda s: {"model": {"state_dict": s}},
            ["took the tensors under `model`", "took the tensors under `state_dict`"],
        ),
        (lambda s: prefixed(s, "module."), ["stripped `module.` from 9 of 9 names"]),
        (lambda s: prefixed(s, "model."), ["stripped `model.` from 9 of 9 names"]),
        (lambda s: prefixed(s, "_orig_mod."), ["stripped `_orig_mod.` from 9 of 9 names"]),
        (lambda s: inserted(s, "_orig_mod."), ["stripped `_orig_mod.` from 9 of 9 names"]),
        (
            lambda s: {"state_dict": prefixed(s, "model._orig_mod.")},
            [
                "took the tensors under `state_dict`",
                "stripped `model.` from 9 of 9 names",
                "stripped `_orig_mod.` from 9 of 9 names",
            ],
        ),
        (
            lambda s: prefixed(s, "_orig_mod.module.model."),
            [
                "stripped `_orig_mod.` from 9 of 9 names",
                "stripped `module.` from 9 of 9 names",
                "stripped `model.` from 9 of 9 names",
            ],
        ),
    ],
)
def test_usual_wrappings_are_taken_off_and_named(wrap: Any, lines: list[str]) -> None:
    source, target = net(), net()
    assert sorted(fit_state(target, wrap(source.state_dict()), source="x")) == sorted(lines)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_a_model_whose_own_names_begin_with_a_prefix_keeps_them() -> None:
    source, target = (nn.ModuleDict({"model": net()}) for _ in range(2))
    assert fit_state(target, source.state_dict(), source="x") == []
    assert torch.equal(target.state_dict()["model.body.weight"], source.state_dict()["model.body.weight"])


def test_of_two_nests_the_one_that_fits_is_taken() -> None:
    state = net().state_dict()
    nested = {"model": {"other.weight": torch.ones(2)}, "ema": state}
    assert fit_state(net(), nested, source="x") == ["took the tensors under `ema`"]


def test_nothing_fits_has_a_message_of_its_own() -> None:
    model = net()
    with pytest.raises(RunError) as caught:
        fit_state(model, {"conv.weight": torch.ones(2, 3), "conv.bias": torch.ones(2)}, source="file:///t.pt")
    assert str(caught.value) == (
        "weights `file:///t.pt` fit none of the model's 9 tensors: another architecture?\n"
        "  the model has body.weight (5, 4), body.bias (5,), norm.weight (5,), ...\n"
        "  the file has conv.weight (2, 3), conv.bias (2,)"
    )


@pytest.mark.parametrize("state", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_a_file_without_tensors_fits_none(state: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"(?s)fit none of the model's 9 tensors.*the file has no tensors"):
        fit_state(net(), state, source="x")


def test_nothing_fits_even_where_partial_would_allow_it() -> None:
    with pytest.raises(RunError, match="fit none"):
        fit_state(net(), {"a": torch.ones(1)}, partial=["*"], source="x")


def test_missing_left_over_and_differing_tensors_are_listed_and_nothing_is_loaded() -> None:
    state = net(classes=7).state_dict()
    del state["body.bias"]
    state["extra.scale"] = torch.ones(2)
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RunError) as caught:
        fit_state(model, state, source="x")
    assert str(caught.value).splitlines()[:4] == [
        "weights `x` do not fit: 6 of the model's 9 tensors fit",
        "  missing in the file (1): body.bias (5,)",
        "  only in the file (1): extra.scale (2,)",
        "  different (2): head.weight: file (7, 5), model (3, 5); head.bias: file (7,), model (3,)",
    ]
    assert "`partial: [body.*, head.*, extra.*]`" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_lists_are_cut_after_five() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(8)))
    with pytest.raises(RunError) as caught:
        fit_state(model, {"0.weight": torch.ones(2, 2)}, source="x")
    listed = str(caught.value).splitlines()[1]
    assert listed.startswith("  missing in the file (7): 1.weight (2, 2); ")
    assert listed.endswith("5.weight (2, 2); ...")


def test_partial_lets_listed_names_be_and_reports_them() -> None:
    state = net(classes=7).state_dict()
    state["aux.weight"] = torch.ones(2)
    del state["norm.weight"]
    model = net()
    head, norm = model.head.weight.clone(), model.norm.weight.clone()  # type: ignore[union-attr]
    lines = fit_state(model, state, partial=["head.*", "aux.*", "norm.weight"], source="x")
    assert lines == [
        "partial: `norm.weight` (5,) is not in the file and keeps its fresh values",
        "partial: `head.weight` is (7, 5) in the file, (3, 5) here: it keeps its fresh values",
        "partial: `head.bias` is (7,) in the file, (3,) here: it keeps its fresh values",
        "partial: `aux.weight` (2,) of the file is not used",
    ]
    assert torch.equal(model.head.weight, head)  # type: ignore[union-attr, arg-type]
    assert torch.equal(model.norm.weight, norm)  # type: ignore[union-attr, arg-type]
    assert torch.equal(model.state_dict()["body.weight"], state["body.weight"])


def test_partial_does_not_allow_what_it_does_not_list() -> None:
    state = net(classes=7).state_dict()
    del state["body.bias"]
    with pytest.raises(RunError) as caught:
        fit_state(net(), state, partial=["head.*"], source="x")
    assert "missing in the file (1): body.bias" in str(caught.value)
    assert "head.weight" not in str(caught.value)


def test_integers_are_not_taken_for_weights() -> None:
    state = net().state_dict()
    state["head.weight"] = torch.ones(3, 5, dtype=torch.int8)
    with pytest.raises(RunError, match=r"different \(1\): head.weight: file \(3, 5\) int8, model \(3, 5\)"):
        fit_state(net(), state, source="x")


def test_another_float_type_is_converted() -> None:
    source, target = net(), net()
    fit_state(
        target, {name: t.half() if t.is_floating_point() else t for name, t in source.state_dict().items()}, source="x"
    )
    assert target.body.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert torch.allclose(target.state_dict()["body.weight"], source.state_dict()["body.weight"], atol=1e-3)


def test_batch_counters_of_old_files_may_lack() -> None:
    state = net().state_dict()
    del state["norm.num_batches_tracked"]
    assert fit_state(net(), state, source="x") == []


def test_a_tied_tensor_may_come_under_one_of_its_names() -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        model[1].weight = model[0].weight
        return model

    target = tied()
    assert fit_state(target, {"1.weight": torch.full((4, 4), 2.0)}, source="x") == []
    assert torch.equal(target[0].weight, torch.full((4, 4), 2.0))

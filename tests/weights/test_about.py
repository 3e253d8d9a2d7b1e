"""What a checkpoint says of itself: its classes and the name of its net."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdcore.errors import RunError
from kdcore.weights.about import architecture_of, classes_of


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"classes": ["cat", "dog"]}, ("cat", "dog")),
        ({"class_names": ("cat", "dog")}, ("cat", "dog")),
        ({"class_to_idx": {"dog": 1, "cat": 0}}, ("cat", "dog")),
        ({"class_names": ["a"], "classes": ["b"]}, ("a",)),
        ({"class_to_idx": {"dog": 2, "cat": 0}}, None),  # a hole
        ({"class_to_idx": {"dog": 0, "cat": 0}}, None),
        ({"class_to_idx": {}}, None),
        ({"class_to_idx": ["cat"]}, None),
        ({"classes": 10}, None),
        ({"classes": [0, 1]}, None),
        ({"classes": torch.arange(2)}, None),
        ({"classes": []}, None),
        ({"classes": "cat"}, None),
        ({}, None),
    ],
)
def test_classes_in_a_checkpoint(state: dict[str, Any], expected: tuple[str, ...] | None) -> None:
    assert classes_of(state, None) == expected


def test_the_card_beside_a_file_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    assert classes_of({"classes": ["a", "b"]}, file) == ("a", "b")
    (tmp_path / "net.json").write_text(json.dumps({"class_names": ["b", "a"]}))
    assert classes_of({"classes": ["a", "b"]}, file) == ("b", "a")
    (tmp_path / "net.json").write_text(json.dumps({"class_names": [1, 0]}))  # numbers count as they are written
    assert classes_of({"classes": ["a", "b"]}, file) == ("1", "0")
    (tmp_path / "net.json").write_text("[1,")
    assert classes_of({}, file) is None


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"arch": "resnet18"}, "resnet18"),
        ({"architecture": "resnet18"}, "resnet18"),
        ({"args": Namespace(model="resnet18", lr=0.1)}, "resnet18"),
        ({"args": {"model": "resnet18"}}, "resnet18"),
        ({"arch": "resnet", "architecture": "b"}, "resnet"),
        ({"arch": 18, "args": Namespace(model=None)}, None),
        ({"arch": ""}, None),
        ({"args": ["--model", "resnet18"]}, None),
        ({}, None),
    ],
)
def test_the_net_a_checkpoint_names(tmp_path: Path, beside: dict[str, Any], expected: str | None) -> None:
    torch.save({"state_dict": nn.Linear(1, 1).state_dict(), **beside}, tmp_path / "net.pth.tar")
    assert architecture_of(tmp_path / "net.pth.tar") == expected


def test_the_net_that_config_json_names(tmp_path: Path) -> None:
    save_file(nn.Linear(1, 1).state_dict(), tmp_path / "model.safetensors")
    assert architecture_of(tmp_path / "model.safetensors") is None
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 3}))
    assert architecture_of(tmp_path / "model.safetensors") == "vit_tiny_patch16_224"


def test_a_file_that_would_run_code_is_not_asked(tmp_path: Path) -> None:
    torch.save({"arch": "resnet18", "model": nn.Linear(1, 1)}, tmp_path / "net.pth")
    with pytest.raises(RunError, match="could run code from the file, so it was not read"):
        architecture_of(tmp_path / "net.pth")


def test_arguments_that_hold_more_than_plain_values_are_refused(tmp_path: Path) -> None:
    torch.save({"arch": "resnet18", "args": Namespace(net=nn.Linear(1, 1))}, tmp_path / "net.pth")
    with pytest.raises(RunError, match=r"torch\.nn\.modules\.linear\.Linear was not an allowed global"):
        architecture_of(tmp_path / "net.pth")

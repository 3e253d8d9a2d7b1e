from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kdcore.errors import RunError
from kdcore.models.convnet import ConvNet
from torch import Tensor, nn

from kdcore_vision.exporters import answer_with_names, check_names, class_names, onnx, open_session
from kdcore_vision.task import ClassifyImages

NAMES = ["ant", "bee", "Käfer"]


class Resized(ConvNet):
    image_size = (12, 12)


@pytest.fixture(scope="module")
def shipped() -> nn.Module:
    torch.manual_seed(0)
    return ClassifyImages(classes=3).deploy(Resized(classes=3, channels=3, width=4, depth=1))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def file(shipped: nn.Module, pixels: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    (path,) = onnx(shipped, (pixels,), folder, card={"class_names": NAMES, "task": "vision.classify"})
    return path


def test_it_takes_bytes_and_answers_with_names(file: Path, shipped: nn.Module, pixels: Tensor):
    session = open_session(file)
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 8, 8])
    assert [(one.name, one.type) for one in session.get_outputs()] == [
        ("probabilities", "tensor(float)"), ("name", "tensor(string)"),
    ]  # fmt: skip
    for count in (1, 3, 5):
        probabilities, names = session.run(None, {given.name: pixels[:count].numpy()})
        expected = shipped(pixels[:count]).detach()
        assert np.allclose(probabilities, expected.numpy(), atol=1e-4)
        assert names.tolist() == [NAMES[int(row)] for row in expected.argmax(-1)]


def test_its_metadata_name_the_classes(file: Path):
    known = open_session(file).get_modelmeta().custom_metadata_map
    assert json.loads(known["class_names"]) == NAMES
    assert json.loads(known["task"]) == "vision.classify"


def test_without_names_the_numbers_answer():
    assert class_names(None, 3) == ["0", "1", "2"]
    assert class_names({"class_names": None}, 2) == ["0", "1"]
    assert class_names({"class_names": ["a", "b"]}, 2) == ["a", "b"]


def test_names_that_do_not_belong_are_found_out(file: Path, tmp_path: Path, shipped: nn.Module, pixels: Tensor):
    from kdcore.run.exporters import onnx as core_onnx

    (path,) = core_onnx(shipped, (pixels,), tmp_path, card={"class_names": NAMES})
    answer_with_names(path, [*NAMES[1:], NAMES[0]])
    with pytest.raises(RunError, match=r"model.onnx names other classes than its probabilities say"):
        check_names(path, (pixels,))

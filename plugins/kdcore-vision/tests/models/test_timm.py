from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.errors import RunError
from kdcore.weights.fitting import fit_state
from timm import create_model

from kdcore_vision.models.timm import REFUSED, timm

TINY = {"channels": [4, 8, 16, 32], "stem_width": 4}


def tiny(**given: Any) -> torch.nn.Module:
    return timm(**({"name": "resnet10t", "classes": 3, "options": TINY} | given))


def test_it_is_timm_s_own_net():
    net = tiny()
    own = create_model("resnet10t", num_classes=3, **TINY)
    assert net.state_dict().keys() == own.state_dict().keys()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_it_knows_its_mean_and_std():
    net = tiny()
    assert net.input_mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert net.input_std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert timm(name="test_vit", classes=2).input_mean.tolist() == [0.5] * 3
    assert "input_mean" not in net.state_dict()


def test_of_one_channel_they_are_the_average_and_of_others_unknown():
    net = tiny(channels=1)
    assert net.input_mean.tolist() == pytest.approx([0.449], abs=1e-4)
    assert net.input_std.tolist() == pytest.approx([0.226], abs=1e-4)
    assert tiny(channels=4).input_mean is None


def test_sizes():
    assert tiny().image_size is None
    assert tiny(size=(32, 48)).image_size == (32, 48)
    fixed = timm(name="test_vit", classes=2)
    assert fixed.image_size == (160, 160)
    small = timm(name="test_vit", classes=2, size=(32, 32))
    assert small.image_size == (32, 32)
    assert small(torch.rand(1, 3, 32, 32)).shape == (1, 2)


def test_a_copy_knows_the_same():
    net = copy.deepcopy(tiny(size=(32, 32), class_names=["a", "b", "c"]))
    assert (net.image_size, net.class_names) == ((32, 32), ["a", "b", "c"])


def test_a_stranger_s_checkpoint_fits():
    trained = create_model("resnet10t", num_classes=3, **TINY)
    nested = {"epoch": 3, "state_dict": {f"module.{name}": one for name, one in trained.state_dict().items()}}
    net = tiny()
    said = fit_state(net, nested, source="teacher.pth.tar")
    assert said == ["took the tensors under `state_dict`", "stripped `module.` from 92 of 92 names"]
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(net.eval()(image), trained.eval()(image))


def test_another_number_of_classes_is_a_partial_load_by_name():
    trained = create_model("resnet10t", num_classes=7, **TINY).state_dict()
    with pytest.raises(RunError, match=r"fc.weight: file \(7, 32\), model \(3, 32\)[\s\S]*partial: \[fc.\*\]"):
        fit_state(tiny(), trained, source="teacher.pt")
    said = fit_state(tiny(), trained, partial=["fc.*"], source="teacher.pt")
    assert said[0].startswith("partial: `fc.weight` is (7, 32) in the file, (3, 32) here")


def test_a_checkpoint_of_another_architecture():
    trained = create_model("test_vit", num_classes=3).state_dict()
    with pytest.raises(
        RunError, match=r"weights `teacher.pt` fit none of the model's 92 tensors: another architecture?"
    ):
        fit_state(tiny(), trained, source="teacher.pt")


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the net was asked for")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    tiny()
    with pytest.raises(ValueError, match="timm makes no `resnet10t` with these settings: the net was asked for"):
        tiny(pretrained=True)


def test_the_state_of_the_random_numbers_decides_the_weights():
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(tiny())
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets), strict=True))


@pytest.mark.parametrize(("name", "hint"), [("resnet51", "did you mean `resnet"), ("zzzz", "lists all of them")])
def test_a_name_that_is_none(name: str, hint: str):
    with pytest.raises(ValueError, match=f"name={name}: timm has no such net; .*{hint}"):
        timm(name=name, classes=2)


def test_a_tag_of_weights_is_taken(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.ERROR):
        assert timm(name="resnet18.a1_in1k", classes=2).input_mean is not None


@pytest.mark.parametrize("option", sorted(REFUSED))
def test_options_that_have_a_place_of_their_own(option: str):
    with pytest.raises(ValueError, match=f"options.{option}: {REFUSED[option]}"):
        tiny(options={option: 1})


def test_options_that_the_net_does_not_know():
    with pytest.raises(ValueError, match=r"timm makes no `resnet10t` with these settings: .*wheels"):
        tiny(options={"wheels": 4})


def test_other_values_that_are_wrong():
    with pytest.raises(ValueError, match="class_names has 2 names, and there are 3 classes"):
        tiny(class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"size=\[0, 5\]: give \[height, width\] in pixels"):
        tiny(size=(0, 5))


def test_options_of_the_recipe_stay_as_they_are(tmp_path: Path):
    options = {"embed_dim": 32}
    timm(name="test_vit", classes=2, size=(32, 32), options=options)
    assert options == {"embed_dim": 32}

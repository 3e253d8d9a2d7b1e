"""Any transform of torchvision's v2, pure, with image and mask moved alike."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from kdcore.errors import RunError
from kdcore.transforms.torchvision import Torchvision


def sample(**more: Any) -> dict[str, Any]:
    labels = torch.arange(48).view(6, 8)
    return {"id": 1, "image": labels.expand(3, 6, 8) / 48, "labels": labels, **more}


def test_image_and_mask_move_alike_and_the_rest_passes() -> None:
    extra = torch.arange(3)
    shown = Torchvision(name="RandomHorizontalFlip", options={"p": 1.0})(sample(extra=extra), 0)
    assert torch.equal(shown["labels"], sample()["labels"].flip(-1))
    assert torch.equal(shown["image"], sample()["image"].flip(-1))
    assert shown["extra"] is extra
    assert shown["id"] == 1


def test_the_result_holds_plain_tensors() -> None:
    shown = Torchvision(name="RandomCrop", options={"size": [4, 4]})(sample(), 0)
    assert type(shown["image"]) is torch.Tensor
    assert type(shown["labels"]) is torch.Tensor


def test_the_same_seed_gives_the_same_pixels_and_the_global_state_is_left_alone() -> None:
    crop = Torchvision(name="RandomCrop", options={"size": [3, 3]})
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    found = [crop(sample(), seed)["labels"] for seed in range(20)]
    assert torch.equal(torch.rand(2), expected)
    torch.rand(7)
    assert all(torch.equal(crop(sample(), seed)["labels"], one) for seed, one in enumerate(found))
    assert len({one.flatten()[0].item() for one in found}) > 5


def test_new_pixels_have_no_label() -> None:
    pad = Torchvision(name="Pad", options={"padding": 1, "fill": 0.5})
    shown = pad(sample(), 0)
    assert shown["labels"].shape == (8, 10)
    assert shown["labels"].dtype == torch.int64
    assert set(shown["labels"][0].tolist()) == {-100}
    assert torch.equal(shown["labels"][1:-1, 1:-1], sample()["labels"])
    assert set(shown["image"][:, 0].flatten().tolist()) == {0.5}


def test_a_rotation_fills_masks_with_no_label_and_keeps_labels_whole() -> None:
    shown = Torchvision(name="RandomRotation", options={"degrees": [30, 30]})(sample(), 0)
    assert -100 in shown["labels"]
    assert set(shown["labels"].flatten().tolist()) <= {-100, *range(48)}


def test_a_transform_of_colours_leaves_the_mask() -> None:
    shown = Torchvision(name="ColorJitter", options={"brightness": [0.5, 0.5]})(sample(), 0)
    assert torch.equal(shown["labels"], sample()["labels"])
    torch.testing.assert_close(shown["image"], sample()["image"] * 0.5)


def test_class_labels_are_no_mask() -> None:
    shown = Torchvision(name="RandomVerticalFlip", options={"p": 1.0})(sample(labels=torch.tensor(4)), 0)
    assert shown["labels"].item() == 4
    assert torch.equal(shown["image"], sample()["image"].flip(-2))


def test_boxes_move_with_the_image_and_stay_boxes() -> None:
    boxes = tv_tensors.BoundingBoxes([[0, 0, 2, 3]], format="XYXY", canvas_size=(6, 8))  # type: ignore[call-arg]
    shown = Torchvision(name="RandomHorizontalFlip", options={"p": 1.0})(sample(boxes=boxes), 0)
    assert isinstance(shown["boxes"], tv_tensors.BoundingBoxes)
    assert shown["boxes"].tolist() == [[6, 0, 8, 3]]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"name=RandomHFlip: torchvision.transforms.v2 has no such transform; .*Flip"):
        Torchvision(name="RandomHFlip")


@pytest.mark.parametrize("name", ["Transform", "MixUp", "functional", "InterpolationMode", "__doc__"])
def test_only_transforms_of_one_sample_are_known(name: str) -> None:
    with pytest.raises(ValueError, match=f"^name={name}: torchvision.transforms.v2 has no such transform"):
        Torchvision(name=name)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        Torchvision(name="RandomCrop", options={"sise": 3})


def test_without_torchvision_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("torchvision"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r"the transform `torchvision` needs torchvision: pip install kdcore\[images\]"):
        Torchvision(name="RandomCrop")

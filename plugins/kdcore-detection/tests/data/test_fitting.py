"""Boxes must stay on what they are around, whatever happens to the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore_detection.data.fitting import GREY, Fit


def scene(height: int, width: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A black picture with a white box."""
    pixels = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


def around_white(image: torch.Tensor) -> list[int]:
    """The box of what is brighter than grey."""
    rows, columns = (image.float().mean(0) > 180).nonzero().T
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (64, 64), (30, 200), (64, 128)])
def test_a_box_moves_along(kind: str, height: int, width: int):
    box = (width // 4, height // 4, width // 2, height * 3 // 4)
    fit = Fit((64, 128), kind)  # type: ignore[arg-type]
    moved = fit.boxes(np.array([box], dtype=np.float64), (height, width))
    image = fit.image(scene(height, width, box))
    assert image.shape == (3, 64, 128)
    assert image.dtype == torch.uint8
    assert moved.dtype == torch.float32
    assert (moved[0] - torch.tensor(around_white(image))).abs().max() <= 1


def test_a_letterbox_keeps_proportions_and_pads_two_sides_alike():
    fit = Fit((60, 60), "letterbox")
    assert fit.boxes(np.array([[0.0, 0.0, 40.0, 20.0]]), (20, 40)).tolist() == [[0, 15, 60, 45]]
    image = fit.image(Image.new("RGB", (40, 20), (255, 0, 0)))
    assert image[:, 0, 0].tolist() == image[:, 14, 59].tolist() == image[:, 45, 0].tolist() == list(GREY)
    assert image[:, 15, 0].tolist() == image[:, 44, 59].tolist() == [255, 0, 0]


def test_stretching_does_not_keep_them():
    fit = Fit((60, 60), "stretch")
    assert fit.boxes(np.array([[10.0, 5.0, 40.0, 20.0]]), (20, 40)).tolist() == [[15, 15, 60, 60]]


def test_a_picture_of_the_right_size_is_left_as_it_is():
    picture = Image.effect_noise((48, 32), 90).convert("RGB")
    image = Fit((32, 48)).image(picture)
    assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(picture)))


def test_no_boxes():
    assert Fit((32, 48)).boxes(np.zeros((0, 4)), (5, 6)).shape == (0, 4)


def test_a_very_thin_picture_keeps_a_pixel():
    assert Fit((32, 32)).image(Image.new("RGB", (400, 2))).shape == (3, 32, 32)

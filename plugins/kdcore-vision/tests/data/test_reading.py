from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import Draw
from kdcore.data.bad import BadSampleError
from kdcore.data.pictures import opened
from PIL import Image

from kdcore_vision.data.reading import Shape, conversions

WHOLE = Shape(3, (6, 8))


def read(path: Path, shape: Shape = WHOLE) -> torch.Tensor:
    return shape.bytes_of(opened(path), str(path))


def test_pixels_are_bytes(picture: Draw):
    pixels = read(picture("a.png"))
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 6, 8))
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert pixels.is_contiguous()


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1", "LA"])
def test_all_kinds_become_rgb(picture: Draw, mode: str):
    ending = "tif" if mode == "CMYK" else "png"
    pixels = read(picture(f"a.{ending}", mode=mode, colour=(255, 255, 255)))
    assert pixels.shape[0] == 3
    assert (pixels == 255).all()


def test_grey_weighs_the_colours(picture: Draw):
    pixels = read(picture("a.png", colour=(255, 0, 0)), Shape(1, (6, 8)))
    assert tuple(pixels.shape) == (1, 6, 8)
    assert pixels[0, 0, 0] == 76  # .299 of red


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """16 wide and 8 high: the left quarter and the right one white."""
    made = Image.new("L", (16, 8), 0)
    made.paste(255, (0, 0, 4, 8))
    made.paste(255, (12, 0, 16, 8))
    made.save(tmp_path / "h.png")
    return tmp_path / "h.png"


def test_crop_cuts_off_the_edges_and_stretch_does_not(halves: Path):
    cropped, stretched = (read(halves, Shape(1, (8, 8), fit)) for fit in ("crop", "stretch"))
    assert (cropped == 0).all()
    assert (stretched[..., 0] == 255).all()
    assert (stretched[..., -1] == 255).all()
    assert (stretched[..., 4] == 0).all()


def test_resizing_is_the_same_every_time(halves: Path):
    assert torch.equal(read(halves, Shape(3, (5, 7), "crop")), read(halves, Shape(3, (5, 7), "crop")))


def test_without_a_size_all_must_be_equal(picture: Draw):
    path = picture("a.png", height=7)
    with pytest.raises(BadSampleError, match=r"a.png: is 7x8, the first picture is 6x8: set `size: \[HEIGHT, WIDTH\]`"):
        read(path)


def test_a_picture_that_breaks_off(tmp_path: Path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadSampleError, match=r"a.jpg: is damaged \(OSError: image file is truncated"):
        read(tmp_path / "a.jpg", Shape(3, (64, 64)))


def test_sixteen_bits_are_refused_rather_than_clipped(picture: Draw):
    with pytest.raises(BadSampleError, match=r"has more than 8 bits a channel \(mode I;16\): convert it to 8 bits"):
        read(picture("a.png", mode="I;16"))


def test_what_was_converted_is_said_in_words():
    assert conversions(Counter(RGB=5, L=3, CMYK=1), 3, "train") == [
        "of 9 pictures of the split `train` these were converted to RGB: 3 grey, 1 CMYK"
    ]
    assert conversions(Counter(RGB=5), 3, "val") == []
    assert conversions(Counter(RGB=2, L=1), 1, "val") == [
        "of 3 pictures of the split `val` these were converted to grey: 2 coloured"
    ]


def test_workers_can_be_sent_it():
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kdcore.errors import RunError
from pictures import Draw
from PIL import Image

from kdcore_segmentation.data.codes import VOID, plain_codes
from kdcore_segmentation.data.reading import BadSampleError, Pair, Reader, size_of

CODES = plain_codes(3, [255])
AS_IT_IS = Reader(CODES, (6, 8))


def refused(pair: Pair, size: tuple[int, int] = (6, 8)) -> str:
    with pytest.raises(BadSampleError) as error:
        Reader(CODES, size, resize=True).read(pair)
    return str(error.value)


@pytest.fixture
def pair(image: Draw, mask: Draw) -> Pair:
    return Pair(image("a.png"), mask("a_mask.png"), 0)


# --- good ones --------------------------------------------------------------------------------------------------------


def test_bytes_as_they_are_in_the_files(pair: Pair):
    image, mask = AS_IT_IS.read(pair)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 6, 8))
    assert (mask.dtype, mask.shape) == (torch.uint8, (6, 8))
    assert image[0, 4, 5] == 4
    assert image[1, 4, 5] == 5
    assert image[2].unique().tolist() == [7]
    assert mask[:, 0].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_what_is_ignored_has_no_class(image: Draw, mask: Draw, mode: str):
    values = np.full((6, 8), 255)
    values[0, 0], values[0, 1] = 2, 1
    _, found = AS_IT_IS.read(Pair(image("a.png"), mask("m.png", values=values, mode=mode), 0))
    assert found[0, :3].tolist() == [2, 1, VOID]
    assert (found == VOID).sum() == 46


def test_a_mask_of_bits(tmp_path: Path, image: Draw):
    Image.fromarray(np.eye(6, 8, dtype=bool)).save(tmp_path / "m.png")
    _, found = AS_IT_IS.read(Pair(image("a.png"), tmp_path / "m.png", 0))
    assert torch.equal(found, torch.eye(6, 8, dtype=torch.uint8))


def test_a_grey_image_becomes_rgb(tmp_path: Path, mask: Draw):
    Image.fromarray(np.full((6, 8), 9, dtype=np.uint8)).save(tmp_path / "grey.png")
    image, _ = AS_IT_IS.read(Pair(tmp_path / "grey.png", mask("m.png"), 0))
    assert image.shape == (3, 6, 8)
    assert image.unique().tolist() == [9]


def test_images_are_averaged_and_masks_never_are(tmp_path: Path, image: Draw):
    values = np.zeros((6, 8), dtype=np.uint8)
    values[:, 4:] = 2
    Image.fromarray(values).save(tmp_path / "m.png")
    bright = np.zeros((6, 8, 3), dtype=np.uint8)
    bright[::2] = 200
    Image.fromarray(bright).save(tmp_path / "striped.png")
    picture, found = Reader(CODES, (3, 4), resize=True).read(Pair(tmp_path / "striped.png", tmp_path / "m.png", 0))
    assert picture.shape == (3, 3, 4)
    assert found.shape == (3, 4)
    assert 60 < picture.float().mean() < 140  # a filter as wide as the reduction: no stripe wins
    assert picture.float().std() < 40
    assert found.tolist() == [[0, 0, 2, 2]] * 3


def test_reading_twice_gives_the_same(pair: Pair):
    first, second = (Reader(CODES, (5, 7), resize=True).read(pair) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_size_comes_from_the_header(image: Draw):
    path = image("a.png", height=5, width=9)
    assert size_of(path) == (5, 9)
    path.write_bytes(path.read_bytes()[:60])  # no pixel is left
    assert size_of(path) == (5, 9)


# --- bad ones, each named with its file -------------------------------------------------------------------------------


def test_a_value_outside_the_classes(image: Draw, mask: Draw):
    values = np.zeros((6, 8))
    values[2, 3], values[1, 1] = 77, 3
    path = mask("m.png", values=values)
    assert refused(Pair(image("a.png"), path, 0)) == (
        f"{path}: holds the value 3, 77, which is no class: known are 0 to 2, and 255 for none"
    )


def test_image_and_mask_of_different_sizes(image: Draw, mask: Draw):
    picture, path = image("a.png"), mask("m.png", height=6, width=9)
    assert refused(Pair(picture, path, 0)) == f"{path}: is 6x9, but its image {picture} is 6x8"


def test_different_sizes_are_not_mended_by_resizing(image: Draw, mask: Draw):
    assert "but its image" in refused(Pair(image("a.png"), mask("m.png", width=9), 0), size=(4, 4))


def test_a_mask_without_any_class(image: Draw, mask: Draw):
    path = mask("m.png", values=np.full((6, 8), 255))
    assert refused(Pair(image("a.png"), path, 0)) == (
        f"{path}: holds no class at all: every pixel has a value that is ignored"
    )


def test_a_mask_whose_classes_are_lost_by_resizing(image: Draw, mask: Draw):
    values = np.full((6, 8), 255)
    values[0, 0] = 1
    path = mask("m.png", values=values)
    assert "holds no class at all" in refused(Pair(image("a.png"), path, 0), size=(2, 2))


def test_a_truncated_jpeg(image: Draw, mask: Draw):
    path = image("a.jpg", height=64, width=64)
    path.write_bytes(path.read_bytes()[:-200])
    said = refused(Pair(path, mask("m.png", height=64, width=64), 0))
    assert said.startswith(f"{path}: is damaged (OSError: image file is truncated")


def test_a_file_that_is_no_image(tmp_path: Path, mask: Draw):
    path = tmp_path / "a.jpg"
    path.write_text("not a picture")
    assert refused(Pair(path, mask("m.png"), 0)).startswith(f"{path}: is no picture that can be read (Unidentified")
    with pytest.raises(BadSampleError, match=r"a\.jpg: is no picture"):
        size_of(path)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 8), (6, 1)])
def test_a_one_pixel_image(image: Draw, mask: Draw, height: int, width: int):
    path = image("a.png", height=height, width=width)
    said = refused(Pair(path, mask("m.png", height=height, width=width), 0), size=(4, 4))
    assert said == f"{path}: is {height}x{width} pixels, which is no picture"


def test_a_one_pixel_image_tells_no_size(image: Draw):
    with pytest.raises(BadSampleError, match=r"a\.png: is 1x1 pixels, which is no picture"):
        size_of(image("a.png", height=1, width=1))


def test_another_size_is_no_fault_of_the_sample(image: Draw, mask: Draw):
    picture = image("a.png", width=9)
    with pytest.raises(RunError) as error:
        AS_IT_IS.read(Pair(picture, mask("m.png", width=9), 0))
    assert str(error.value) == f"{picture}: is 6x9, the first image is 6x8: set `size: [HEIGHT, WIDTH]`"


def test_a_missing_mask(tmp_path: Path, image: Draw):
    assert refused(Pair(image("a.png"), tmp_path / "m.png", 0)) == f"{tmp_path / 'm.png'}: there is no such file"


def test_a_mask_in_colours(image: Draw, mask: Draw):
    path = mask("m.png", mode="RGB")
    assert refused(Pair(image("a.png"), path, 0)) == (
        f"{path}: has the mode RGB: a mask holds one class number (0 to 255) a pixel, in one channel"
    )


def test_an_image_of_16_bits(tmp_path: Path, mask: Draw):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((6, 8), 4000, dtype=np.uint16)).save(path)
    assert refused(Pair(path, mask("m.png"), 0)).startswith(f"{path}: has more than 8 bits a channel (mode I")

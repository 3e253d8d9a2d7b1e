from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from kdcore.data.bad import BadSampleError
from kdcore.data.pictures import check_mode, decoded, height_and_width, opened, pixels


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.effect_noise((9, 6), 90).convert("RGB").save(path)
    return path


def test_a_picture_is_opened_and_its_pixels_read(noise: Path):
    with opened(noise) as picture:
        assert height_and_width(picture) == "6x9"
        found = pixels(decoded(picture, "a.png"))
    assert found.shape == (3, 6, 9)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert found[:, 2, 5].tolist() == list(Image.open(noise).getpixel((5, 2)))  # type: ignore[arg-type]


def test_grey_keeps_one_channel(noise: Path):
    assert pixels(decoded(opened(noise), "a.png", "L")).shape == (1, 6, 9)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_eight_bits_is_converted(tmp_path: Path, mode: str):
    assert pixels(decoded(Image.new(mode, (4, 3)), "made", "RGB")).shape == (3, 3, 4)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_bits_are_refused_rather_than_clipped(mode: str):
    picture = Image.new(mode, (4, 3))
    said = rf"^b.tif: has more than 8 bits a channel \(mode {mode}\): convert it to 8 bits$"
    with pytest.raises(BadSampleError, match=said):
        check_mode(picture, "b.tif")
    with pytest.raises(BadSampleError, match=said):
        decoded(picture, "b.tif", "RGB")
    assert decoded(picture, "b.tif").mode == mode  # as it is, nothing is clipped


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(BadSampleError, match=r"a.jpg: there is no such file$"):
        opened(tmp_path / "a.jpg")


def test_an_empty_file(tmp_path: Path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(BadSampleError, match=r"a.jpg: is an empty file$"):
        opened(tmp_path / "a.jpg")


def test_a_file_that_is_no_picture(tmp_path: Path):
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    with pytest.raises(BadSampleError, match=r"a.jpg: is no picture that can be read \(UnidentifiedImageError"):
        opened(tmp_path / "a.jpg")


def test_a_picture_that_breaks_off(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for mode in (None, "RGB"):
        with pytest.raises(BadSampleError, match=r"^it: is damaged \(OSError: image file is truncated"):
            decoded(opened(path), "it", mode)

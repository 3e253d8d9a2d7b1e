"""What the tests of the data write to disk; not in conftest.py, because there are two of that name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(path: Path, height: int = 40, width: int = 60, blue: int = 7) -> Path:
    """An RGB picture: red is its row, green its column."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, np.full_like(rows, blue)], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


TURNED_BOX = (26, 4, 36, 20)
"""What is white in :func:`turned_picture`, in pixels of the picture as it is shown."""


def turned_picture(path: Path) -> Path:
    """Stored as 40x80 and shown as 80x40: by a quarter to the right, as EXIF's orientation 6 says."""
    stored = np.zeros((40, 80, 3), np.uint8)
    left, top, right, bottom = TURNED_BOX
    # the top of what is stored is the right side of what is shown
    stored[40 - right : 40 - left, top:bottom] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    return path


def check_upright(sample: dict[str, Any]) -> None:
    """The box of a sample of that picture is around what is white in it."""
    assert sample["image"].shape == (3, 80, 40)
    rows, columns = (sample["image"].mean(0) > 0.5).nonzero().T.tolist()
    white = [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
    assert white == list(TURNED_BOX)
    np.testing.assert_allclose(sample["boxes"].numpy(), [TURNED_BOX], atol=1e-4)


def voc_object(name: str, corners: Sequence[Any], difficult: int = 0) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_sample(root: Path, stem: str, objects: Sequence[str], height: int = 40, width: int = 60) -> None:
    """A picture and its XML."""
    picture(root / "JPEGImages" / f"{stem}.jpg", height, width)
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    write(root / "Annotations" / f"{stem}.xml", f"<annotation>{size}{''.join(objects)}</annotation>")


def voc(root: Path, *, train: int = 4, val: int = 2, test: int = 2) -> Path:
    """A folder of VOC: each picture has a dog, and every other one a difficult cat."""
    number = 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        stems = [f"p{number + k:03d}" for k in range(count)]
        number += count
        for k, stem in enumerate(stems):
            cats = [voc_object("cat", (5, 5, 14, 24), difficult=1)] if k % 2 else []
            voc_sample(root, stem, [voc_object("dog", (11, 1, 30, 20)), *cats])
        write(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems))
    return root


def coco_content(pictures: int, boxes: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Categories 3 and 18, and pictures 10, 11, ... of 40x60 called a.png, b.png, ..."""
    return {
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "images": [
            {"id": 10 + k, "file_name": f"{chr(97 + k)}.png", "height": 40, "width": 60} for k in range(pictures)
        ],
        "annotations": [{"id": k, **box} for k, box in enumerate(boxes)],
    }


def coco_file(path: Path, content: dict[str, Any]) -> Path:
    """The JSON file, and beside it the pictures that it names."""
    for entry in content["images"]:
        if "file_name" in entry:
            picture(path.parent / entry["file_name"], 40, 60)
    return write(path, json.dumps(content))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path

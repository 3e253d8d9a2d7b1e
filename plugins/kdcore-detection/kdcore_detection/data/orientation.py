"""Pictures that are stored turned or mirrored, and that EXIF says how to show; phones store them so."""

from __future__ import annotations

from PIL import ExifTags, Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what is done to show the picture; from 5 on, height and width are exchanged."""


def orientation_of(picture: Image.Image) -> int:
    """Of an opened picture, before it is decoded; 1 where it is shown as it is stored."""
    if picture.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)  # PNG's own method decodes the picture
    except Exception:  # as in viewers, what cannot be read turns nothing; its parser raises whatever it likes
        return 1
    return found if found in TURNS else 1


def shown_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened picture as it is shown."""
    return (picture.width, picture.height) if orientation_of(picture) >= 5 else (picture.height, picture.width)


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """A decoded picture as it is shown."""
    return picture if orientation == 1 else picture.transpose(TURNS[orientation])

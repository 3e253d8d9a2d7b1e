"""Which image sizes a net of segmentation-models-pytorch takes, told without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANY_SIZE = frozenset({"unet"})
"""Architectures that take every size: their decoder follows the encoder's own sizes."""

UNTOLD = frozenset({"dpt"})
"""Architectures of vision transformers, whose patches decide."""

_OUTPUT_STRIDE = {"deeplabv3": 8, "deeplabv3plus": 16, "pan": 16}
_DEPTH = {"pspnet": 3}


def stride(arch: str, options: Mapping[str, Any]) -> int | None:
    """Both sides of an image must be multiples of this; ``None`` where any size will do, or the net alone can tell.

    Args:
        arch: as in a recipe; its case does not matter.
        options: of which ``encoder_depth`` and ``encoder_output_stride`` count.
    """
    name = arch.lower()
    if name in ANY_SIZE | UNTOLD:
        return None
    depth = options.get("encoder_depth", _DEPTH.get(name, 5))
    by_depth = 2**depth if isinstance(depth, int) else 32
    by_output = options.get("encoder_output_stride", _OUTPUT_STRIDE.get(name, by_depth))
    return min(by_depth, by_output) if isinstance(by_output, int) else by_depth

"""Which frames of an activation lie in their clip, whatever its rate."""

from __future__ import annotations

import torch
from kdcore.signals import Batch
from torch import Tensor

from kdcore_speech.tasks.audio import audio_of


def in_clip(batch: Batch, size: int) -> Tensor:
    """Bool (N, size): frames whose middle lies in the clip, and the first one of each.

    ``size`` frames cover the batch's audio, padding included, evenly. An activation inside a net has no ``frames`` of
    its own, and they may be other ones than those of its logits.

    Raises:
        KeyError: the batch has no ``audio``.
    """
    audio, lengths = audio_of(batch)
    place = torch.arange(size, device=audio.device)
    inside: Tensor = (2 * place + 1) * audio.shape[1] < 2 * size * lengths.unsqueeze(1)
    return inside | (place == 0)

"""A teacher's embeddings as a few bytes a frame, once and for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.taps import Taps
from kdcore.task import evaluating
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kdcore_speech.data.base import Clips, SpeechData
from kdcore_speech.quantiser import Quantiser, fit

Models = Callable[[str], nn.Module]


class Quantise:
    """A table of codes of the training clips: ``id``, ``codes`` uint8 (M, T, codebooks), ``codes_frames`` int32 (M,).

    Codebooks are trained on a model's embeddings of some clips; then every frame of every clip becomes one byte a
    codebook. A later stage with ``data: {table: THIS_STAGE}`` and the loss ``speech.mvq`` learns from them without the
    model. What they lose is said, and written into the report.

    Args:
        model: of the recipe, whose embeddings are taken.
        layer: a place in it that gives (N, T, D), as in a tap: ``encoder.blocks.3``.
        codebooks: bytes of a frame; 8 of 768 float32 values are 1/384.
        frames: how many frames the codebooks are trained on, at least; all, where there are fewer.
        batch_size: clips at a time.

    Raises:
        ValueError: a number below 1.

    **Paper**: Guo et al., Predicting Multi-Codebook Vector Quantization Indexes for Knowledge Distillation, 2022
    (arXiv 2211.00508).
    **Deviation**: the paper trains codebooks and a network that guesses the codes by gradient descent, with a term that
    spreads the use of the entries, and refines the guesses; here each codebook is found by k-means on what those before
    it leave, and codes by a beam search. There is nothing to tune.
    """

    def __init__(
        self,
        *,
        model: str,
        layer: str,
        codebooks: int = 8,
        frames: int = 20_000,
        batch_size: int = 16,
    ) -> None:
        for name, value in (("codebooks", codebooks), ("frames", frames), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        self._model, self._layer = model, layer
        self._codebooks, self._frames, self._batch_size = codebooks, frames, batch_size

    def __call__(self, models: Models, data: Data) -> dict[str, Tensor]:
        """
        Raises:
            RunError: the data holds no clips of sound, the layer gives no frames, or there are too few of them.
        """
        clips = data.split("train") if isinstance(data, SpeechData) else None
        if not isinstance(data, SpeechData) or clips is None:
            raise RunError(f"`speech.quantise` reads training clips of sound, and the data is a {type(data).__name__}")
        net = models(self._model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        taps = Taps(net, {"codes": self._layer}, self._model)
        net.to(device)
        try:
            with evaluating([net]), torch.no_grad():
                quantiser = self._fitted(net, taps, clips, data)
                coded = self._coded(net, taps, clips, quantiser)
        finally:
            taps.remove()
            net.cpu()
        lengths = torch.tensor([len(one) for one in coded], dtype=torch.int32)
        return {"id": clips.ids, "codes": pad_sequence(coded, batch_first=True), "codes_frames": lengths}

    def _fitted(self, net: nn.Module, taps: Taps, clips: Clips, data: Data) -> Quantiser:
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(data.seed)).tolist()
        found: list[Tensor] = []
        for _, embedding in self._embeddings(net, taps, clips, order):
            found.append(embedding)
            if sum(map(len, found)) >= self._frames:
                break
        seen = torch.cat(found)
        try:
            quantiser = fit(seen, codebooks=self._codebooks, seed=data.seed)
        except ValueError as error:
            raise RunError(f"`speech.quantise`: {error}: take more clips") from error
        data.notes.append(
            f"codes of `{self._model}` at `{self._layer}`: {self._codebooks} bytes a frame instead of "
            f"{4 * seen.shape[1]}, and {quantiser.loss(seen):.1%} of the variance lost"
        )
        return quantiser

    def _coded(self, net: nn.Module, taps: Taps, clips: Clips, quantiser: Quantiser) -> list[Tensor]:
        """The codes (T, codebooks) of each clip, on the CPU."""
        # those of like length together: little padding
        order = sorted(range(len(clips)), key=clips.seconds.__getitem__)
        found = {row: quantiser.encode(embedding).cpu() for row, embedding in self._embeddings(net, taps, clips, order)}
        return [found[row] for row in range(len(clips))]

    def _embeddings(
        self, net: nn.Module, taps: Taps, clips: Clips, order: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """The embeddings (T, D) of each clip, without padding, beside the clip's row."""
        device = next(net.parameters()).device
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            batch = SpeechData.collate([clips[row] for row in rows])
            with taps.armed():
                said = net(batch["audio"].to(device), batch["audio_lengths"].to(device))
            embeddings = self._one(taps.take())
            frames = _frames(said, net, batch["audio_lengths"])
            if embeddings.ndim != 3 or int(frames.max()) > embeddings.shape[1]:
                raise RunError(
                    f"`speech.quantise`: `{self._layer}` of `{self._model}` gives the shape {tuple(embeddings.shape)}; "
                    f"(N, T, D) is wanted, with T = {int(frames.max())} frames or more"
                )
            for row, embedding, count in zip(rows, embeddings, frames.tolist(), strict=True):
                yield row, embedding[:count]

    def _one(self, found: dict[str, Tensor]) -> Tensor:
        if len(found) > 1:
            raise RunError(f"`speech.quantise` codes one place, and `layer: {self._layer}` names {len(found)}")
        return next(iter(found.values()))


def _frames(said: Any, net: nn.Module, lengths: Tensor) -> Tensor:
    """How many frames of each clip count, as the net says with its answer or by ``frames(samples)``."""
    frames = getattr(said, "frames", None)
    if isinstance(frames, Tensor):
        return frames.cpu()
    count = getattr(net, "frames", None)
    if count is None:
        raise RunError(f"`speech.quantise`: a {type(net).__name__} does not say how many frames it makes of a clip")
    counted: Tensor = count(lengths)
    return counted

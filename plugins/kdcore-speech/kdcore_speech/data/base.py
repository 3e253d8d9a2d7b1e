"""The base of all data of this plugin: clips of sound, batched by length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from kdcore.data.base import Data, Split
from kdcore.data.chosen import ids_of
from kdcore.data.loader import Batches, EpochBatches, Samples
from kdcore.data.seeds import derive_seed, sample_seeds
from kdcore.data.splits import keep_labels
from kdcore.signals import IGNORE, Batch
from torch import Tensor

from kdcore_speech.data.buckets import BucketBatches
from kdcore_speech.data.collate import NO_TRANSCRIPT, collate
from kdcore_speech.vocabulary import Vocabulary

SPLITS: tuple[Split, ...] = ("train", "val", "test")
FIRST_ID: dict[Split, int] = {name: place << 32 for place, name in enumerate(SPLITS)}
"""Where the ids of a split begin, so that no two samples share one."""

EVALUATED_AT_ONCE = 32
"""At least so many samples are in a batch of validation: an exported net is compared with the first batch."""


Answers = Mapping[str, "Sequence[Tensor] | Tensor"]
"""``tokens`` (int64 (U,) for each clip) or ``labels`` (int64 (N,)), by name."""


class Clips:
    """The samples of a split, one at a time.

    Args:
        ids: int64 (N,).
        seconds: how long each is.
        audio: gives the waveform (S,) of a place.
        answers: a value for each sample.
        places: where ``audio`` finds each sample; in this order where it is not given.
    """

    def __init__(
        self,
        ids: Tensor,
        seconds: Sequence[float],
        audio: Callable[[int], Tensor],
        answers: Answers,
        places: Sequence[int] | None = None,
    ) -> None:
        self.ids, self.seconds, self.answers = ids, list(seconds), answers
        self._audio = audio
        self._places = range(len(ids)) if places is None else places

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        answers = {name: values[row] for name, values in self.answers.items()}
        return {"audio": self._audio(self._places[row]), **answers, "id": self.ids[row]}

    @property
    def labelled(self) -> Tensor:
        """Clips with a transcript or a label: bool (N,)."""
        return torch.tensor([bool((value != IGNORE).any()) for value in next(iter(self.answers.values()))])

    def with_answers(self, answers: Answers) -> Clips:
        """The same sounds with other answers."""
        return Clips(self.ids, self.seconds, self._audio, answers, self._places)

    def by_length(self) -> Clips:
        """Shortest first, so that batches in this order hold little padding."""
        rows = sorted(range(len(self)), key=self.seconds.__getitem__)
        answers = {
            name: values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
            for name, values in self.answers.items()
        }
        seconds, places = [self.seconds[row] for row in rows], [self._places[row] for row in rows]
        return Clips(self.ids[rows], seconds, self._audio, answers, places)


class SpeechData(Data):
    """Clips of sound with transcripts or labels. A subclass implements :meth:`clips`.

    A batch holds ``audio`` float32 (N, S), padded with zeros, ``audio_lengths`` int64 (N,), ``id``, and ``tokens``
    int64 (N, U), -100 behind a transcript's end, or ``labels`` int64 (N,). Batches of training hold clips of similar
    length; validation and test go from the shortest to the longest.

    Args:
        batch_size: samples in a batch at most, over all devices together.
        batch_seconds: seconds in a batch of training at most, padding included; ``None`` for no such limit.
        sample_rate: of the waveforms.
        labels: keep the transcripts or labels of only so many training clips, chosen by the recipe's seed.

    Raises:
        ValueError: ``batch_seconds`` or ``sample_rate`` is not above 0.
    """

    collate = staticmethod(collate)

    def __init__(
        self, *, batch_size: int, batch_seconds: float | None, sample_rate: int, labels: int | None = None
    ) -> None:
        super().__init__(batch_size=batch_size)
        if sample_rate < 1:
            raise ValueError(f"sample_rate={sample_rate}: give samples a second, such as 16000")
        if batch_seconds is not None and not batch_seconds > 0:
            raise ValueError(f"batch_seconds={batch_seconds}: give seconds above 0, or leave it out")
        self.batch_seconds = batch_seconds
        self.sample_rate = sample_rate
        self.evaluation_batch_size = max(batch_size, EVALUATED_AT_ONCE)
        self._labels = labels
        self._ready: dict[Split, Clips | None] = {}

    def clips(self, name: Split) -> Clips | None:
        """All clips of a split with all their answers; asked for once."""
        raise NotImplementedError(f"{type(self).__name__} does not implement clips(name)")

    def split(self, name: Split) -> Clips | None:
        if name not in self._ready:
            found = self.clips(name)
            self._ready[name] = found if found is None or name == "train" else found.by_length()
        ready = self._ready[name]
        if ready is None or name != "train" or self._labels is None:
            return ready
        return ready.with_answers(self._kept(ready, self._labels))

    def _kept(self, clips: Clips, keep: int) -> Answers:
        seed = derive_seed(self.seed, "labels")
        if "labels" in clips.answers:
            return {"labels": keep_labels(torch.as_tensor(clips.answers["labels"]), keep, seed)}
        tokens = clips.answers["tokens"]
        known = torch.tensor([bool((one >= 0).any()) for one in tokens])
        if not 1 <= keep <= int(known.sum()):
            raise ValueError(
                f"labels={keep}: give from 1 to {int(known.sum())}, the training clips that have a transcript, or "
                "leave it out to keep them all"
            )
        # those without a transcript come last, and none of them is kept
        order = (sample_seeds(seed, clips.ids) >> 1).masked_fill(~known, 1 << 62).argsort(stable=True)
        kept = set(order[:keep].tolist())
        return {"tokens": [one if row in kept else NO_TRANSCRIPT for row, one in enumerate(tokens)]}

    @staticmethod
    def without_labels(batch: Batch) -> Batch:
        """Of a batch or a sample: ``tokens`` or ``labels`` become -100."""
        hidden: Batch = {name: torch.full_like(batch[name], IGNORE) for name in ("tokens", "labels") if name in batch}
        return {**batch, **hidden}

    def sampler(self, samples: Samples | Batches, name: Split) -> Callable[..., EpochBatches]:
        """Clips of like length together, in training."""
        clips = self.split(name)
        if name != "train" or clips is None:
            return super().sampler(samples, name)
        known = dict(zip(clips.ids.tolist(), clips.seconds, strict=True))
        seconds = [known[number] for number in ids_of(samples).tolist()]
        return partial(BucketBatches, seconds=seconds, batch_seconds=self.batch_seconds)

    def tell(self, vocabulary: Vocabulary) -> None:
        """The facts of a recogniser's data."""
        self.class_names = vocabulary.names
        self.facts |= {
            "vocabulary": len(vocabulary),
            "blank": vocabulary.blank,
            "symbols": list(vocabulary.symbols),
            "separator": vocabulary.separator,
        }

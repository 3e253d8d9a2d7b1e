"""Softmax with a margin between classes: what makes embeddings of speakers compact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, masked_total
from kdcore.signals import IGNORE, Batch, Signals
from torch import Tensor, nn
from torch.nn.functional import normalize

STEEP = 1e-6
"""Least squared sine: at an angle of 0 its root has no gradient."""


class Margin(Loss):
    """``-log exp(s psi(a_y)) / (exp(s psi(a_y)) + sum_{j != y} exp(s cos a_j))``, mean over the labelled clips.

    ``a_j`` is the angle between an embedding and the vector of class j, which is trained with the student and not
    exported. ``psi(a) = cos(a + m)`` (``angular``), or ``cos(a) - m`` (``additive``).

    **Shape**: ``student.embedding`` (N, D); the batch's ``labels`` int64 (N,), -100 = none.

    **Reduction**: ``count`` is the number of clips that have a label and that the mask keeps.

    Args:
        kind: how the margin is added: to the angle, or to its cosine.
        margin: m, 0 or more; 0.2 as in Desplanques et al., ECAPA-TDNN, 2020 (arXiv 2005.07143).
        scale: s, above 0; 30, likewise.

    Raises:
        ValueError: a margin below 0 or, for an angle, above half a turn; a scale not above 0.
        KeyError: the batch has no ``labels``; the facts tell no ``classes``.

    **Paper**: Deng et al., ArcFace, 2018 (arXiv 1801.07698), for ``angular``; Wang et al., Additive Margin Softmax,
    2018 (arXiv 1801.05599), for ``additive``. **Deviation**: beyond ``pi - m``, where ``cos(a + m)`` rises again, the
    angular margin goes on as ``cos(a) - m sin(m)``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.embedding"})
    signal: ClassVar[str] = "embedding"

    def __init__(
        self, *, kind: Literal["angular", "additive"] = "angular", margin: float = 0.2, scale: float = 30.0
    ) -> None:
        super().__init__()
        if not margin >= 0 or (kind == "angular" and margin > math.pi):
            raise ValueError(f"margin={margin}: give 0 or more, and an angle of pi at most")
        if not scale > 0:
            raise ValueError(f"scale={scale} is not above 0: cosines are multiplied by it")
        self.kind, self.margin, self.scale = kind, margin, scale

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, Any], models: Callable[[str], nn.Module]
    ) -> None:
        if "classes" not in facts:
            raise KeyError("`speech.margin` needs the number of `classes`, which this data does not tell")
        vectors = torch.empty(facts["classes"], example["student"]["embedding"].shape[-1])
        self.classes = nn.Parameter(nn.init.xavier_normal_(vectors))

    def count(self, batch: Batch) -> Tensor | None:
        return _selected(batch).sum()

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        selected, place = _selected(batch), batch["labels"].clamp(min=0).unsqueeze(1)
        embedding = functional.hide(functional.upcast(student["embedding"]), batch.get("mask"))
        cosines = normalize(embedding, dim=-1) @ normalize(self.classes, dim=-1).to(embedding.dtype).T  # (N, C)
        own = self._with_margin(cosines.gather(1, place))
        terms = functional.cross_entropy(self.scale * cosines.scatter(1, place, own), batch["labels"])
        return Total(masked_total(terms, batch).sum, selected.sum())

    def _with_margin(self, cosine: Tensor) -> Tensor:
        if self.kind == "additive":
            return cosine - self.margin
        sine = (1.0 - cosine.square()).clamp(min=STEEP).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), turned, cosine - self.margin * math.sin(self.margin))


def _selected(batch: Batch) -> Tensor:
    """The clips with a label that the mask keeps, bool (N,)."""
    if "labels" not in batch:
        raise KeyError("`speech.margin` reads the batch's `labels`, which this data does not give")
    labelled: Tensor = batch["labels"] != IGNORE
    return labelled if "mask" not in batch else labelled & batch["mask"]

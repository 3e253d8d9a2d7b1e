"""A draft's guesses further ahead, held against what the target says there."""

from __future__ import annotations

from torch import Tensor

from kdcore.losses.base import Total, masked_total
from kdcore.losses.functional import hide, smooth_l1
from kdcore.signals import IGNORE, Batch, Signals
from kdcore_specdec.alignment import earlier, has_after
from kdcore_specdec.losses.tokens import Tokens


def ahead(batch: Batch, predicts: Tensor, by: int) -> Batch:
    """The batch as a draft sees it whose guess at t is about the token after t + ``by``.

    ``labels``, ``mask`` and ``weight`` come from there; no label where the draft had nothing to predict from, or where
    the document ends before.

    Raises:
        KeyError: the batch has no ``labels``.
    """
    if "labels" not in batch:
        raise KeyError("a loss on tokens reads the batch's `labels`, which this data does not give")
    there = predicts & has_after(batch["input_ids"], batch.get("segment"), by)
    moved: Batch = {name: earlier(batch[name], by) for name in ("mask", "weight") if name in batch}
    return {**moved, "labels": earlier(batch["labels"], by).masked_fill(~there, IGNORE)}


def guess(student: Signals, step: int) -> Signals:
    """``hidden`` and ``head`` of one step (or head) of ``unrolled`` and ``heads``."""
    return {"hidden": student["unrolled"][:, step], "head": student["heads"][step]}


def target_at(teacher: Signals, tokens: Tensor, by: int) -> Signals:
    """``hidden`` and ``head`` of the target at t + ``by``, over the draft's ``tokens`` only.

    A softmax over these is the target's distribution given that it stays within the draft's vocabulary.
    """
    head = teacher["head"]
    kept = head if len(tokens) == len(head) else head.index_select(0, tokens)
    return {"hidden": earlier(teacher["hidden"], by), "head": kept}


def feature_total(ours: Tensor, theirs: Tensor, tokens: Tokens, batch: Batch) -> Total:
    """Smooth L1 between the draft's and the target's hidden states (N, T, D) at the labelled tokens."""
    selected = tokens.selected
    terms = smooth_l1(hide(ours, selected), hide(theirs, selected))
    weight = {"weight": batch["weight"]} if "weight" in batch else {}
    return masked_total(terms, {"mask": selected, **weight})

"""Language modelling as drafts need it: the next token of each position, and how often a target accepts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.signals import IGNORE, Batch, Signals
from kdcore.task import Task
from kdcore_specdec.models.causal import CausalLM


class CausalLanguageModel(Task):
    """Targets and drafts over one vocabulary.

    A batch holds ``input_ids`` int64 (N, T); ``labels`` int64 (N, T), the token after each position, -100 where no loss
    is wanted; and, where several documents share a row, ``segment`` int64 (N, T), the document of each token.

    A model is a :class:`~kdcore_specdec.models.causal.CausalLM`, or a draft that reads its target's hidden states: one
    with ``reads``, the name of its target, that is called as ``model(batch, signals of the target, logits=...)`` (with
    ``None`` where there is no target: to be measured alone) and returns its signals.

    Args:
        vocabulary: how many tokens there are; filled in from the data.
        length: tokens in a row; filled in from the data.
        logits: give the signal ``logits`` (N, T, V). With false it is never made, and losses and metrics work from
            ``hidden`` and ``head``, a chunk of tokens at a time.
        layers: decoder layers whose output is a signal too: ``layer.<i>``, from 0, negative ones from the end.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "length", "tokenizer_digest", "packed", "token_counts", "target_layers",
    )  # fmt: skip
    primary: ClassVar[tuple[str, str]] = ("expected_acceptance", "max")
    class_axis: ClassVar[int] = -1

    def __init__(self, *, vocabulary: int, length: int, logits: bool = True, layers: list[int] | None = None) -> None:
        self.facts = {"vocabulary": vocabulary, "length": length}
        if layers is not None:
            self.facts["target_layers"] = list(layers)
        self.logits = logits
        self._layers = tuple(layers or ())

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``hidden`` (N, T, D), ``head`` and ``embedding`` (V, D), the ``layer.<i>`` asked for, and ``logits``.

        A model without one of the layers gives the others: an ordinary draft is shallower than its target.

        Raises:
            KeyError: the batch has no ``input_ids``.
            ValueError: the model is of another kind, or has another vocabulary.
        """
        if "input_ids" not in batch:
            raise KeyError(f"the task reads `input_ids`, the batch holds: {', '.join(sorted(batch))}")
        reads = getattr(model, "reads", ())
        if reads:
            return dict(model(batch, others.get(reads[0]), logits=self.logits))
        lm = self._checked(model)
        layers = tuple(layer for layer in self._layers if -lm.depth <= layer <= lm.depth)
        found = lm(batch["input_ids"], segment=batch.get("segment"), logits=self.logits, layers=layers)
        given = {"hidden": found.hidden, "head": lm.head, "embedding": lm.embedding.weight}
        given |= {f"layer.{layer}": hidden for layer, hidden in found.layers.items()}
        return given if found.logits is None else {**given, "logits": found.logits}

    def observe(self, student: Signals, teachers: Mapping[str, Signals], batch: Batch) -> dict[str, tuple[Any, ...]]:
        """``acceptance``: (student's signals, those of its first teacher or ``None``, labels); with logits also
        ``preds_target`` and, with a teacher, ``student_teacher`` at the labelled positions."""
        labels: Tensor = batch["labels"]
        if "predicts" in student:  # a draft may have nothing to say about the first tokens
            labels = labels.masked_fill(~student["predicts"], IGNORE)
        teacher = next(iter(teachers.values()), None)
        observed: dict[str, tuple[Any, ...]] = {"acceptance": (student, teacher, labels)}
        if "logits" in student:
            observed["preds_target"] = student["logits"], labels
            if teacher is not None and "logits" in teacher:
                at = labels != IGNORE
                observed["student_teacher"] = student["logits"][at], teacher["logits"][at]
        return observed

    def example(self, n: int) -> Batch:
        """``n`` rows of random tokens, always the same, each one document."""
        generator = torch.Generator().manual_seed(0)
        shape = n, self.facts["length"]
        ids = torch.randint(self.facts["vocabulary"], shape, generator=generator)
        labels = torch.full(shape, IGNORE)
        labels[:, :-1] = ids[:, 1:]
        return {"input_ids": ids, "labels": labels, "segment": torch.ones_like(ids), "id": torch.arange(n)}

    def chance(self) -> float:
        """1 / vocabulary: what a uniform distribution gives the next token."""
        return 1 / int(self.facts["vocabulary"])

    def deploy(self, model: nn.Module) -> nn.Module:
        """``input_ids`` (N, T), one document a row -> probabilities of the next token, float32 (N, T, V).

        The model is not copied, and is put into eval mode; it stays reachable as ``model``.
        """
        return _Deployed(model).eval()

    def _checked(self, model: nn.Module) -> CausalLM:
        """No look at any value: this runs in every step."""
        if not isinstance(model, CausalLM):
            raise ValueError(
                f"the model is a {type(model).__name__}; this task takes `specdec.llama`, `specdec.from_config`, "
                "`specdec.pretrained` or `specdec.hub`, and drafts that read their target"
            )
        if model.vocabulary != self.facts["vocabulary"]:
            raise ValueError(
                f"the model tells {model.vocabulary} tokens apart, the data {self.facts['vocabulary']}: a draft and "
                "its target must have the data's vocabulary"
            )
        return model


class _Deployed(nn.Module):
    """The net and softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        if getattr(self.model, "reads", ()):
            logits: Tensor = self.model({"input_ids": input_ids}, None, logits=True)["logits"]
        else:
            logits = self.model(input_ids).logits
        return logits.float().softmax(-1)

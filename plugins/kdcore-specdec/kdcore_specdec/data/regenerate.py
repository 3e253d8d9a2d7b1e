"""Answers said anew, once and for all: a draft then learns what its target really says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.signals import Batch
from kdcore_specdec.data.corpus import Corpus
from kdcore_specdec.data.packing import Document, Rows, filled
from kdcore_specdec.sampling import Continuation, continued
from kdcore_specdec.server import api, opened

Models = Callable[[str], nn.Module]


class Regenerate:
    """A table of the training rows with their ends said by a model: ``id``, ``input_ids``, ``labels``, ``segment``.

    A later stage with ``data: {table: THIS_STAGE}`` trains on it. The beginning of each row is kept, up to its first
    label or ``prompt`` tokens. Rows must hold one document each (``data.packed: false``).

    Args:
        model: of the recipe, which says them; or
        endpoint: a server with the OpenAI-compatible ``/v1/completions``, such as ``http://localhost:8000/v1``. It is
            sent the prompts as text.
        served: the server's name of the model.
        key: sent to the server as a bearer token; ``${oc.env:NAME}`` keeps it out of the recipe.
        prompt: tokens of a row that are kept at least.
        new_tokens: tokens that are said at most; as many as the row has room for by default.
        temperature: of the sampling; 0 takes the likeliest token.
        batch_size: rows at a time, for ``model``.
        timeout: seconds to wait for an answer of the server.

    Raises:
        ValueError: neither a model nor an endpoint, or both.

    **Paper**: Kim and Rush, Sequence-Level Knowledge Distillation, 2016 (arXiv 1606.07947); Zhou et al., DistillSpec,
    2023 (arXiv 2310.08461), target-generated data.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        endpoint: str | None = None,
        served: str = "default",
        key: str | None = None,
        prompt: int = 1,
        new_tokens: int | None = None,
        temperature: float = 1.0,
        batch_size: int = 16,
        timeout: float = 120.0,
    ) -> None:
        if (model is None) == (endpoint is None):
            raise ValueError("say who speaks: a `model` of the recipe, or an `endpoint`")
        self._model, self._batch_size = model, batch_size
        self._how = Continuation(prompt, new_tokens, temperature)
        self._server = None if endpoint is None else Server(api(endpoint, "completions"), served, key, timeout)

    def __call__(self, models: Models, data: Data) -> dict[str, Tensor]:
        """
        Raises:
            RunError: the data is of another kind, or packed, or the server does not answer.
        """
        if not isinstance(data, Corpus):
            raise RunError(f"`specdec.regenerate` continues text, and the data is a {type(data).__name__}")
        if data.packed:
            raise RunError("`specdec.regenerate` continues rows of one document each: set `data.packed: false`")
        rows = data.split("train")
        if rows is None:
            raise RunError("the data has no training rows")
        if self._server is not None:
            said: Iterator[Rows] = _answered(self._server, rows.columns, data, self._how)
        else:
            said = self._said(models, rows.columns, data)
        parts = list(said)
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in Rows._fields}
        return {"id": rows.columns["id"], **columns}

    def _said(self, models: Models, columns: Batch, data: Corpus) -> Iterator[Rows]:
        model = models(str(self._model))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        try:
            for start in range(0, len(columns["id"]), self._batch_size):
                rows = Rows(*(columns[name][start : start + self._batch_size].to(device) for name in Rows._fields))
                said = continued(
                    model, rows, self._how, end=data.tokenizer.end, pad=data.tokenizer.pad, seed=data.seed + start
                )
                yield Rows(*(one.cpu() for one in said))
        finally:
            model.cpu()


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server.

    Args:
        url: of its completions.
        served: its name of the model.
        key: a bearer token.
        timeout: seconds to wait.
    """

    url: str
    served: str
    key: str | None
    timeout: float

    def complete(self, prompt: str, tokens: int, temperature: float, seed: int) -> tuple[str, bool]:
        """What the server adds to a prompt, and whether it came to an end by itself.

        Raises:
            RunError: it does not answer, or not so.
        """
        asked = {
            "model": self.served,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": temperature,
            "seed": seed,
        }
        with opened(self.url, asked, key=self.key, timeout=self.timeout) as answer:
            found: Any = json.load(answer)["choices"][0]
            return str(found["text"]), found.get("finish_reason") == "stop"


def _answered(server: Server, columns: Batch, data: Corpus, how: Continuation) -> Iterator[Rows]:
    """Row by row; text is cut into tokens again by the data's tokenizer."""
    known = how.known(Rows(*(columns[name] for name in Rows._fields))).tolist()
    for row, kept in enumerate(known):
        prompt = columns["input_ids"][row, :kept].tolist()
        room = min(data.length - kept, how.new_tokens or data.length)
        text, ended = server.complete(data.tokenizer.decode(prompt), room, how.temperature, data.seed + row)
        answer = [*data.tokenizer.encode(text), *([data.tokenizer.end] if ended else [])][:room]
        document = Document([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
        if not document.teaches:
            raise RunError(f"the server has nothing to say about the training row {row}: {prompt[-20:]}")
        yield filled([[document]], data.length, pad=data.tokenizer.pad)

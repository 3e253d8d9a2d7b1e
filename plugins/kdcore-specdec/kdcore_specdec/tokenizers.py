"""Text to tokens and back: a tokenizer of transformers, or the bytes themselves, where nothing may be downloaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from kdcore.errors import RunError
from kdcore_specdec.sources import Source, first_line, quietly

Message = Mapping[str, str]
"""One turn of a chat: ``role`` (``user``, ``assistant``, ``system``, ...) and ``content``."""

PROBE = "The 2 quick brown föxes\tjump_over\n\n  13 lazy dogs; 'don\u2019t' == \"panic\" 狐狸 🦊"
"""Text that two tokenizers of equal vocabularies, but other rules, are likely to cut differently."""


class Tokenizer(Protocol):
    """What this plugin asks of a tokenizer.

    Attributes:
        vocabulary: how many ids there are; a model's head may have more rows, never fewer.
        end: id that ends a document or an answer.
        pad: id that fills rows; never a label.
        digest: equal for tokenizers that cut text alike into the same ids.
    """

    @property
    def vocabulary(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def digest(self) -> str: ...

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without any special token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out."""

    def chat(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and which of them an assistant says (and a draft is to learn)."""

    def save(self, folder: Path) -> None:
        """Write what is needed to load it again."""


class Bytes:
    """The 256 bytes of UTF-8, and a token for each special: needs no file, and knows every text."""

    SPECIALS = ("pad", "end", "system", "user", "assistant")

    vocabulary = 256 + len(SPECIALS)
    pad = 256
    end = 257
    digest = "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(one for one in ids if one < 256).decode("utf-8", errors="replace")

    def chat(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Each turn is its role's token, its text and the end token; the latter two are what an assistant says.

        Raises:
            ValueError: a role that there is no token for.
        """
        ids: list[int] = []
        said: list[bool] = []
        for message in messages:
            role = message["role"]
            if role not in self.SPECIALS[2:]:
                raise ValueError(
                    f"the role `{role}` is unknown to the byte tokenizer: use {', '.join(self.SPECIALS[2:])}"
                )
            text = [*self.encode(message["content"]), self.end]
            ids += [256 + self.SPECIALS.index(role), *text]
            said += [False, *[role == "assistant"] * len(text)]
        return ids, said

    def save(self, folder: Path) -> None:
        """Nothing: the bytes need no file."""


class Pretrained:
    """A tokenizer of transformers.

    Args:
        tokenizer: a ``PreTrainedTokenizerBase``.
        rows: rows of the head of the model it belongs to, where that is known; often a few more than it has tokens.
    """

    def __init__(self, tokenizer: Any, rows: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))
        self._rows = rows

    @property
    def vocabulary(self) -> int:
        return self._tokens if self._rows is None else max(self._rows, self._tokens)

    @property
    def end(self) -> int:
        """
        Raises:
            RunError: the tokenizer has no end token.
        """
        found = self.tokenizer.eos_token_id
        if found is None:
            raise RunError(
                "the tokenizer has no end-of-sequence token, which ends every document: set `eos_token` in its "
                "tokenizer_config.json"
            )
        return int(found)

    @property
    def pad(self) -> int:
        """Its own, or the end token: padding is never a label, and no token sees it."""
        found = self.tokenizer.pad_token_id
        return self.end if found is None else int(found)

    @property
    def digest(self) -> str:
        said = [sorted(self.tokenizer.get_vocab().items()), self.encode(PROBE)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def chat(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Through the tokenizer's own template; what an assistant says is what each of its turns adds to the prompt.

        Raises:
            ValueError: there is no template, or it rewrites earlier turns when later ones come.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template, which `messages` need: use `prompt` and `answer`")
        everything = self._templated(messages, prompt=False)
        said = [False] * len(everything)
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._templated(messages[:turn], prompt=True)
            after = self._templated(messages[: turn + 1], prompt=False)
            if everything[: len(after)] != after or after[: len(before)] != before:
                raise ValueError(
                    f"the chat template does not simply append turn {turn + 1}, so it cannot be told which tokens "
                    "the assistant says: give one answer a sample"
                )
            said[len(before) : len(after)] = [True] * (len(after) - len(before))
        return everything, said

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def _templated(self, messages: Sequence[Message], *, prompt: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt
        )
        return self.encode(str(text))


def load(source: Source | None) -> Tokenizer:
    """The tokenizer that lies with a model; the bytes where there is no source.

    Raises:
        RunError: there is none, or transformers cannot read it.
    """
    return Bytes() if source is None else _pretrained(source, source.changed)


@lru_cache(maxsize=8)
def _pretrained(source: Source, changed: tuple[int, ...]) -> Pretrained:
    from transformers import AutoTokenizer

    with quietly():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.name, **source.options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise RunError(f"{source}: transformers finds no tokenizer there: {first_line(error)}") from error
        return Pretrained(tokenizer, source.rows())

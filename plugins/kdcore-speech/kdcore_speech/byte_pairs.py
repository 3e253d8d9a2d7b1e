"""The vocabulary of Whisper: pieces of words in bytes, as its tokenizer cuts them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import RunError

from kdcore_speech.vocabulary import Vocabulary

END = "<|endoftext|>"
"""The token that ends a transcript, and says nothing."""


@dataclass(frozen=True)
class BytePairs(Vocabulary):
    """Symbols are pieces of text with the space before them; bytes that are no character alone are Python's surrogates.

    Attributes:
        tokenizer: of the library tokenizers; it cuts text into pieces.
    """

    tokenizer: Any = None

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's pieces. Whisper's transcripts begin with a space."""
        found: list[int] = self.tokenizer.encode(f" {text}", add_special_tokens=False).ids
        return found

    def decode(self, ids: Any) -> str:
        """The text of some pieces, without the space at its beginning."""
        joined = super().decode(ids)
        return joined.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()


def read_byte_pairs(folder: Path) -> BytePairs:
    """Of a folder with Whisper's ``tokenizer.json``.

    Raises:
        RunError: it is missing, damaged, or of another kind.
    """
    from tokenizers import Tokenizer

    file = Path(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise RunError(f"{file}: the tokenizer cannot be read: {error}") from error
    end = tokenizer.token_to_id(END)
    if end is None:
        raise RunError(f"{file}: has no {END}, which ends a transcript of Whisper")
    tokens: list[str] = [
        tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size(with_added_tokens=True))
    ]
    symbols = [_text(token) for token in tokens]
    symbols[end] = ""
    return BytePairs(tuple(symbols), end, "", tokenizer)


def _text(token: str) -> str:
    """A token's text: each of its letters stands for a byte, unless it is a special token."""
    if not all(letter in BYTES for letter in token):
        return token
    return bytes(BYTES[letter] for letter in token).decode("utf-8", "surrogateescape")


def _bytes() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be seen stand for themselves, the others follow from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _bytes()
"""The byte that a letter in a token stands for."""

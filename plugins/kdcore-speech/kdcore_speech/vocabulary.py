"""The labels of a recogniser: symbols with a blank among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcore.errors import RunError

BLANK_NAME = "<blank>"
"""How the blank is called where every class must have a name."""

WORD_DELIMITER = "|"
"""What stands for the space in a vocabulary of transformers."""

Unit = Literal["character", "word"]


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by number.

    Attributes:
        symbols: one text each, a character or a word; that of the blank is empty.
        blank: the number of the blank.
        separator: stands between symbols in text: nothing between characters, a space between words.
    """

    symbols: tuple[str, ...]
    blank: int = 0
    separator: str = ""

    def __post_init__(self) -> None:
        if len(set(self.symbols)) < len(self.symbols):
            twice = next(symbol for i, symbol in enumerate(self.symbols) if symbol in self.symbols[:i])
            raise ValueError(f"the vocabulary holds {twice!r} twice")

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every class."""
        return tuple(BLANK_NAME if number == self.blank else symbol for number, symbol in enumerate(self.symbols))

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's symbols.

        Raises:
            ValueError: some of them are unknown.
        """
        numbers = {symbol: number for number, symbol in enumerate(self.symbols) if number != self.blank}
        pieces = text.split(self.separator) if self.separator else list(text)
        unknown = sorted({piece for piece in pieces if piece not in numbers})
        if unknown:
            raise ValueError(
                f"the transcript {text!r} holds {', '.join(map(repr, unknown[:5]))}, which the vocabulary of "
                f"{len(numbers)} symbols lacks"
            )
        return [numbers[piece] for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some symbols; those that are none, such as -100, are left out."""
        return self.separator.join(self.symbols[i] for i in ids if 0 <= i < len(self.symbols) and i != self.blank)

    @classmethod
    def of(cls, symbols: Sequence[str], unit: Unit) -> Vocabulary:
        """The blank, then these symbols."""
        return cls(("", *symbols), 0, " " if unit == "word" else "")

    @classmethod
    def of_texts(cls, texts: Iterable[str], unit: Unit) -> Vocabulary:
        """Every symbol that occurs, in alphabetical order."""
        found: set[str] = set()
        for text in texts:
            found.update(text.split() if unit == "word" else text)
        return cls.of(sorted(found), unit)

    @classmethod
    def read(cls, path: Path, unit: Unit) -> Vocabulary:
        """A teacher's: the folder (or ``vocab.json``) of a CTC model of transformers, or a text file, a symbol a line.

        In a text file the first line is the blank, whatever it holds. In ``vocab.json`` the blank is ``[PAD]`` or
        ``<pad>``, as transformers has it, and ``|`` is the space; where it has neither, ``tokenizer.json`` beside it is
        read, which is Whisper's.

        Raises:
            RunError: there is no such file, it is damaged, or it has no blank.
        """
        path = Path(path)
        file = path / "vocab.json" if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{file}: the vocabulary cannot be read ({type(error).__name__})") from error
        if file.suffix == ".json":
            return _of_json(text, file)
        lines = text.split("\n")[1:]
        symbols = lines[:-1] if lines and lines[-1] == "" else lines
        if not symbols or "" in symbols:
            raise RunError(f"{file}: write the blank in the first line, and then a symbol in each, none of them empty")
        return cls.of(symbols, unit)


def _of_json(text: str, file: Path) -> Vocabulary:
    try:
        numbers = {str(symbol): int(number) for symbol, number in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{file}: is no vocabulary: a JSON object from symbols to numbers is wanted") from error
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise RunError(f"{file}: its numbers are not 0 to {len(numbers) - 1}, each once")
    blank = next((numbers[name] for name in ("[PAD]", "<pad>") if name in numbers), None)
    if blank is None and (file.parent / "tokenizer.json").is_file():
        from kdcore_speech.byte_pairs import read_byte_pairs  # it is made of this module

        return read_byte_pairs(file.parent)
    if blank is None:
        raise RunError(f"{file}: has neither [PAD] nor <pad>, which is the blank of a CTC model of transformers")
    ordered = sorted(numbers, key=numbers.__getitem__)
    symbols = ["" if numbers[s] == blank else " " if s == WORD_DELIMITER else s for s in ordered]
    return Vocabulary(tuple(symbols), blank)

"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from kdcore.data.base import Split
from kdcore.errors import RunError
from kdcore_specdec.data.corpus import Careful, Corpus, Record
from kdcore_specdec.data.packing import Document


class Text(Corpus):
    """Text files in UTF-8: each is a document, or several, and every token is learnt.

    Args:
        path: a file, or a folder.
        pattern: the files of a folder.
        separator: what stands between the documents of a file, such as a blank line; without it a file is one.
        val_path: a file or folder for validation; otherwise ``validation`` is held out.
        test_path: likewise for the test.
        empty: what to do with a document without text.
        batch_size: rows in a batch, over all devices together.
        length: tokens in a row.
        tokenizer: the folder, or ``.gguf`` file, of a model whose tokenizer is used.
        hub: the same, ``owner/name@revision`` on the hub. Without either, tokens are bytes.
        packed: several documents share a row, without seeing each other; else each has rows of its own.
        validation: share of the documents of ``path`` held out for validation.
        test: share held out for the test; 0 for no test split.
        count_tokens: count how often each token is a label in training (the fact ``token_counts``), for drafts with a
            smaller vocabulary.

    Raises:
        RunError: a file that is missing, not UTF-8, or empty.
        ValueError: two tokenizers, rows without room, or shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "length", "tokenizer_digest", "packed", "end_token", "pad_token", "token_counts",
    )  # fmt: skip

    def __init__(
        self,
        *,
        path: Path,
        pattern: str = "**/*.txt",
        separator: str | None = None,
        val_path: Path | None = None,
        test_path: Path | None = None,
        empty: Careful = "error",
        batch_size: int = 16,
        length: int = 512,
        tokenizer: Path | None = None,
        hub: str | None = None,
        packed: bool = True,
        validation: float = 0.05,
        test: float = 0.05,
        count_tokens: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            count_tokens=count_tokens,
            length=length,
            tokenizer=tokenizer,
            hub=hub,
            packed=packed,
            whole=False,
            validation=0.0 if val_path else validation,
            test=0.0 if test_path else test,
        )
        if separator == "":
            raise ValueError("separator='': give some text, or leave it out")
        self._paths = paths_of_splits(path, val_path, test_path)
        self._pattern, self._separator, self._empty = pattern, separator, empty

    def records(self) -> Iterator[Record]:
        for path, split in self._paths.items():
            for file in files_of(path, self._pattern):
                yield from self._of_file(file, split)

    def _of_file(self, file: Path, split: Split | None) -> Iterator[Record]:
        line = 1
        content = read_text(file)
        for text in [content] if self._separator is None else content.split(self._separator):
            where = f"{file}:{line}"
            line += text.count("\n") + (self._separator or "").count("\n")
            if text.strip():
                yield Record(where, text, Document([*self.tokenizer.encode(text), self.tokenizer.end]), split)
            elif self._empty == "error":
                raise RunError(f"{where}: this document is empty: remove it, or set `empty: skip`")
            else:
                self.leave_out("empty documents, left out")


def paths_of_splits(path: Path, val: Path | None, test: Path | None) -> Mapping[Path, Split | None]:
    """Where documents come from, and the split of those that have one from their file.

    What is not meant for another split is divided by hash, of which only the shares that are wanted are above 0.
    """
    found: dict[Path, Split | None] = {Path(path): None}
    if val is not None:
        found[Path(val)] = "val"
    if test is not None:
        found[Path(test)] = "test"
    if len(found) < 1 + (val is not None) + (test is not None):
        raise ValueError("`path`, `val_path` and `test_path` must be different files")
    return found


def files_of(path: Path, pattern: str) -> list[Path]:
    """A file itself, or those of a folder in the order of their names.

    Raises:
        RunError: there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RunError(f"{path}: there is no such file or folder")
    found = sorted(file for file in path.glob(pattern) if file.is_file())
    if not found:
        raise RunError(f"{path}: no file in this folder matches `{pattern}`")
    return found


def read_text(file: Path) -> str:
    """
    Raises:
        RunError: it is not UTF-8, or cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        before = file.read_bytes()[: error.start]
        line = before.count(b"\n") + 1
        raise RunError(f"{file}:{line}: this is not UTF-8 (byte {error.start}): convert the file") from error
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error

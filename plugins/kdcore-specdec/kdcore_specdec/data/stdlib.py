"""Python's own standard library as text: on every machine, no download."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from kdcore.errors import RunError
from kdcore_specdec.data.corpus import Corpus, Record
from kdcore_specdec.data.packing import Document

LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__", "encodings"}
)
"""Folders of tests, of other people's packages, and of tables."""


class Stdlib(Corpus):
    """The sources of the Python that runs this, a document a file, byte by byte unless a tokenizer is named.

    Another version of Python has other sources: figures compare within one version only.

    Args:
        megabytes: how much of it, in files chosen by their names' hash; all of it is about 14.
        batch_size: rows in a batch, over all devices together.
        length: tokens in a row.
        tokenizer: the folder, or ``.gguf`` file, of a model whose tokenizer is used.
        hub: the same, ``owner/name@revision`` on the hub. Without either, tokens are bytes.
        packed: several files share a row, without seeing each other; else each has rows of its own.
        validation: share of the files held out for validation.
        test: share held out for the test; 0 for no test split.
        count_tokens: count how often each token is a label in training (the fact ``token_counts``), for drafts with a
            smaller vocabulary.

    Raises:
        RunError: this Python has come without its sources.
        ValueError: two tokenizers, rows without room, or shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "length", "tokenizer_digest", "packed", "end_token", "pad_token", "token_counts",
    )  # fmt: skip

    def __init__(
        self,
        *,
        megabytes: float = 2.0,
        batch_size: int = 16,
        length: int = 256,
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
            validation=validation,
            test=test,
        )
        if not megabytes > 0:
            raise ValueError(f"megabytes={megabytes}: give more than 0")
        self._bytes = int(megabytes * 1e6)

    def records(self) -> Iterator[Record]:
        root = Path(sysconfig.get_paths()["stdlib"])
        taken = 0
        for file in _shuffled(root):
            text = file.read_text(encoding="utf-8", errors="replace")
            if not text.strip():  # many an `__init__.py`
                continue
            yield Record(str(file), text, Document([*self.tokenizer.encode(text), self.tokenizer.end]))
            taken += len(text)
            if taken >= self._bytes:
                return


def _shuffled(root: Path) -> list[Path]:
    """The sources in an order that does not depend on where they lie.

    Raises:
        RunError: there are none.
    """
    names = {path.relative_to(root): path for path in root.rglob("*.py")}
    ours = {name: path for name, path in names.items() if not LEFT_OUT & set(name.parts)}
    if not ours:
        raise RunError(f"{root}: this Python has come without its sources: use `specdec.text` and text of your own")
    return [ours[name] for name in sorted(ours, key=lambda name: hashlib.sha256(name.as_posix().encode()).digest())]

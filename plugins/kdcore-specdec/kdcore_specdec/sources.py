"""Where a model and its tokenizer come from: a folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdcore.errors import RunError


@dataclass(frozen=True)
class Source:
    """What transformers' ``from_pretrained`` is called with.

    Attributes:
        name: a folder, or ``owner/name`` on the hub.
        options: further keywords: ``gguf_file`` or ``revision``.
    """

    name: str
    gguf_file: str | None = None
    revision: str | None = None

    @property
    def options(self) -> dict[str, str]:
        given = {"gguf_file": self.gguf_file, "revision": self.revision}
        return {key: value for key, value in given.items() if value is not None}

    def __str__(self) -> str:
        return (
            self.name
            + (f"/{self.gguf_file}" if self.gguf_file else "")
            + (f"@{self.revision}" if self.revision else "")
        )

    @property
    def changed(self) -> tuple[int, ...]:
        """When its files were last written; empty for the hub. A GGUF file takes seconds to read: once is enough."""
        place = Path(self.name) / (self.gguf_file or "")
        files = [place] if place.is_file() else sorted(place.glob("*.json")) if place.is_dir() else []
        return tuple(file.stat().st_mtime_ns for file in files)

    def config(self) -> Any:
        """A configuration of its own for each caller.

        Raises:
            RunError: there is none that transformers can read.
        """
        return copy.deepcopy(_config(self, self.changed))

    def rows(self) -> int | None:
        """Rows of the model's head, where a configuration lies beside the tokenizer."""
        try:
            found = getattr(self.config(), "vocab_size", None)
        except RunError:
            return None
        return None if found is None else int(found)


@lru_cache(maxsize=8)
def _config(source: Source, changed: tuple[int, ...]) -> Any:
    from transformers import AutoConfig

    with quietly():
        try:
            return AutoConfig.from_pretrained(source.name, **source.options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise RunError(f"{source}: transformers finds no model there: {first_line(error)}") from error


def on_disk(path: Path) -> Source:
    """A folder as ``save_pretrained`` writes it, or a ``.gguf`` file.

    Raises:
        RunError: there is nothing of the kind.
    """
    if path.suffix == ".gguf":
        if not path.is_file():
            raise RunError(f"{path}: there is no such file")
        return Source(str(path.parent), gguf_file=path.name)
    if not path.is_dir():
        raise RunError(f"{path}: there is no such folder: give one that `save_pretrained` has written, or a .gguf file")
    return Source(str(path))


def on_hub(address: str) -> Source:
    """``owner/name``, or ``owner/name@revision`` for a certain one.

    Raises:
        RunError: it is no such address.
    """
    name, at, revision = address.partition("@")
    if name.count("/") != 1 or name.startswith(("/", ".")) or (at and not revision):
        raise RunError(f"`{address}` is no model of the hub: write OWNER/NAME or OWNER/NAME@REVISION")
    return Source(name, revision=revision or None)


def first_line(error: BaseException) -> str:
    """The beginning of what transformers has to say, which may be a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars and remarks, which have nothing to say that an error would not."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

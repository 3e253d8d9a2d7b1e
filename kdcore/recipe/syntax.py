"""What keeps a file from being read as YAML, in plain words and with the likely cause."""

from __future__ import annotations

from pathlib import Path

import yaml

from kdcore.errors import Problem


class TooDeepError(yaml.MarkedYAMLError):
    """Ours: the text is sound YAML, but nested too deeply for a recipe."""


def unreadable(path: Path, file: str, error: OSError) -> Problem:
    """Why a file cannot be opened; for one that is missing, what lies beside it."""
    if isinstance(error, FileNotFoundError):
        near = sorted(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        return Problem(
            "there is no such file", f"beside it: {', '.join(p.name for p in near)}" if near else "", file=file
        )
    if isinstance(error, IsADirectoryError):
        return Problem("is a folder, not a recipe", "name a YAML file", file=file)
    return Problem(f"cannot be read: {error.strerror}", file=file)


def explain(error: Exception, text: str, file: str, path: str, override: bool) -> Problem:
    """A YAML error in plain words: the parser's own sentence, and the likely cause."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        message = f"the character U+{int(error.character):04X} is not allowed in YAML"
        return Problem(message, "remove it", path, file, 0 if override else line)
    line = 0 if mark is None or override else int(mark.line) + 1
    sentence = str(getattr(error, "problem", None) or error).strip()
    lines = text.splitlines()
    written = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if isinstance(error, TooDeepError):
        return Problem(sentence, "", path, file, line)
    if "\\t" in sentence or "\t" in written[: len(written) - len(written.lstrip())]:
        return Problem("a tab is used for indentation", "YAML wants spaces", path, file, line)
    if isinstance(error, yaml.composer.ComposerError) and "another document" in sentence:
        return Problem(
            "a second document starts here", "keep one recipe a file, without `---` between", path, file, line
        )
    hint = ""
    if "${" in written:
        hint = 'inside { } or [ ] an interpolation must be quoted: "${a.b}"'
    elif override:
        hint = f"quote it for YAML: '{path}=\"...\"'"
    return Problem(f"this is not YAML: {sentence}", hint, path, file, line)

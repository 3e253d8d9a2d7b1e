from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdcore.atomic import replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_the_disk(path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text("half")
        raise OSError("No space left on device")


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
        assert beside.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        fill_the_disk(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_a_crash_leaves_is_hidden_and_gone_after_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    crash = (
        "import os, signal, sys; from pathlib import Path; from kdcore.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", crash, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert names(tmp_path) == [".a.txt.part", "a.txt"]
    with replacing(path) as beside:
        beside.write_text("new")
    assert names(tmp_path) == ["a.txt"]


def test_a_linked_file_keeps_its_content(tmp_path: Path) -> None:
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("old")
    os.link(path, other)
    with replacing(path) as beside:
        beside.write_text("new")
    assert (path.read_text(), other.read_text()) == ("new", "old")

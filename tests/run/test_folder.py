from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcore.errors import RunError
from kdcore.run.folder import (
    REPORT_FILE,
    RUN_FILE,
    STAGE_FILE,
    RunFolder,
    adopt,
    find_stage,
    git_sha,
    open_folder,
    read_json,
    versions,
    write_json,
    write_text,
)

HOLD = """
import sys
from pathlib import Path
from kdcore.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print(folder.lock(), flush=True)
{then}
sys.stdin.read()
"""


@contextmanager
def holder(path: Path, then: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder."""
    script = HOLD.format(then=then)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def make(runs: Path, run: str, identity: str = "same", *, finished: bool = False) -> Path:
    path = runs / "name" / run
    path.mkdir(parents=True)
    RunFolder(path).write({"identity": identity})
    if finished:
        write_json(path / REPORT_FILE, {})
    return path


def finish(folder: Path, stage: str, identity: str) -> Path:
    place = folder / stage
    place.mkdir(parents=True)
    write_json(place / STAGE_FILE, {"identity": identity})
    return place


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


# ---- making folders


def test_a_folder_is_named_by_its_time(tmp_path: Path) -> None:
    before = time.strftime("%Y%m%d-%H%M%S")
    path = RunFolder.create(tmp_path / "runs", "name").path
    assert path.parent == tmp_path / "runs" / "name"
    second, _, fraction = path.name.rpartition("-")
    assert before <= second <= time.strftime("%Y%m%d-%H%M%S")
    assert len(fraction) == 4
    assert 0 <= int(fraction, 16) <= 0xFFFF


def test_folders_of_one_second_sort_by_age(tmp_path: Path) -> None:
    made = [RunFolder.create(tmp_path, "name").path.name for _ in range(20)]
    assert made == sorted(set(made))


def test_two_that_ask_at_the_same_moment_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1e9, 1e9, 1e9, 1e9 + 0.5])
    monkeypatch.setattr("time.time", lambda: next(moments))
    first, second = RunFolder.create(tmp_path, "name").path, RunFolder.create(tmp_path, "name").path
    assert first.name.endswith("-0000")
    assert second.name.endswith("-8000")


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_place_where_nothing_can_be_made_is_said(tmp_path: Path, kind: str) -> None:
    runs = tmp_path / "runs"
    if kind == "file":
        runs.write_text("")
    else:
        runs.symlink_to(tmp_path / "gone")
    with pytest.raises(
        RunError, match=rf"no run folder can be made in {runs}/name: .*choose another place with --runs"
    ):
        RunFolder.create(runs, "name")


def test_stages_lie_in_the_folder_or_in_their_seed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.stage("teach", seed=None) == tmp_path / "teach"
    assert folder.stage("teach", seed=3) == tmp_path / "seed-3" / "teach"
    assert folder.stage("teach", seed=3).is_dir()


# ---- run.yaml


def test_run_yaml_keeps_order_and_text(tmp_path: Path) -> None:
    content = {"z": "007", "a": ["on", "é", None, 1.5], "recipe": {"no": {"x": True}}}
    RunFolder(tmp_path).write(content)
    assert RunFolder(tmp_path).read() == content
    assert list(RunFolder(tmp_path).read()) == ["z", "a", "recipe"]
    assert "é" in (tmp_path / RUN_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", [b"", b"- a list", b"a: [", b"\xff\xfe\x00", b"!!python/object/apply:os.getcwd []"])
def test_a_broken_run_yaml_reads_as_nothing(tmp_path: Path, broken: bytes) -> None:
    assert RunFolder(tmp_path).read() == {}
    (tmp_path / RUN_FILE).write_bytes(broken)
    assert RunFolder(tmp_path).read() == {}


# ---- which folder


def test_a_first_run_gets_a_new_folder_that_is_held(tmp_path: Path) -> None:
    folder, resumed = open_folder(tmp_path, "name", "same", fresh=False)
    assert not resumed
    assert folder.path.parent == tmp_path / "name"
    assert not RunFolder(folder.path).lock()


def test_the_newest_unfinished_run_of_the_identity_is_resumed(tmp_path: Path) -> None:
    make(tmp_path, "20260101-000000-aaaa")
    wanted = make(tmp_path, "20260102-000000-aaaa")
    make(tmp_path, "20260103-000000-aaaa", "another")
    make(tmp_path, "20260104-000000-aaaa", finished=True)
    (tmp_path / "name" / "20260105-000000-aaaa").mkdir()  # killed before it wrote anything
    (tmp_path / "name" / "notes.txt").write_text("")
    folder, resumed = open_folder(tmp_path, "name", "same", fresh=False)
    assert (folder.path, resumed) == (wanted, True)


def test_of_two_in_one_second_the_later_is_resumed(tmp_path: Path) -> None:
    make(tmp_path, "20260101-000000-0fff")
    wanted = make(tmp_path, "20260101-000000-f000")
    assert open_folder(tmp_path, "name", "same", fresh=False)[0].path == wanted


def test_a_folder_that_a_person_named_comes_after_the_others(tmp_path: Path) -> None:
    copy = make(tmp_path, "backup")
    wanted = make(tmp_path, "20260101-000000-aaaa")
    held, _ = open_folder(tmp_path, "name", "same", fresh=False)
    assert held.path == wanted
    assert open_folder(tmp_path, "name", "same", fresh=False)[0].path == copy


@pytest.mark.parametrize(
    ("identity", "finished", "fresh"), [("another", False, False), ("same", True, False), ("same", False, True)]
)
def test_what_is_not_resumed(tmp_path: Path, identity: str, finished: bool, fresh: bool) -> None:
    old = make(tmp_path, "20260101-000000-aaaa", identity, finished=finished)
    folder, resumed = open_folder(tmp_path, "name", "same", fresh=fresh)
    assert not resumed
    assert folder.path != old


def test_other_recipes_do_not_count(tmp_path: Path) -> None:
    make(tmp_path, "20260101-000000-aaaa")
    assert open_folder(tmp_path, "other", "same", fresh=False)[1] is False


# ---- one process at a time


def test_a_folder_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    older = make(tmp_path, "20260101-000000-aaaa")
    newer = make(tmp_path, "20260102-000000-aaaa")
    with holder(newer), holder(older):
        folder, resumed = open_folder(tmp_path, "name", "same", fresh=False)
        assert not resumed
        assert folder.path not in (older, newer)


def test_an_older_one_is_resumed_where_the_newest_is_held(tmp_path: Path) -> None:
    older = make(tmp_path, "20260101-000000-aaaa")
    with holder(make(tmp_path, "20260102-000000-aaaa")):
        assert open_folder(tmp_path, "name", "same", fresh=False)[0].path == older


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_folder_is_free_again_when_its_holder_is_gone(tmp_path: Path, end: signal.Signals) -> None:
    path = make(tmp_path, "20260101-000000-aaaa")
    with holder(path) as process:
        assert not RunFolder(path).lock()
        process.send_signal(end)
        process.wait()
        folder, resumed = open_folder(tmp_path, "name", "same", fresh=False)
    assert (folder.path, resumed) == (path, True)


def test_a_forked_worker_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    path = make(tmp_path, "20260101-000000-aaaa")
    fork = (
        "import os, time\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n    os._exit(0)"
    )
    with holder(path, fork) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            assert not RunFolder(path).lock()  # the fork did not let go for the parent
            process.kill()
            process.wait()
            os.kill(worker, 0)  # still there
            assert RunFolder(path).lock()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_release_lets_go_and_may_be_called_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.lock()
    assert not RunFolder(tmp_path).lock()
    folder.release()
    folder.release()
    assert RunFolder(tmp_path).lock()


def test_a_run_that_finished_while_we_looked_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(tmp_path, "20260101-000000-aaaa")
    lock = RunFolder.lock

    def finishes(self: RunFolder) -> bool:
        if self.path == old:
            write_json(old / REPORT_FILE, {})
        return lock(self)

    monkeypatch.setattr(RunFolder, "lock", finishes)
    folder, resumed = open_folder(tmp_path, "name", "same", fresh=False)
    assert not resumed
    assert folder.path != old
    monkeypatch.undo()
    assert RunFolder(old).lock()  # let go again


def test_another_users_folder_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert not RunFolder(tmp_path).lock()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(
        RunError, match=r"cannot be locked \(No locks available\).* another file system with --runs DIR"
    ):
        RunFolder(tmp_path).lock()


# ---- finished stages


def test_the_newest_finished_stage_is_found_in_plain_and_seed_folders(tmp_path: Path) -> None:
    root = tmp_path / "name"
    plain = finish(root / "20260101-000000-aaaa", "teach", "x")
    assert find_stage(tmp_path, "name", "teach", "x") == plain
    seeded = finish(root / "20260102-000000-aaaa" / "seed-1", "teach", "x")
    finish(root / "20260102-000000-aaaa" / "seed-0", "teach", "y")
    finish(root / "20260103-000000-aaaa", "teach", "z")
    assert find_stage(tmp_path, "name", "teach", "x") == seeded


def test_a_stage_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    assert find_stage(tmp_path, "name", "teach", "x") is None  # no runs at all
    place = finish(tmp_path / "name" / "20260101-000000-aaaa", "teach", "x")
    assert find_stage(tmp_path, "name", "distil", "x") is None
    assert find_stage(tmp_path, "name", "teach", "y") is None
    assert find_stage(tmp_path, "other", "teach", "x") is None
    (place / STAGE_FILE).write_text('{"identity": "x"', encoding="utf-8")
    assert find_stage(tmp_path, "name", "teach", "x") is None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = finish(tmp_path / "old", "teach", "x")
    for name in ("teacher.safetensors", "teacher.json", "metrics.csv", "last.ckpt", "best.ckpt", ".last.ckpt.part"):
        (place / name).write_text(name)
    (place / "figures").mkdir()
    return place


def test_adopting_takes_all_but_checkpoints_and_hidden_files(tmp_path: Path, source: Path) -> None:
    adopt(source, tmp_path / "new" / "teach")
    assert names(tmp_path / "new" / "teach") == ["metrics.csv", STAGE_FILE, "teacher.json", "teacher.safetensors"]
    weights = tmp_path / "new" / "teach" / "teacher.safetensors"
    assert weights.samefile(source / "teacher.safetensors")


def test_adopting_copies_where_the_disk_cannot_link(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    adopt(source, tmp_path / "new")
    assert names(tmp_path / "new") == ["metrics.csv", STAGE_FILE, "teacher.json", "teacher.safetensors"]
    assert (tmp_path / "new" / "teacher.json").read_text() == "teacher.json"
    assert not (tmp_path / "new" / "teacher.json").samefile(source / "teacher.json")


def test_the_marker_is_adopted_last(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    replace = Path.replace

    def note(self: Path, target: Path) -> Path:
        order.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    adopt(source, tmp_path / "new")
    assert order[-1] == STAGE_FILE
    assert len(order) == 4


def test_adopting_again_and_adopting_itself_lose_nothing(tmp_path: Path, source: Path) -> None:
    before = names(source)
    for target in (tmp_path / "new", tmp_path / "new", source):
        adopt(source, target)
    assert names(source) == before
    assert names(tmp_path / "new") == ["metrics.csv", STAGE_FILE, "teacher.json", "teacher.safetensors"]


# ---- files that are whole or not there


def test_writing_leaves_the_text_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "first")
    write_text(tmp_path / "a.txt", "second é")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "second é"
    assert names(tmp_path) == ["a.txt"]


def test_a_crash_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / STAGE_FILE, {"identity": "old"})
    script = """
import os, signal, sys
from pathlib import Path
from kdcore.run.folder import write_json
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
write_json(Path(sys.argv[1]), {"identity": "new"})
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / STAGE_FILE)])
    assert done.returncode == -signal.SIGKILL
    assert read_json(tmp_path / STAGE_FILE) == {"identity": "old"}
    left = [name for name in names(tmp_path) if name != STAGE_FILE]
    assert len(left) == 1  # what the crash left is hidden, and belongs to nobody
    assert left[0].startswith(f".{STAGE_FILE}.")


def test_a_write_that_fails_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_json_is_strict_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 0.5], "a": None})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"b": [1, 0.5], "a": None}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"b": [1, 0.5], "a": None}


@pytest.mark.parametrize("broken", [b"", b'{"identity": ', b"[1]", b"null", b"\xff\xfe{}"])
def test_a_broken_json_file_reads_as_nothing(tmp_path: Path, broken: bytes) -> None:
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path) is None
    (tmp_path / "a.json").write_bytes(broken)
    assert read_json(tmp_path / "a.json") is None


# ---- provenance


def test_versions_of_what_is_installed() -> None:
    found = versions(["torch", "kdcore-does-not-exist", "pluggy"])
    assert list(found) == ["torch", "pluggy"]
    assert found["pluggy"][0].isdigit()


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_sha(tmp_path) is None
    assert git_sha(tmp_path / "gone") is None

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert git_sha(tmp_path) is None  # no commit yet
    (tmp_path / "a.txt").write_text("a")
    git("add", "a.txt")
    git("commit", "--quiet", "-m", "first")
    sha = git("rev-parse", "HEAD")
    (tmp_path / "new.txt").write_text("untracked files do not count")
    assert git_sha(tmp_path) == sha
    (tmp_path / "a.txt").write_text("b")
    assert git_sha(tmp_path) == sha + "+"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_sha(tmp_path) is None

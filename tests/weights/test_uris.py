from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kdcore.builtin import kdcore_register
from kdcore.errors import RunError
from kdcore.registry import Registry
from kdcore.weights.uris import scheme_of


def put(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({"w": torch.full((2,), value)}, path)
    else:
        torch.save({"w": torch.full((2,), value)}, path)
    return path


def first(state: dict[str, Any]) -> float:
    return float(state["w"][0])


def load_state(uri: str, *, runs: Path) -> tuple[dict[str, Any], str]:
    """As the builder does: the scheme names the component."""
    registry = Registry()
    kdcore_register(lambda kind, name, target: registry.add("kdcore", kind, name, target))
    component = registry.get("weights", scheme_of(uri))
    assert component is not None
    state, pinned = component.load()(uri, runs=runs)
    return state, pinned


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- files


@pytest.mark.parametrize("form", ["file://nets/a.safetensors", "nets/a.safetensors", "./nets/a.safetensors"])
def test_a_relative_file_starts_from_the_working_folder(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "nets" / "a.safetensors", 3.0)
    state, pinned = load_state(form, runs=tmp_path / "runs")
    assert first(state) == 3.0
    assert pinned == f"file://{path}#sha256={sha(path)}"


def test_absolute_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.pt", 4.0)
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    for form in (str(path), f"file://{path}", "~/a.pt", "file://~/a.pt"):
        assert first(load_state(form, runs=elsewhere)[0]) == 4.0


def test_a_pinned_file_must_not_have_changed(tmp_path: Path) -> None:
    path = put(tmp_path / "a.safetensors", 1.0)
    _, pinned = load_state(str(path), runs=tmp_path)
    assert load_state(pinned, runs=tmp_path)[1] == pinned
    put(path, 2.0)
    with pytest.raises(RunError, match=r"has changed since this run began .*put the old file back, or .* --fresh"):
        load_state(pinned, runs=tmp_path)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    put(tmp_path / "teacher.safetensors", 1.0)
    with pytest.raises(RunError, match=r"there is no file .*/teacher.pt; did you mean `teacher.safetensors`\?"):
        load_state(f"file://{tmp_path}/teacher.pt", runs=tmp_path)
    with pytest.raises(RunError, match=r"there is no file .*/nowhere/x.pt$"):
        load_state(f"{tmp_path}/nowhere/x.pt", runs=tmp_path)


@pytest.mark.parametrize(
    ("uri", "scheme"), [("a/b.pt", "file"), ("file:///a.pt", "file"), ("run://a/b/c", "run"), ("zoo.s3://a", "zoo.s3")]
)
def test_the_scheme_of_an_address_names_its_component(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


# ---- runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two finished runs, a newer one under way, and one of several seeds under another name."""
    for value, run in enumerate(["20260101-000000-aaaa", "20260201-000000-bbbb", "20260301-000000-cccc"]):
        put(tmp_path / "demo" / run / "teach" / "teacher.safetensors", float(value))
        if not run.endswith("cccc"):
            (tmp_path / "demo" / run / "report.json").write_text("{}")
    for seed in (10, 9):
        put(tmp_path / "many" / "20260101-000000-dddd" / f"seed-{seed}" / "distil" / "student.safetensors", float(seed))
    (tmp_path / "many" / "20260101-000000-dddd" / "report.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "value", "pinned"),
    [
        ("run://demo/teach/teacher", 1.0, "run://demo/20260201-000000-bbbb/teach/teacher"),
        ("run://demo/20260101-000000-aaaa/teach/teacher", 0.0, "run://demo/20260101-000000-aaaa/teach/teacher"),
        ("run://demo/20260301-000000-cccc/teach/teacher", 2.0, "run://demo/20260301-000000-cccc/teach/teacher"),
        ("run://many/distil/student", 9.0, "run://many/20260101-000000-dddd/distil/student"),
    ],
)
def test_runs_are_read_and_pinned(runs: Path, uri: str, value: float, pinned: str) -> None:
    state, found = load_state(uri, runs=runs)
    assert (first(state), found) == (value, pinned)
    assert load_state(found, runs=runs)[1] == found


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("run://demo/teacher", "write it as run://NAME/STAGE/MODEL or run://NAME/RUN/STAGE/MODEL"),
        ("run://a/b/c/d/e", "write it as run://NAME"),
        ("run://demo/../x/y", "write it as run://NAME"),
        ("run://demo//teacher", "write it as run://NAME"),
        ("run://demp/teach/teacher", r"no finished run in .*demp; did you mean `demo`\?"),
        ("run://demo/teach/techer", r"holds no teach/techer.safetensors; did you mean `teach/teacher`\?"),
        ("run://demo/20990101-000000-aaaa/teach/teacher", "there is no such run, or it has not finished a stage yet"),
    ],
)
def test_a_run_that_is_not_there_is_explained(runs: Path, uri: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        load_state(uri, runs=runs)
    assert uri in str(caught.value)


def test_a_run_under_way_is_not_taken_silently(runs: Path) -> None:
    for report in (runs / "demo").glob("*/report.json"):
        report.unlink()
    with pytest.raises(RunError, match=r"no finished run in .*demo; wait for it, or name a run"):
        load_state("run://demo/teach/teacher", runs=runs)


# ---- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A stand-in for huggingface_hub that serves repositories from a folder."""
    repositories: dict[str, list[str]] = {}

    class HfApi:
        def model_info(self, repository: str, revision: str | None) -> Any:
            if repository not in repositories:
                raise ConnectionError("404")
            files = [SimpleNamespace(rfilename=name) for name in repositories[repository]]
            return SimpleNamespace(sha=f"sha-of-{revision or 'main'}", siblings=files)

    def hf_hub_download(repository: str, file: str, revision: str) -> str:
        return str(tmp_path / "hub" / repository / revision / file)

    module = ModuleType("huggingface_hub")
    module.HfApi, module.hf_hub_download = HfApi, hf_hub_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return repositories


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (["model.safetensors", "other.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model-1.safetensors", "model-2.safetensors"], ["model-1.safetensors", "model-2.safetensors"]),
        (["config.json", "pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_the_hub_is_read_and_pinned_to_the_commit(
    hub: dict[str, list[str]], tmp_path: Path, files: list[str], read: list[str]
) -> None:
    hub["me/net"] = files
    for number, name in enumerate(read):
        path = tmp_path / "hub/me/net/sha-of-main" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"w{number}": torch.full((1,), float(number))}
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    state, pinned = load_state("hf://me/net", runs=tmp_path)
    assert {name: float(tensor) for name, tensor in state.items()} == {f"w{i}": float(i) for i in range(len(read))}
    assert pinned == "hf://me/net@sha-of-main"


def test_a_revision_of_the_hub_is_followed(hub: dict[str, list[str]], tmp_path: Path) -> None:
    hub["me/net"] = ["model.safetensors"]
    put(tmp_path / "hub/me/net/sha-of-v2/model.safetensors", 5.0)
    state, pinned = load_state("hf://me/net@v2", runs=tmp_path)
    assert (first(state), pinned) == (5.0, "hf://me/net@sha-of-v2")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://you/net", "the hub did not give them: ConnectionError: 404"),
        ("hf://net", "write it as hf://OWNER/NAME"),
        ("hf://me/empty", r"holds neither \*.safetensors nor pytorch_model.bin, but \['README.md'\]"),
    ],
)
def test_what_the_hub_does_not_have_is_explained(
    hub: dict[str, list[str]], tmp_path: Path, uri: str, message: str
) -> None:
    hub["me/empty"] = ["README.md"]
    with pytest.raises(RunError, match=message):
        load_state(uri, runs=tmp_path)


def test_the_hub_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match="reading from the hub needs `pip install huggingface_hub`"):
        load_state("hf://me/net", runs=tmp_path)

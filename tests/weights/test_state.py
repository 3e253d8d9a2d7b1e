from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import nn

from kdcore.errors import RunError
from kdcore.weights.state import read_state, save_state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embed.weight


class Code:
    """Something that a pickle can bring along."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


def script_in(message: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in message.split("\n\n", 1)[1].splitlines())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_reads_torch_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save({"state_dict": {"w": torch.arange(3)}, "epoch": 4}, path)
    found = read_state(path)
    assert found["epoch"] == 4
    assert torch.equal(found["state_dict"]["w"], torch.arange(3))


def test_a_file_that_would_run_code_is_not_read_and_the_printed_script_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    model = nn.Linear(3, 2)
    torch.save({"model": model, "epoch": 3}, path)
    with pytest.raises(RunError) as caught:
        read_state(path)
    message = str(caught.value)
    assert "torch.nn.modules.linear.Linear was not an allowed global" in message
    assert "could run code from the file, so it was not read" in message
    exec(script_in(message), {})
    converted = read_state(tmp_path / "net.safetensors")
    assert set(converted) == {"weight", "bias"}
    assert torch.equal(converted["weight"], model.weight)


def test_the_script_takes_a_nested_state_dict_too(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "config": Code()}, path)
    with pytest.raises(RunError) as caught:
        read_state(path)
    exec(script_in(str(caught.value)), {})
    assert torch.equal(load_file(tmp_path / "net.safetensors")["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.pt", b"hello there", "is no checkpoint that torch can read"),
        ("net.pt", b"", "is no checkpoint that torch can read"),
        ("net.safetensors", b"hello there, I am no tensor", "is no safetensors file that can be read"),
        ("net.safetensors", b"", "is no safetensors file that can be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        read_state(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_bare_tensor_is_no_state(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "net.pt")
    with pytest.raises(RunError, match=r"holds a Tensor, not a dictionary of tensors: save model.state_dict\(\)"):
        read_state(tmp_path / "net.pt")


def test_a_tensor_with_two_names_is_stored_once_and_comes_back_under_both(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "sub" / "net.safetensors"
    save_state(model.state_dict(), path)
    assert set(load_file(path)) == {"embed.weight", "head.bias"}
    found = read_state(path)
    assert set(found) == {"embed.weight", "head.weight", "head.bias"}
    assert found["head.weight"] is found["embed.weight"]
    fresh = Tied()
    assert load_model(fresh, path) == (set(), [])  # the library's own way reads it too
    assert torch.equal(fresh.embed.weight, model.embed.weight)


@pytest.mark.parametrize("cut", ["row", "transpose", "flat", "half"])
def test_views_of_one_memory_keep_their_values(tmp_path: Path, cut: str) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    views: dict[str, Any] = {"row": whole[1], "transpose": whole.T, "flat": whole.view(6), "half": whole.half()}
    save_state({"whole": whole, "view": views[cut]}, tmp_path / "net.safetensors")
    found = read_state(tmp_path / "net.safetensors")
    assert torch.equal(found["whole"], whole)
    assert torch.equal(found["view"], views[cut])
    assert found["view"].dtype == views[cut].dtype


def test_empty_tensors_are_not_taken_for_one(tmp_path: Path) -> None:
    save_state({"a": torch.empty(0), "b": torch.empty(0)}, tmp_path / "net.safetensors")
    assert set(load_file(tmp_path / "net.safetensors")) == {"a", "b"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_state({"w": torch.ones(2)}, path)

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state({"w": torch.zeros(2)}, path)
    assert torch.equal(load_file(path)["w"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]

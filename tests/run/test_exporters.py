from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.run.exporters import check_parity, onnx, safetensors, torch_export
from kdcore.weights.state import read_state

torch.set_num_threads(1)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="onnx, onnxruntime and onnxscript are not installed",
)
# the ONNX exporter alone takes seconds to import
exporters = pytest.mark.parametrize(
    "export", [torch_export, pytest.param(onnx, marks=[needs_onnx, pytest.mark.slow])], ids=["torch", "onnx"]
)


class Deployed(nn.Module):
    """Preprocessing, a net with BatchNorm and dropout, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        return torch.as_tensor(self.net((image - 0.5) / 0.2).softmax(-1))


class Several(nn.Module):
    """Two inputs, and answers of two types by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"score": self.linear(a) + b.sum(1, keepdim=True), "choice": (b > 0).to(torch.int64)}


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(6, -1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


Exporter = Callable[..., list[Path]]


@exporters
@pytest.mark.parametrize("n", [1, 5])
def test_a_net_is_exported_as_it_answers_with_any_batch(
    export: Exporter, n: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net = Deployed().train()
    images = torch.rand(n, 1, 6, 6)
    (path,) = export(net, (images,), tmp_path / "out")
    assert path.stat().st_size > 0
    assert list((tmp_path / "out").iterdir()) == [path]
    assert net.training  # the caller's net stays as it was
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert capfd.readouterr() == ("", "")
    other = torch.rand(7, 1, 6, 6)
    assert torch.allclose(answers(path, other), net.eval()(other), atol=1e-5)


def answers(path: Path, images: Tensor) -> Tensor:
    if path.suffix == ".pt2":
        return torch.as_tensor(torch.export.load(path).module()(images))
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {"input": images.numpy()})[0])


@exporters
def test_several_inputs_and_answers(export: Exporter, tmp_path: Path) -> None:
    (path,) = export(Several(), (torch.randn(5, 4), torch.randn(5, 7)), tmp_path)
    assert path.is_file()


@exporters
@pytest.mark.parametrize(
    ("net", "message"),
    [
        (FixedBatch(), "must not depend on the batch size or branch on values"),
        (Branching(), "must not depend on the batch size or branch on values"),
        (Random(), r"differs from the net by 0\.\d+ on a batch of 1; less than 0.0001 is allowed"),
    ],
)
def test_what_cannot_be_exported_faithfully_leaves_no_file(
    export: Exporter, net: nn.Module, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=message):
        export(net, (torch.rand(6, 4),), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@exporters
def test_tolerance_is_the_callers(export: Exporter, tmp_path: Path) -> None:
    (path,) = export(Random(), (torch.rand(6, 4),), tmp_path, tolerance=2.0)
    assert path.is_file()


class Found(NamedTuple):
    boxes: Tensor
    scores: Tensor


class Named(nn.Module):
    def forward(self, image: Tensor) -> Found:
        return Found(image[:, :4] * 2, image.sum(1))


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "names", "shapes"),
    [(Named(), ["boxes", "scores"], [(4,), (7,)]), (Several(), ["score", "choice"], [(4,), (7,)])],
)
def test_answers_keep_their_names(net: nn.Module, names: list[str], shapes: list[tuple[int]], tmp_path: Path) -> None:
    import onnxruntime

    takes = len(inspect.signature(net.forward).parameters)
    (path,) = onnx(net, tuple(torch.randn(3, *shape) for shape in shapes[:takes]), tmp_path)
    assert [output.name for output in onnxruntime.InferenceSession(path).get_outputs()] == names


class Mean(nn.Module):
    """Of a recording and of another, each of any length."""

    dynamic: ClassVar[dict[str, list[int]]] = {"audio": [1], "other": [1]}

    def forward(self, audio: Tensor, other: Tensor) -> Tensor:
        strided = nn.functional.avg_pool1d(audio.unsqueeze(1), 4, 2)  # no length below 4 will do
        return strided.mean((1, 2)) - other.mean(1)


@exporters
def test_a_net_says_which_axes_vary(export: Exporter, tmp_path: Path) -> None:
    (path,) = export(Mean(), (torch.rand(3, 20), torch.rand(3, 9)), tmp_path)
    audio, other = torch.rand(2, 33), torch.rand(2, 5)
    if path.suffix == ".pt2":
        found = torch.export.load(path).module()(audio, other)
    else:
        import onnxruntime

        fed = {"input_0": audio.numpy(), "input_1": other.numpy()}
        found = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, fed)[0])
    assert torch.allclose(found, Mean()(audio, other), atol=1e-6)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_onnx_names_the_missing_package(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name) or sys)
    with pytest.raises(RunError, match=rf"needs {missing}: `pip install kdcore\[onnx\]`"):
        onnx(Deployed(), (torch.rand(2, 1, 6, 6),), tmp_path)


def test_safetensors_holds_the_state_dict(tmp_path: Path) -> None:
    net = Deployed()
    net.register_parameter("tied", net.net[5].weight)
    (path,) = safetensors(net, (torch.rand(2, 1, 6, 6),), tmp_path)
    assert path == tmp_path / "model.safetensors"
    found = read_state(path)
    assert set(found) == set(net.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())


# ---- the comparison itself


def scaled(by: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * by


def test_parity_returns_the_largest_difference() -> None:
    x = torch.tensor([[1.0], [-2.0]])
    assert check_parity(nn.Identity(), lambda x: x + 2e-5 * (x < 0), (x,), what="file") == pytest.approx(1e-5, rel=0.05)
    assert check_parity(nn.Identity(), lambda x: x + 2e-5 * (x > 0), (x,), what="file") == pytest.approx(2e-5, rel=0.05)
    assert check_parity(nn.Identity(), scaled(1.0), (x,), what="file") == 0.0


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        (scaled(1.001), r"^file differs from the net by 0.00\d+ on a batch of 1; less than 0.0001 is allowed"),
        (lambda x: x * float("nan"), "^file differs from the net by nan on a batch of 1"),
        (lambda x: x[:, :2], r"^file answers a batch of 1 with shapes \[\(1, 2\)\], the net with \[\(1, 3\)\]"),
        (lambda x: (x, x), "^file answers a batch of 1 with shapes"),
        (lambda x: x.reshape(4, 3), "^file does not run on a batch of 1: RuntimeError: shape"),
        (lambda x: x.reshape(1, 3), "^file does not run on a batch of 4: RuntimeError: shape"),
        (lambda x: x if len(x) == 1 else x + 1, r"^file differs from the net by 0\.[5-9]\d* on a batch of 4"),
    ],
)
def test_parity_is_checked_on_one_sample_and_on_all(exported: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check_parity(nn.Identity(), exported, (torch.rand(4, 3) + 1,), what="file")


class Unordered(nn.Identity):
    """Its answers are compared whatever their order, and it is not pleased easily."""

    def difference(self, ours: list[Tensor], theirs: list[Tensor]) -> float:
        return float((ours[0].sort(1).values - theirs[0].sort(1).values).abs().max())


def test_a_net_may_know_better_how_far_two_answers_are_apart() -> None:
    x = torch.rand(4, 3)
    assert check_parity(Unordered(), lambda x: x.flip(1), (x,), what="file") == 0.0
    with pytest.raises(RunError, match=r"^file differs from the net by 0\.5 on a batch of 1"):
        check_parity(Unordered(), lambda x: x + 0.5, (x,), what="file")
    with pytest.raises(RunError, match=r"^file differs from the net by 0\.\d+ on a batch of 1"):
        check_parity(nn.Identity(), lambda x: x.flip(1), (x,), what="file")


def test_infinities_and_nan_agree_with_themselves_only() -> None:
    x = torch.tensor([[float("inf"), float("nan"), 1.0]])
    assert check_parity(nn.Identity(), scaled(1.0), (x,), what="file") == 0.0
    with pytest.raises(RunError, match="by inf"):
        check_parity(nn.Identity(), lambda x: x.nan_to_num(nan=float("nan"), posinf=1.0), (x,), what="file")

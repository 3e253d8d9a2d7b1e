from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.build import Builder
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.models.convnet import ConvNet
from kdcore.models.mlp import MLP
from kdcore.plugins import Plugins
from kdcore.recipe.schema import DataSlot, ModelSlot, Recipe, Slot, Stage, Tap
from kdcore.run.inspect import Row, inspect, rows, table, tap_lines
from kdcore.signals import Batch
from kdcore.task import Task
from kdcore.tasks.classify import Classify
from kdcore.teachers import Frozen

torch.set_num_threads(1)


class Images(Task):
    """Nets on images of a given size, whatever they return."""

    def __init__(self, *size: int) -> None:
        self.size = size
        self.facts = {}

    def example(self, n: int) -> Batch:
        return {"id": torch.arange(n), "image": torch.rand(n, *self.size)}

    def signals(self, model: nn.Module, batch: Batch, others: Any) -> dict[str, Tensor]:
        model(batch["image"])
        return {}


def classify(**facts: int) -> Classify:
    task = Classify(classes=10)
    task.facts = {**facts, **task.facts}
    return task


@pytest.fixture
def images() -> Classify:
    return classify(channels=1, image_height=8, image_width=8)


def listed(found: list[Row]) -> list[tuple[str, tuple[int, ...], int | None, int]]:
    return [(row.path, row.shape, row.stride, row.parameters) for row in found if row.listed]


# ---- rows


def test_a_convnet_is_its_blocks(images: Classify) -> None:
    found = rows(ConvNet(classes=10, channels=1, width=4, depth=2), images)
    assert listed(found) == [
        ("stem", (4, 8, 8), 1, 4 * 9 + 8),
        ("blocks.0.0", (8, 8, 8), 1, 4 * 8 * 9 + 16),
        ("blocks.0", (8, 4, 4), 2, 4 * 8 * 9 + 16),
        ("blocks.1.0", (16, 4, 4), 2, 8 * 16 * 9 + 32),
        ("blocks.1", (16, 2, 2), 4, 8 * 16 * 9 + 32),
        ("blocks", (16, 2, 2), 4, 12 * 8 * 9 * 4 // 3 + 48 + 288),
        ("head", (10,), None, 16 * 10 + 10),
    ]


def test_layers_that_repeat_their_block_are_there_but_not_listed(images: Classify) -> None:
    found = rows(ConvNet(classes=10, channels=1, width=4, depth=1), images)
    hidden = [row for row in found if not row.listed]
    assert [row.path for row in hidden] == [
        "stem.0", "stem.1", "stem.2", "blocks.0.0.0", "blocks.0.0.1", "blocks.0.0.2", "blocks.0.1",
    ]  # fmt: skip
    assert (hidden[0].shape, hidden[0].parameters) == ((4, 8, 8), 4 * 9)


def test_an_mlp_has_no_stride() -> None:
    found = rows(MLP(classes=10, features=6, hidden=[5]), classify(features=6))
    assert listed(found) == [("hidden.0", (5,), None, 35), ("hidden", (5,), None, 35), ("head", (10,), None, 60)]


def test_layers_of_one_flat_block_are_listed_where_the_shape_changes() -> None:
    features = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 1), nn.ReLU())
    found = rows(nn.Sequential(OrderedDict(features=features)), Images(1, 8, 8))
    assert [(row.path, row.listed) for row in found] == [
        ("features.0", True), ("features.1", True), ("features.2", True), ("features.3", False), ("features.4", False),
        ("features", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("height", "stride", "expected"),
    [(8, 2, 2), (15, 2, 2), (7, 2, 2), (8, 8, 8), (9, 1, 1)],
)
def test_the_stride_is_a_whole_number_also_where_sizes_do_not_divide(height: int, stride: int, expected: int) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=stride, padding=1))
    assert rows(net, Images(1, height, height))[0].stride == expected


def test_a_map_larger_than_the_input_has_no_stride() -> None:
    assert rows(nn.Sequential(nn.Upsample(scale_factor=2)), Images(1, 4, 4))[0].stride is None


class Block(nn.Module):
    """Gives something other than a tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return {
            "tuple": (x, None, x.flatten(1)),
            "list": [x, None, x.flatten(1)],
            "mapping": {"hidden": x, "cache": None},
            "nothing": None,
            "text": "x",
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tuple", [("block/0", (1, 4, 4)), ("block/2", (16,))]),
        ("list", [("block/0", (1, 4, 4)), ("block/2", (16,))]),
        ("mapping", [("block/hidden", (1, 4, 4))]),
        ("nothing", []),
        ("text", []),
    ],
)
def test_outputs_of_several_tensors_are_named_as_a_tap_names_them(
    kind: str, expected: list[tuple[str, tuple[int, ...]]]
) -> None:
    net = nn.Sequential(OrderedDict(block=Block(kind)))
    assert [(row.path, row.shape) for row in rows(net, Images(1, 4, 4))] == expected


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.conv(x))
        return out


def test_a_module_that_runs_twice_is_one_row_and_one_that_never_runs_is_none() -> None:
    (row,) = rows(Shared(), Images(1, 4, 4))
    assert (row.path, row.calls, row.parameters) == ("conv", 2, 2)


def test_the_net_is_left_as_it_was(images: Classify) -> None:
    net = ConvNet(classes=10, channels=1, width=4).train()
    net.head.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rows(net, images)
    assert net.training
    assert not net.head.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(not module._forward_hooks for module in net.modules())


def test_hooks_are_gone_also_when_the_net_fails(images: Classify) -> None:
    net = ConvNet(classes=10, channels=3, width=4)
    with pytest.raises(RuntimeError, match="channels"):
        rows(net, images)
    assert all(not module._forward_hooks for module in net.modules())


# ---- what is printed


def test_nets_stand_side_by_side(images: Classify) -> None:
    nets = {"student": ConvNet(classes=10, channels=1, width=4, depth=1), "teacher": Shared()}
    task = Images(1, 8, 8)
    text = table(Cast(task, {}, {name: Frozen(net) for name, net in nets.items()}), ("student", "teacher"))
    assert text == [
        "student: 438 parameters                     teacher: 14 parameters",
        "PATH        SHAPE      STRIDE  PARAMETERS   PATH                 SHAPE      STRIDE  PARAMETERS",
        "stem        4 x 8 x 8       1          44   conv (runs 2 times)  1 x 8 x 8       1           2",
        "blocks.0.0  8 x 8 x 8       1         304",
        "blocks.0    8 x 4 x 4       2         304",
        "blocks      8 x 4 x 4       2         304",
        "head        10                         90",
        "",
        "not listed: 7 layers that give their block's shape; a tap may name them: stem.0",
    ]


def test_nothing_is_said_where_nothing_is_hidden() -> None:
    assert table(Cast(Images(1, 4, 4), {}, {"a": Frozen(Shared())}), ("a",))[-1].startswith("conv")


def test_a_count_is_readable_and_a_number_a_sample_has_a_shape_too() -> None:
    net = nn.Sequential(OrderedDict(wide=nn.Linear(2000, 1000), last=nn.Flatten(0)))
    text = table(Cast(Images(2000), {}, {"a": Frozen(net)}), ("a",))
    assert text[0] == "a: 2,001,000 parameters"
    assert text[2].split() == ["wide", "1000", "2,001,000"]
    assert text[3].split() == ["last", "scalar", "0"]


def recipe(*, taps: dict[str, Tap] | None = None, **stage: Any) -> Recipe:
    task, data = Slot("task", "classify", {}), DataSlot("data", "digits", {"batch_size": 64})
    slots = {
        "teacher": ModelSlot("models.teacher", "convnet", {"width": 8, "depth": 1}),
        "second": ModelSlot("models.second", "mlp", {"hidden": [3]}),
        "student": ModelSlot("models.student", "convnet", {"width": 4, "depth": 1}),
        "both": ModelSlot("models.both", "ensemble", {"of": ["teacher", "second"]}),
        "average": ModelSlot("models.average", "ema", {"of": "student"}),
    }
    fields = {"train": ("student",), "teachers": ("teacher",), **stage}
    made = Stage("distil", "stages.distil", task, data, taps=taps or {}, **fields)
    return Recipe("r", 0, task, data, slots, {"distil": made})


def show(made: Recipe, tmp_path: Path) -> list[str]:
    return inspect(made.stages["distil"], Builder(made, Plugins(), 0, tmp_path))


@pytest.mark.parametrize(
    ("teachers", "names"),
    [
        ((), ["student"]),
        (("teacher",), ["student", "teacher"]),
        (("both",), ["student", "teacher", "second"]),
        (("average",), ["student"]),  # it is the same net
    ],
)
def test_the_nets_of_a_stage(tmp_path: Path, teachers: tuple[str, ...], names: list[str]) -> None:
    head = show(recipe(teachers=teachers), tmp_path)[0]
    assert [word.rstrip(":") for word in head.split() if word.endswith(":")] == names


def test_taps_are_listed_with_the_shapes_that_they_yield(tmp_path: Path) -> None:
    taps = {
        "deep": Tap("deep", "taps.deep", {"student": "blocks.0", "teacher": "blocks.0:in"}),
        "all": Tap("all", "taps.all", {"average": "blocks.0.(0..1)"}),
    }
    text = show(recipe(taps=taps, teachers=("teacher", "average")), tmp_path)
    assert text[text.index("", text.index("") + 1) + 1 :] == [
        "TAP        MODEL    PATH             SHAPE",
        "tap.deep   student  blocks.0         8 x 4 x 4",
        "tap.deep   teacher  blocks.0:in      8 x 8 x 8",
        "tap.all@0  average  blocks.0.(0..1)  8 x 8 x 8",
        "tap.all@1  average  blocks.0.(0..1)  8 x 4 x 4",
    ]  # fmt: skip


def test_a_tap_that_is_not_there_is_said(tmp_path: Path) -> None:
    taps = {"deep": Tap("deep", "taps.deep", {"student": "block.0"})}
    with pytest.raises(RunError, match=r"model `student` has no module `block.0`"):
        show(recipe(taps=taps), tmp_path)


def test_tapping_leaves_no_hooks(images: Classify) -> None:
    net = ConvNet(classes=10, channels=1, width=4)
    stage = recipe(taps={"deep": Tap("deep", "taps.deep", {"student": "stem"})}).stages["distil"]
    assert len(tap_lines(stage, Cast(images, {}, {"student": Frozen(net)}))) == 2
    assert all(not module._forward_hooks for module in net.modules())
    assert tap_lines(recipe().stages["distil"], Cast(images, {})) == []


def test_an_action_has_no_nets(tmp_path: Path) -> None:
    made = recipe(train=(), teachers=(), do=Slot("stages.distil.do", "cluster"))
    with pytest.raises(RunError, match="stage `distil` has no nets to show: it runs the action `cluster`"):
        show(made, tmp_path)

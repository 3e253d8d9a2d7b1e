"""Taps: the grammar of their paths, what they collect and when, and what they say where they cannot."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdcore.errors import RunError
from kdcore.taps import TapPath, Taps, resize_to, select, suggest

NAMES = ["", "stem", "neck", "neck.0", "neck.1", "neck.2", "neck.10", "neck.1.attn", "neck.2.attn", "layer1", "layer2"]


class Block(nn.Module):
    """Takes a mask by keyword, and returns what the test asks for."""

    def __init__(self, returns: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.returns = returns

    def forward(self, hidden: Tensor, mask: Tensor | None = None, *, scale: Tensor | None = None) -> Any:
        out = self.linear(hidden)
        return out if self.returns is None else self.returns(out)


class Net(nn.Module):
    """A stem, a neck of three, a head that is called for each neck output; an unused part."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.neck = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 2)
        self.alias = self.stem

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        outputs = [self.head(neck(x)) for neck in reversed(self.neck)]
        return torch.stack(outputs).sum(0)


def collect(model: nn.Module, paths: dict[str, str], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    taps = Taps(model, paths, "student")
    with taps.armed():
        model(*args, **kwargs)
    return taps.take()


# --- grammar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder.layer4", TapPath("encoder.layer4")),
        ("neck.(0..2)", TapPath("neck.(0..2)")),
        ("block:in", TapPath("block", True)),
        ("block:in(hidden_states)", TapPath("block", True, "hidden_states")),
        ("block/1", TapPath("block", items=("1",))),
        ("block/last_hidden_state/0", TapPath("block", items=("last_hidden_state", "0"))),
        ("a.*.b:in(x)/0", TapPath("a.*.b", True, "x", ("0",))),
        ("**.attn", TapPath("**.attn")),
    ],
)
def test_a_path_is_read(text: str, expected: TapPath) -> None:
    assert TapPath.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["block:out", "block:in()", "block:in(a b)", "block/", "block//1", "a:in:in", "b/1:in"]
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="is not a tap path: write MODULE, MODULE:in") as error:
        TapPath.parse(text)
    assert f"`{text}`" in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("stem", ["stem"]),
        ("", [""]),
        ("*", ["stem", "neck", "layer1", "layer2"]),
        ("neck.*", ["neck.0", "neck.1", "neck.2", "neck.10"]),
        ("neck.1*", ["neck.1", "neck.10"]),
        ("neck.(0..2)", ["neck.0", "neck.1", "neck.2"]),
        ("neck.(1..2).attn", ["neck.1.attn", "neck.2.attn"]),
        ("neck.(9..11)", ["neck.10"]),
        ("layer(1..3)", ["layer1", "layer2"]),
        ("neck.(2..0)", []),
        ("neck.(0..1", []),
        ("neck.**", ["neck.0", "neck.1", "neck.2", "neck.10", "neck.1.attn", "neck.2.attn"]),
        ("**.attn", ["neck.1.attn", "neck.2.attn"]),
        ("**.stem", ["stem"]),
        ("neck.**.attn", ["neck.1.attn", "neck.2.attn"]),
        ("**", NAMES[1:]),
        ("ste.", []),
        ("nec", []),
    ],
)
def test_select(pattern: str, found: list[str]) -> None:
    assert select(NAMES, pattern) == found


def test_a_missing_module_suggests_a_close_name() -> None:
    with pytest.raises(RunError, match=r"model `student` has no module `neck.3`: did you mean `neck.2`\?"):
        Taps(Net(), {"deep": "neck.3"}, "student")


def test_a_name_that_resembles_none_is_answered_with_how_names_begin() -> None:
    expected = "has no module `xyzzy`: its names begin with stem, neck, head, unused, alias$"
    with pytest.raises(RunError, match=expected):
        Taps(Net(), {"deep": "xyzzy"}, "student")


def test_suggest_without_names() -> None:
    assert suggest("x", [""]) == "its names begin with nothing"


# --- what is collected ------------------------------------------------------------------------------------------------


def test_outputs_and_inputs() -> None:
    model, x = Net(), torch.randn(3, 4)
    found = collect(model, {"out": "stem", "in": "stem:in", "whole": ""}, x)
    assert found.keys() == {"tap.out", "tap.in", "tap.whole"}
    torch.testing.assert_close(found["tap.out"], model.stem(x), rtol=0, atol=0)
    assert found["tap.in"] is x
    torch.testing.assert_close(found["tap.whole"], model(x), rtol=0, atol=0)
    assert found["tap.out"].requires_grad


def test_a_glob_is_numbered_in_the_order_of_the_net_not_of_the_calls() -> None:
    model, x = Net(), torch.randn(3, 4)
    found = collect(model, {"neck": "neck.(0..2)"}, x)
    assert list(found) == ["tap.neck@0", "tap.neck@1", "tap.neck@2"]
    for i, neck in enumerate(model.neck):
        torch.testing.assert_close(found[f"tap.neck@{i}"], neck(model.stem(x)), rtol=0, atol=0)


def test_a_module_called_several_times_is_numbered_by_call() -> None:
    model, x = Net(), torch.randn(3, 4)
    found = collect(model, {"head": "head"}, x)
    assert list(found) == ["tap.head@0", "tap.head@1", "tap.head@2"]
    torch.testing.assert_close(found["tap.head@0"], model.head(model.neck[2](model.stem(x))), rtol=0, atol=0)


def test_a_glob_that_matches_one_module_is_not_numbered() -> None:
    assert list(collect(Net(), {"neck": "neck.(2..5)"}, torch.randn(3, 4))) == ["tap.neck"]


@pytest.mark.parametrize("path", ["alias", "stem", "*em"])
def test_a_module_under_two_names_is_found_by_either(path: str) -> None:
    assert list(collect(Net(), {"x": path}, torch.randn(3, 4))) == ["tap.x"]


def test_a_glob_over_both_names_of_a_module_taps_it_once() -> None:
    model = Net()
    assert TapPath("*").modules(model, "student") == ["stem", "neck", "head", "unused"]


def test_two_taps_on_one_module() -> None:
    found = collect(Net(), {"a": "stem", "b": "stem"}, torch.randn(3, 4))
    assert found["tap.a"] is found["tap.b"]


@pytest.mark.parametrize(
    ("returns", "path", "index"),
    [
        (lambda out: (out, out + 1), "block/1", 1),
        (lambda out: [out, (out + 2, out + 1)], "block/1/1", 1),
        (lambda out: {"first": out, "last": out + 1}, "block/last", 1),
        (lambda out: namedtuple("Out", "first last")(out, out + 1), "block/last", 1),
        (lambda out: namedtuple("Out", "first last")(out, out + 1), "block/0", 0),
        (lambda out: OrderedDict(last_hidden_state=out), "block/last_hidden_state", 0),
        (lambda out: {"0": out}, "block/0", 0),
    ],
)
def test_elements_of_an_output(returns: Any, path: str, index: int) -> None:
    model, x = nn.Sequential(OrderedDict(block=Block(returns))), torch.randn(2, 4)
    found = collect(model, {"x": path}, x)
    torch.testing.assert_close(found["tap.x"], model.block.linear(x) + index, rtol=0, atol=0)


HIDDEN, MASK = torch.randn(2, 4), torch.ones(2)


@pytest.mark.parametrize(
    ("path", "args", "kwargs", "expected"),
    [
        (":in", (HIDDEN, MASK), {}, HIDDEN),
        (":in", (), {"hidden": HIDDEN, "mask": MASK}, HIDDEN),
        (":in(mask)", (HIDDEN, MASK), {}, MASK),
        (":in(mask)", (HIDDEN,), {"mask": MASK}, MASK),
        (":in(hidden)", (), {"mask": MASK, "hidden": HIDDEN}, HIDDEN),
        (":in(scale)", (HIDDEN,), {"scale": MASK}, MASK),
        (":in(mask)/0", (HIDDEN, (MASK, HIDDEN)), {}, MASK),
    ],
)
def test_inputs_by_place_or_by_name(path: str, args: Any, kwargs: Any, expected: Tensor) -> None:
    assert collect(Block(), {"x": path}, *args, **kwargs)["tap.x"] is expected


def test_an_input_of_a_net_that_takes_anything() -> None:
    class Anything(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return HIDDEN

    assert collect(Anything(), {"x": ":in(mask)"}, HIDDEN, mask=MASK)["tap.x"] is MASK
    with pytest.raises(RunError, match="it was called without `mask`"):
        collect(Anything(), {"x": ":in(mask)"}, HIDDEN)


# --- what cannot be collected -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "path", "message"),
    [
        (lambda out: (out, None), "block/1", r"is None: a net that computes attention .*attn_implementation: eager"),
        (lambda out: {"maps": None}, "block/maps/0", "is None: a net that computes attention"),
        (lambda out: (out, out), "block", r"is a tuple, not a tensor: pick an element, as in `PATH/0`"),
        (lambda out: {"first": out, "last": out}, "block", "is a dict with first, last, not a tensor"),
        (lambda out: (out, out), "block/2", "has 2 elements, none at /2"),
        (lambda out: {"first": out}, "block/last", "is a dict with first without an element /last"),
        (lambda out: out, "block/0", "is a Tensor without an element /0"),
        (lambda out: out, "block/shape", "is a Size, not a tensor"),
    ],
)
def test_an_output_that_holds_no_tensor_there(returns: Any, path: str, message: str) -> None:
    model = nn.Sequential(OrderedDict(block=Block(returns)))
    with pytest.raises(RunError, match=message) as error:
        collect(model, {"deep": path}, torch.randn(2, 4))
    assert "tap `deep` of model `student` (the output of `block`)" in str(error.value)


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        (":in(mask)", {}, r"\(the input of ``\): it was called without `mask`"),
        (":in(scale)", {}, "it was called without `scale`"),
        (":in(sclae)", {}, "its forward takes hidden, mask, scale, not `sclae`"),
        (":in(mask)", {"mask": None}, "is None"),
    ],
)
def test_an_input_that_is_not_given(path: str, kwargs: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        collect(Block(), {"x": path}, HIDDEN, **kwargs)


def test_an_input_of_a_module_called_with_nothing() -> None:
    class Nothing(nn.Module):
        def forward(self) -> Tensor:
            return HIDDEN

    with pytest.raises(RunError, match="it was called without any argument"):
        collect(Nothing(), {"x": ":in"})


@pytest.mark.parametrize(("path", "at"), [("unused", "unused"), ("*u*", "unused"), ("*", "neck")])
def test_a_module_that_is_never_called(path: str, at: str) -> None:
    """Also one of several: left out, it would shift the numbers of those after it. (A list is not called itself.)"""
    with pytest.raises(RunError, match=f"tap `x` of model `student`: the module `{at}` was not called in the forward"):
        collect(Net(), {"x": path}, torch.randn(2, 4))


# --- when -------------------------------------------------------------------------------------------------------------


def test_nothing_is_collected_unless_armed() -> None:
    model = Net()
    taps = Taps(model, {"x": "stem"}, "student")
    model(torch.randn(2, 4))
    with pytest.raises(RunError, match="was not called"):
        taps.take()


def test_what_a_failed_forward_left_is_forgotten() -> None:
    model, x = Net(), torch.randn(2, 4)
    taps = Taps(model, {"x": "stem"}, "student")

    def failing() -> None:
        with taps.armed():
            model(x)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        failing()
    model(x)  # not armed any more
    with taps.armed():
        model(x)
    assert list(taps.take()) == ["tap.x"]


def test_a_checkpointed_block_that_runs_again_in_backward_adds_nothing() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
            self.runs = 0

        def body(self, x: Tensor) -> Tensor:
            self.runs += 1
            out: Tensor = self.block(x)
            return out

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.body, x, use_reentrant=False)

    torch.manual_seed(0)
    model, x = Checkpointed(), torch.randn(3, 4)
    plain = copy.deepcopy(model.block)
    taps = Taps(model, {"x": "block.0"}, "student")
    with taps.armed():
        out = model(x)
    tapped = taps.take()["tap.x"]
    (out.sum() + tapped.square().sum()).backward()
    assert model.runs == 2
    with pytest.raises(RunError, match="was not called"):
        taps.take()
    (plain(x).sum() + plain[0](x).square().sum()).backward()
    torch.testing.assert_close(model.block[0].weight.grad, plain[0].weight.grad)


def test_removed_taps_leave_no_hooks() -> None:
    model = Net()
    taps = Taps(model, {"a": "neck.*", "b": "stem:in", "c": ""}, "student")
    assert any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    taps.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_taps_that_fail_to_register_leave_no_hooks() -> None:
    model = Block()
    with pytest.raises(RunError, match="not `nothing`"):
        Taps(model, {"a": "linear", "b": ":in(nothing)"}, "student")
    assert not model.linear._forward_hooks


@pytest.mark.parametrize("path", ["stem", "neck.*", "stem:in"])
def test_activations_die_with_the_signals(path: str) -> None:
    model = Net()
    taps = Taps(model, {"x": path}, "student")
    with taps.armed():
        model(torch.randn(2, 4))
    signals = taps.take()
    alive = [weakref.ref(tensor) for tensor in signals.values()]
    assert all(ref() is not None for ref in alive)
    del signals
    gc.collect()
    assert all(ref() is None for ref in alive)


# --- compiled ---------------------------------------------------------------------------------------------------------


def test_hooks_registered_before_compile_fire() -> None:
    model, x = Net(), torch.randn(2, 4)
    taps = Taps(model, {"neck": "neck.*", "in": "head:in"}, "student")
    keys = list(model.state_dict())
    model.compile(backend="eager")
    with taps.armed():
        model(x)
    found = taps.take()
    assert len(found) == 6
    torch.testing.assert_close(found["tap.neck@1"], model.neck[1](model.stem(x)))
    assert list(model.state_dict()) == keys


@pytest.mark.slow
def test_compiled_taps_are_one_graph_that_is_not_compiled_again() -> None:
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    model = Net()
    reference = copy.deepcopy(model)
    taps = Taps(model, {"neck": "neck.*", "in": "head:in(input)", "out": ""}, "student")
    model.compile(backend="aot_eager")
    for step in range(5):
        x = torch.randn(2, 4)
        model.zero_grad()
        reference.zero_grad()
        with taps.armed():
            model(x)
        found = taps.take()
        sum((tensor.square().sum() for tensor in found.values()), torch.zeros(())).backward()
        hidden = reference.stem(x)
        necks = [neck(hidden) for neck in reference.neck]
        expected = 2 * sum(neck.square().sum() for neck in necks) + reference(x).square().sum()
        expected.backward()
        torch.testing.assert_close(model.stem.weight.grad, reference.stem.weight.grad)
        assert dynamo.utils.counters["stats"]["unique_graphs"] == 1, f"compiled again in step {step}"
        alive = [weakref.ref(tensor) for tensor in found.values()]
        del found
        gc.collect()
        assert all(ref() is None for ref in alive), "the graph keeps activations alive"
    assert not dynamo.utils.counters["graph_break"]


# --- resize -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), [((2, 3, 4), (8,)), ((2, 3, 4, 5), (8, 10)), ((2, 3, 2, 4, 4), (4, 2, 2))])
def test_resize_keeps_samples_channels_and_constants(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    channels = torch.arange(3.0).view(1, 3, *[1] * len(size))
    resized = resize_to(channels.expand(shape), size)
    assert resized.shape == (2, 3, *size)
    torch.testing.assert_close(resized, channels.expand(2, 3, *size))


def test_resize_halves_to_the_mean_of_neighbours() -> None:
    x = torch.tensor([[[1.0, 3.0, 5.0, 9.0]]])
    torch.testing.assert_close(resize_to(x, (2,)), torch.tensor([[[2.0, 7.0]]]))


def test_resize_of_frames_with_channels_last() -> None:
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0], [9.0, 90.0]]).unsqueeze(0)  # (N, T, C)
    torch.testing.assert_close(resize_to(x, (2,), axis=1), torch.tensor([[[2.0, 20.0], [7.0, 70.0]]]))

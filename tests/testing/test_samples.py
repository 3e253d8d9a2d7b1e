"""Samples of every domain: shapes, seeds, masks, and nets that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdcore.signals import IGNORE
from kdcore.testing import samples

DOMAINS: dict[str, Callable[..., Any]] = {
    "vectors": samples.vectors,
    "maps": samples.maps,
    "tokens": samples.tokens,
    "frames": samples.frames,
    "nodes": samples.nodes,
    "boxes": samples.boxes,
}
POSITIONS = {"vectors": (), "maps": (6, 8), "tokens": (7,), "frames": (9,), "nodes": (), "boxes": (7,)}


@pytest.mark.parametrize("domain", DOMAINS)
def test_signals_and_labels_fit_each_other(domain: str):
    sample = DOMAINS[domain](6)
    for role in ("student", "teacher"):
        logits = sample[role]["logits"].movedim(sample["class_axis"], -1)
        assert logits.shape == (6, *POSITIONS[domain], samples.CLASSES)
        assert logits.dtype == torch.float32
    batch = sample["batch"]
    assert batch["labels"].shape == (6, *POSITIONS[domain])
    assert batch["id"].tolist() == list(range(6))
    assert set(batch["labels"].unique().tolist()) - {IGNORE} <= set(range(samples.CLASSES))


@pytest.mark.parametrize("domain", DOMAINS)
def test_they_are_always_the_same_and_leave_torch_alone(domain: str):
    before = torch.get_rng_state()
    one, other = DOMAINS[domain](), DOMAINS[domain]()
    assert torch.equal(torch.get_rng_state(), before)
    for part in ("student", "teacher", "batch"):
        assert all(torch.equal(one[part][name], x) for name, x in other[part].items())
    assert not torch.equal(one["student"]["logits"], one["teacher"]["logits"])


@pytest.mark.parametrize("domain", ["maps", "tokens", "frames", "boxes"])
def test_masks_leave_out_a_part_and_one_sample_as_a_whole(domain: str):
    mask = DOMAINS[domain]()["batch"]["mask"].flatten(1)
    assert not mask[-1].any()
    assert mask[:-1].any(1).all()
    assert not mask[:-1].all()


def test_other_names_and_channels():
    maps = samples.maps(signal="feature", channels=(3, 7))
    assert maps["student"]["feature"].shape == (4, 3, 6, 8)
    assert maps["teacher"]["feature"].shape == (4, 7, 6, 8)


def test_boxes_are_boxes():
    for role in (samples.boxes()["student"], samples.boxes()["teacher"]):
        assert role["boxes"].shape == (4, 7, 4)
        assert (role["boxes"][..., :2] <= role["boxes"][..., 2:]).all()


def test_edges_name_nodes():
    edges = samples.nodes(8)["batch"]["edges"]
    assert edges.shape == (2, 16)
    assert set(edges.flatten().tolist()) == set(range(8))
    there = set(map(tuple, edges.T.tolist()))
    assert {(b, a) for a, b in there} == there


NETS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[str, ...]]] = {
    "vectors": (samples.vector_net, ("image",)),
    "maps": (samples.map_net, ("image",)),
    "tokens": (samples.token_net, ("input_ids",)),
    "frames": (samples.frame_net, ("features",)),
    "nodes": (samples.node_net, ("features", "edges")),
    "boxes": (samples.box_net, ("image",)),
}


@pytest.mark.parametrize("domain", NETS)
def test_nets_read_the_batch_and_are_always_the_same(domain: str):
    make, names = NETS[domain]
    sample, before = DOMAINS[domain](), torch.get_rng_state()
    one, other = make()(*(sample["batch"][name] for name in names)), make()(*(sample["batch"][name] for name in names))
    assert torch.equal(torch.get_rng_state(), before)
    signals = one if isinstance(one, dict) else {"logits": one}
    again = other if isinstance(other, dict) else {"logits": other}
    for name, x in signals.items():
        assert x.shape == sample["student"][name].shape
        assert torch.equal(x, again[name])


def test_a_node_is_told_the_mean_of_its_neighbours():
    net = samples.node_net()
    features, edges = samples.nodes()["batch"]["features"], torch.tensor([[1, 2], [0, 0]])
    found = net(features, edges)
    mean = (features[1] + features[2]) / 2
    torch.testing.assert_close(found[0], net.own(features[0]) + net.near(mean))  # type: ignore[operator]
    torch.testing.assert_close(found[3], net.own(features[3]) + net.near.bias)  # type: ignore[operator, union-attr]

from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.losses.base import Total
from tiny import detector, task
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou
from two_stages import objects, two_stages

from kdcore_detection.losses.faster_rcnn import FasterRCNNLoss, by_overlap, sampled
from kdcore_detection.models.faster_rcnn import FasterRCNN

EVERYTHING = {"anchors": 5000, "positive_anchors": 1.0, "regions": 500, "positive_regions": 1.0}


def made(net: nn.Module, **given: Any) -> FasterRCNNLoss:
    loss = FasterRCNNLoss(**given)
    loss.setup({}, {}, {"student": net}.__getitem__)
    return loss


def run(loss: FasterRCNNLoss, net: nn.Module, batch: dict[str, Any]) -> dict[str, Total]:
    signals = task().signals(net, batch, {})
    given = {name: x for name, x in signals.items() if f"student.{name}" in loss.needs}
    return loss(given, {}, batch)


def means(found: dict[str, Total]) -> dict[str, float]:
    return {name: float(total.sum.detach()) / max(1, int(total.count)) for name, total in found.items()}


@pytest.fixture
def net() -> FasterRCNN:
    return two_stages().eval()


# ---- against torchvision, where nothing is left to chance


def of_library(net: Any, signals: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, float]:
    """The terms of torchvision's own parts for this net's outputs, all anchors and proposals sampled."""
    targets = []
    for boxes, labels in zip(batch["boxes"], batch["box_labels"], strict=True):
        targets.append({"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1})
    tops = {"training": 1, "testing": 1}
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 100_000, 1.0, tops, tops, 0.7)  # type: ignore[arg-type]
    anchors = list(signals["anchors"])
    found, matched = rpn.assign_targets_to_anchors(anchors, targets)
    deltas = rpn.box_coder.encode(matched, anchors)
    # of all anchors, positives and background, none is left out: 100,000 is more than there are
    rpn_class, rpn_box = rpn.compute_loss(
        signals["objectness"].reshape(-1, 1), signals["rpn_deltas"].flatten(0, 1), found, deltas
    )
    proposals = [each[(each[:, 2] > each[:, 0])] for each in signals["proposals"]]

    def pool(maps: dict[str, Tensor], boxes: list[Tensor], sizes: Any) -> Tensor:
        rows = [[level[n : n + 1] for level in maps.values()] for n in range(len(boxes))]
        return torch.cat([net.roi(row, each[None]).features[0] for row, each in zip(rows, boxes, strict=True)])

    heads = RoIHeads(
        pool, nn.Identity(), net.roi_heads["box_predictor"], 0.5, 0.5, 100_000, 1.0, None, 0.05, 0.5, 100
    )  # fmt: skip
    maps = {str(i): signals[f"pyramid.{i}"] for i in range(4)}
    _, terms = heads.train()(maps, proposals, [(64, 96)] * 3, targets)
    return {
        "rpn_class": float(rpn_class),
        "rpn_box": float(rpn_box),
        "class": float(terms["loss_classifier"]),
        "box": float(terms["loss_box_reg"]),
    }


def test_it_is_torchvision_s_loss(net: FasterRCNN):
    batch = objects()
    with torch.no_grad():
        ours = means(run(made(net, **EVERYTHING), net, batch))
        theirs = of_library(net, net(batch["image"]), batch)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert min(theirs.values()) > 0


# ---- what is sampled


def assignment(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def test_positives_up_to_their_share_and_background_for_the_rest():
    torch.manual_seed(0)
    many = assignment([0] * 30 + [-1] * 60 + [-2] * 10, [3] * 2 + [-1] * 90 + [-2] * 8, [-1] * 5 + [-2] * 95)
    positive, chosen = sampled(many, 20, 0.25)
    assert torch.equal(positive, many >= 0)
    assert (chosen & positive).sum(1).tolist() == [5, 2, 0]
    assert chosen.sum(1).tolist() == [20, 20, 5]
    assert not (chosen & (many == -2)).any()


def test_fewer_positions_than_samples_are_all_chosen():
    few = assignment([0, -1, -2, -1])
    _, chosen = sampled(few, 64, 0.5)
    assert chosen.tolist() == [[True, True, False, True]]


def test_background_does_not_fill_up_what_is_not_there_and_positives_are_never_more_than_their_share():
    _, chosen = sampled(assignment([0] * 10 + [-1] * 3), 8, 0.5)
    assert chosen[0, :10].sum() == 4
    assert chosen[0, 10:].sum() == 3


def test_every_position_has_the_same_chance():
    torch.manual_seed(0)
    many = assignment(*[[1] * 10 + [-1] * 20] * 3000)
    _, chosen = sampled(many, 10, 0.4)
    share = chosen.float().mean(0)
    assert share[:10].sub(0.4).abs().max() < 0.05
    assert share[10:].sub(0.3).abs().max() < 0.05


def test_the_draw_replays_from_torch_s_generator(net: FasterRCNN):
    loss, batch = made(net, anchors=8, regions=4), objects()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = means(run(loss, net, batch)), means(run(loss, net, batch))
    torch.set_rng_state(state)
    again = means(run(loss, net, batch))
    assert first == again
    assert first != second


# ---- what a proposal is to find


def test_proposals_are_an_object_s_from_half_on():
    batch = objects()
    regions = torch.tensor(
        [
            [[10.0, 12.0, 42.5, 50.0], [10.0, 12.0, 42.5, 30.0], [0.0] * 4, [30.0, 8.0, 90.0, 40.0]],
            [[5.0, 5.0, 20.0, 21.5], [0.0] * 4, [5.0, 5.0, 20.0, 14.0], [50.0, 5.0, 60.0, 14.0]],
            [[5.0, 5.0, 20.0, 21.5], [0.0] * 4, [5.0, 5.0, 20.0, 14.0], [50.0, 5.0, 60.0, 14.0]],
        ]
    )
    found = by_overlap(regions, batch["box_labels"] >= 0, batch)
    assert found.tolist() == [[0, -1, -2, 1], [0, -2, 0, -1], [-1, -2, -1, -1]]
    overlaps = box_iou(regions[0], batch["boxes"][0])
    assert overlaps[1, 0] < 0.5 < overlaps[3, 1]


def test_ignored_and_unknown_boxes_have_no_terms(net: FasterRCNN):
    batch = objects()
    batch["box_ignore"] = torch.tensor([[False, True], [False, False], [False, False]])
    batch["boxes_known"] = torch.tensor([True, False, True])
    regions = batch["boxes"].clone()
    found = by_overlap(regions, (batch["box_labels"] >= 0) & ~batch["box_ignore"], batch)
    assert found.tolist() == [[0, -2], [-2, -2], [-2, -2]]
    counted = run(made(net, **EVERYTHING), net, batch)
    usual = run(made(net, **EVERYTHING), net, objects())
    assert all(0 < int(counted[name].count) < int(usual[name].count) for name in counted)


def test_true_boxes_are_among_the_proposals():
    batch = objects()
    bad = two_stages(proposals=1).eval()
    found = run(made(bad, **EVERYTHING), bad, batch)
    # three objects, and what the net proposed for each image
    assert 3 <= int(found["class"].count) <= 6
    assert float(found["box"].sum.detach()) > 0


# ---- the contract


def test_samples_are_counted(net: FasterRCNN):
    found = run(made(net, anchors=10, regions=6), net, objects())
    assert {name: int(total.count) for name, total in found.items()} == {
        "rpn_class": 30, "rpn_box": 30, "class": 18, "box": 18,
    }  # fmt: skip
    for total in found.values():
        assert (total.sum.dtype, total.count.dtype) == (torch.float32, torch.int64)


def test_every_part_of_the_net_learns(net: FasterRCNN):
    found = run(made(net), net.train(), objects())
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert net.roi_heads["box_predictor"].bbox_pred.weight.grad.any()
    assert net.rpn["head"].bbox_pred.weight.grad.any()


def test_images_without_objects_teach_background(net: FasterRCNN):
    batch = {**objects(), "boxes": torch.zeros(3, 1, 4), "box_labels": torch.full((3, 1), -100)}
    found = run(made(net, **EVERYTHING), net, batch)
    assert float(found["rpn_box"].sum.detach()) == float(found["box"].sum.detach()) == 0.0
    assert float(found["rpn_class"].sum) > 0
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_nothing_is_known_is_0_over_0(net: FasterRCNN):
    batch = {**objects(), "boxes_known": torch.zeros(3, dtype=torch.bool)}
    found = run(made(net), net, batch)
    assert [(float(total.sum), int(total.count)) for total in found.values()] == [(0.0, 0)] * 4
    assert all(total.sum.requires_grad for total in found.values())


def test_boxes_beyond_the_end_and_wild_predictions_are_no_nan(net: FasterRCNN):
    with torch.no_grad():
        net.rpn["head"].bbox_pred.weight.mul_(1e4)
        net.roi_heads["box_predictor"].bbox_pred.weight.mul_(1e4)
    found = run(made(net), net, objects())
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert all(total.sum.isfinite() for total in found.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_a_net_trained_on_one_batch_finds_its_objects():
    net, batch = two_stages(proposals=40).train(), objects()
    loss = made(net)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    first = 0.0
    for step in range(40):
        value = torch.stack([t.sum / t.count.clamp(min=1) for t in run(loss, net, batch).values()]).sum()
        first = first or float(value.detach())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert step < 39 or float(value.detach()) < 0.4 * first


@pytest.mark.parametrize("name", ["anchors", "regions"])
@pytest.mark.parametrize(("number", "share"), [(0, 0.5), (8, 1.5), (8, -0.1)])
def test_samples_that_cannot_be(name: str, number: int, share: float):
    message = rf"{name}={number} and positive_{name}={share}: sample at least 1, and give a share in \[0, 1\]"
    with pytest.raises(ValueError, match=message):
        FasterRCNNLoss(**{name: number, f"positive_{name}": share})


def test_a_student_of_another_kind():
    message = "the student is a FCOS, and this loss is for `detection.faster_rcnn`"
    with pytest.raises(ValueError, match=message):
        made(detector("fcos"))


def test_the_student_is_no_part_of_the_loss_and_goes_when_the_stage_is_over(net: FasterRCNN):
    loss = made(net)
    assert loss.borrowed() == (net,)
    assert not list(loss.parameters())
    loss.close()
    with pytest.raises(ValueError, match="FasterRCNNLoss finds its nets in setup"):
        run(loss, net, objects())


def test_without_setup(net: FasterRCNN):
    with pytest.raises(ValueError, match=r"FasterRCNNLoss finds its nets in setup\(\), which was not called"):
        run(FasterRCNNLoss(), net, objects())

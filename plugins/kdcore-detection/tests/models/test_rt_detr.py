from __future__ import annotations

from typing import Any

import pytest
import torch
from small_sets import small_rt_detr

from kdcore_detection.models.rt_detr import SIZES, rt_detr
from kdcore_detection.models.sets import in_pixels


def test_the_first_layer_is_the_encoder_s_selection():
    torch.manual_seed(0)
    net: Any = small_rt_detr().eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = net(image), net.model(pixel_values=image)
    assert torch.equal(ours["layer_logits"][:, 0], theirs.enc_topk_logits)
    assert torch.equal(ours["layer_boxes"][:, 0], in_pixels(theirs.enc_topk_bboxes, image))
    assert torch.equal(ours["layer_logits"][:, 1], theirs.intermediate_logits[:, 0])


def test_the_selection_learns_from_its_own_layer_only():
    net: Any = small_rt_detr()
    net(torch.rand(1, 3, 64, 64))["layer_logits"][:, 1:].sum().backward()
    assert not net.model.enc_score_head.weight.grad.any()
    net(torch.rand(1, 3, 64, 64))["layer_logits"][:, :1].sum().backward()
    assert net.model.enc_score_head.weight.grad.any()


def test_the_smallest_size_has_the_paper_s_weights():
    assert sum(p.numel() for p in rt_detr(classes=80).parameters()) == pytest.approx(20e6, rel=0.02)  # table 2: 20 M


@pytest.mark.slow
@pytest.mark.parametrize(("size", "millions"), [("r34", 31), ("r50", 42), ("r101", 76)])
def test_sizes_have_the_paper_s_weights(size: Any, millions: float):
    assert sum(p.numel() for p in rt_detr(classes=80, size=size).parameters()) == pytest.approx(
        1e6 * millions, rel=0.03
    )


def test_the_sizes():
    assert list(SIZES) == ["r18", "r34", "r50", "r101"]

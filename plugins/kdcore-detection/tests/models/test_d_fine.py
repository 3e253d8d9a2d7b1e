from __future__ import annotations

from typing import Any

import pytest
import torch
from small_sets import small_d_fine

from kdcore_detection.models.d_fine import d_fine
from kdcore_detection.models.sets import in_pixels


def test_layers_are_the_selection_the_plain_head_and_the_decoder_s():
    torch.manual_seed(0)
    net: Any = small_d_fine().eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = net(image), net.model(pixel_values=image)
    assert torch.equal(ours["layer_logits"][:, 0], theirs.enc_topk_logits)
    assert torch.equal(ours["layer_boxes"][:, 1:], in_pixels(theirs.intermediate_reference_points, image))
    assert theirs.intermediate_logits.shape[1] == 3


def test_eval_mode_hides_no_layer_and_reaches_all_other_parts():
    net: Any = small_d_fine().train().eval()
    assert [name for name, part in net.named_modules() if part.training] == ["model.decoder"]
    assert net.train().training


def test_the_smallest_size_has_the_paper_s_weights():
    assert sum(p.numel() for p in d_fine(classes=80).parameters()) == pytest.approx(3.8e6, rel=0.02)  # 4 M


def test_it_takes_images_of_one_channel():
    net = d_fine(classes=2, channels=1, queries=5, options={"decoder_layers": 2})
    assert net(torch.rand(1, 1, 64, 64))["boxes"].shape == (1, 5, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "millions"), [("s", 10), ("m", 19), ("l", 31), ("x", 62)])
def test_sizes_have_the_paper_s_weights(size: Any, millions: float):
    assert sum(p.numel() for p in d_fine(classes=80, size=size).parameters()) == pytest.approx(
        1e6 * millions, rel=0.035
    )

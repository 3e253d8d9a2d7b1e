from __future__ import annotations

from typing import Any

import pytest
import torch
from small_sets import small_detr
from torch import Tensor

from kdcore_detection.models.detr import detr


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return small_detr().eval()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_the_memory_is_the_encoder_s_map(net: Any, image: Tensor):
    found: list[Tensor] = []
    handle = net.model.encoder.register_forward_hook(lambda *given: found.append(given[2].last_hidden_state))
    memory = net(image)["memory"]
    handle.remove()
    assert memory.shape == (2, 16, 2, 3)
    assert torch.equal(memory.flatten(2).transpose(1, 2), found[0])


def test_layers_before_the_last_are_those_of_a_net_that_ends_there(net: Any, image: Tensor):
    with torch.no_grad():
        whole = net(image)
        net.model.decoder.layers = net.model.decoder.layers[:1]
        shorter = net(image)
    torch.testing.assert_close(whole["layer_logits"][:, 0], shorter["logits"])
    torch.testing.assert_close(whole["layer_boxes"][:, 0], shorter["boxes"])


def test_the_decoder_can_be_run_again_with_other_queries(net: Any, image: Tensor):
    with torch.no_grad():
        signals = net(image)
        order = torch.tensor([3, 1, 0, 2, 6, 5, 4])
        again = net.decode(signals["memory"], net.query_positions(2)[:, order], image)
        fewer = net.decode(signals["memory"], net.query_positions(2)[:, :4], image)
    torch.testing.assert_close(again["layer_boxes"], signals["layer_boxes"][:, :, order])
    torch.testing.assert_close(again["logits"], signals["logits"][:, order])
    assert fewer["logits"].shape == (2, 4, 4)


def test_sides_need_not_be_multiples_of_anything(net: Any):
    assert net(torch.rand(1, 3, 45, 70))["boxes"].shape == (1, 7, 4)


def test_a_backbone_of_timm_and_images_of_one_channel():
    body = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    net = detr(classes=2, channels=1, backbone="resnet10t", queries=3, options=body)
    assert net(torch.rand(1, 1, 64, 64))["logits"].shape == (1, 3, 3)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.slow
def test_the_default_is_the_paper_s():
    # 41.3 M in table 1 of the paper, whose batch norms are frozen
    assert sum(p.numel() for p in detr(classes=91).parameters()) == pytest.approx(41.5e6, rel=0.01)

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import batch, detector


def test_a_distribution_for_each_side():
    signals = detector("gfl", bins=9)(batch(2)["image"])
    assert signals["distribution"].shape == (2, 126, 4, 9)


def test_boxes_are_the_mean_of_the_distributions():
    net = detector("gfl")
    signals = net(batch(2)["image"])
    image, at = 1, 96 + 6 * 2 + 3  # the point (48, 32), of stride 16
    left, top, right, bottom = (
        sum(i * p for i, p in enumerate(signals["distribution"][image, at, side].softmax(0).tolist()))
        for side in range(4)
    )
    expected = [48 - 16 * left, 32 - 16 * top, 48 + 16 * right, 32 + 16 * bottom]
    assert signals["boxes"][image, at].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_certain_distribution_is_a_distance():
    net = detector("gfl", bins=5)
    raw = torch.full((1, 1, 4, 5), -100.0)
    for side, bin_ in enumerate((1, 0, 4, 2)):
        raw[0, 0, side, bin_] = 100.0
    anchors = torch.tensor([[[12.0, 12.0, 20.0, 20.0]]])  # of stride 8, around (16, 16)
    assert net.decode(raw, anchors)[0, 0].tolist() == [8.0, 16.0, 48.0, 32.0]


def test_squares():
    net = detector("gfl", size=8.0)
    anchors = net(batch(1)["image"])["anchors"][0]
    squares = net.squares(anchors)
    torch.testing.assert_close((squares[:, :2] + squares[:, 2:]) / 2, (anchors[:, :2] + anchors[:, 2:]) / 2)
    torch.testing.assert_close(squares[:, 2] - squares[:, 0], 8 * (anchors[:, 2] - anchors[:, 0]))


def test_more_candidates_give_other_positions():
    given = batch(2)
    found = []
    for nearest in (1, 9):
        net = detector("gfl", nearest=nearest)
        found.append(net.assign(net(given["image"]), given) >= 0)
    assert found[0].sum() > 0
    assert not torch.equal(*found)


@pytest.mark.parametrize("given", [{"bins": 1}, {"size": 0.0}, {"nearest": 0}])
def test_what_cannot_be_is_named(given: dict[str, Any]):
    with pytest.raises(ValueError, match=r"bins=.*, size=.*, nearest=.*: at least 2 bins, above 0, and at least 1"):
        detector("gfl", **given)

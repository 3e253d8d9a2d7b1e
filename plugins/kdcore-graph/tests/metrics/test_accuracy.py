from __future__ import annotations

import math

import torch

from kdcore_graph.metrics.accuracy import NoiseAccuracy, SeenAccuracy, UnseenAccuracy

LOGITS = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
LABELS = torch.tensor([0, 1, 1, 1, -100])
UNSEEN = torch.tensor([False, False, False, True, True])


def test_each_part_by_hand() -> None:
    for metric, wanted in ((SeenAccuracy(), 2 / 3), (UnseenAccuracy(), 1.0)):
        metric.update(LOGITS, LABELS, UNSEEN)
        assert float(metric.compute()) == torch.tensor(wanted)


def test_nothing_unseen_is_no_number() -> None:
    metric = UnseenAccuracy()
    metric.update(LOGITS, LABELS, torch.zeros(5, dtype=torch.bool))
    assert math.isnan(float(metric.compute()))


def test_scores_of_single_nodes() -> None:
    found = SeenAccuracy().scores(LOGITS, LABELS, UNSEEN)
    assert found[:3].tolist() == [1, 0, 1]
    assert bool(found[3:].isnan().all())


def test_noise_has_signals_of_its_own() -> None:
    metric = NoiseAccuracy()
    assert metric.takes == "noisy"
    metric.update(LOGITS, LABELS)
    assert float(metric.compute()) == 0.75

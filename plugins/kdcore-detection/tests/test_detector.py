from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from kdcore_detection.detector import Detections, Detector, best_classes, check_selection, keep_best


def candidates(n: int = 3, k: int = 60, classes: int = 4, seed: int = 0, size: float = 40.0) -> Detections:
    """Boxes that overlap often, with scores from 0 to 1, no two equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = size * torch.rand(n, k, 2, generator=generator)
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(n, k, 2, generator=generator)], -1)
    scores = torch.stack([torch.randperm(k, generator=generator) / k for _ in range(n)])
    return Detections(boxes, scores, torch.randint(classes, (n, k), generator=generator))


def naive(found: Detections, i: int, score: float, threshold: float, limit: int) -> Detections:
    """One image alone, as torchvision does it."""
    alive = found.scores[i] > score
    boxes, scores, labels = (part[i][alive] for part in found)
    kept = batched_nms(boxes, scores, labels, threshold)[:limit]
    return Detections(boxes[kept], scores[kept], labels[kept])


@pytest.fixture(params=["image by image", "together"])
def exporting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export has all images in one call."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param == "together")


@pytest.mark.parametrize(("device", "compiling", "calls"), [("cpu", False, 3), ("cpu", True, 1), ("meta", False, 1)])
def test_one_call_waits_for_a_device_once(device: str, compiling: bool, calls: int, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[int, ...]] = []

    def kept(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        seen.append(tuple(boxes.shape))
        return torch.ones_like(scores, dtype=torch.bool)

    monkeypatch.setattr("kdcore_detection.detector._kept", kept)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    found = Detections(*(part.to(device) for part in candidates(n=3, k=8)))
    keep_best(found, score_threshold=0.0, nms_threshold=0.5, limit=4)
    assert seen == [(24 // calls, 4)] * calls


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("score", "threshold", "limit"), [(0.3, 0.5, 60), (0.0, 0.3, 60), (0.5, 0.7, 5)])
def test_each_image_as_torchvision_does_it_alone(seed: int, score: float, threshold: float, limit: int):
    found = candidates(seed=seed)
    kept = keep_best(found, score_threshold=score, nms_threshold=threshold, limit=limit)
    assert kept.scores.shape == (3, limit)
    for i in range(3):
        expected = naive(found, i, score, threshold, limit)
        n = len(expected.scores)
        assert 0 < n < 60
        assert torch.equal(kept.scores[i, :n], expected.scores)
        assert torch.equal(kept.boxes[i, :n], expected.boxes)
        assert torch.equal(kept.labels[i, :n], expected.labels)
        assert not kept.scores[i, n:].any()
        assert not kept.boxes[i, n:].any()
        assert (kept.labels[i, n:] == -1).all()


@pytest.mark.usefixtures("exporting")
def test_many_classes_and_images_keep_the_fractions_of_a_pixel():
    """In one long line of 80 classes of 64 images float32 would know whole pixels only, and overlaps would be wrong."""
    boxes = torch.tensor([[1000.0, 1000.0, 1010.0, 1010.0], [1000.0, 1000.0, 1010.0, 1005.4]])  # overlap 0.54
    found = Detections(boxes.repeat(64, 1, 1), torch.tensor([0.9, 0.8]).repeat(64, 1), torch.full((64, 2), 79))
    for threshold, kept in ((0.535, 1), (0.545, 2)):
        chosen = keep_best(found, score_threshold=0.1, nms_threshold=threshold, limit=2)
        assert ((chosen.scores > 0).sum(1) == kept).all()


@pytest.mark.usefixtures("exporting")
def test_boxes_that_reach_beyond_the_image_do_not_reach_another_class():
    boxes = torch.tensor([[[-50.0, -50.0, 10.0, 10.0], [-50.0, -50.0, 10.0, 10.0]]])
    found = Detections(boxes, torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 1]]))
    assert (keep_best(found, score_threshold=0.0, nms_threshold=0.1, limit=2).scores > 0).all()


def test_without_a_threshold_nothing_is_suppressed():
    found = candidates()
    kept = keep_best(found, score_threshold=0.2, nms_threshold=None, limit=60)
    assert torch.equal((kept.scores > 0).sum(1), (found.scores > 0.2).sum(1))


@pytest.mark.usefixtures("exporting")
def test_nothing_above_the_threshold():
    kept = keep_best(candidates(), score_threshold=1.0, nms_threshold=0.5, limit=7)
    assert not kept.scores.any()
    assert (kept.labels == -1).all()


def test_fewer_candidates_than_the_limit():
    kept = keep_best(candidates(k=8), score_threshold=0.0, nms_threshold=0.9, limit=100)
    assert [tuple(part.shape) for part in kept] == [(3, 8, 4), (3, 8), (3, 8)]


def test_boxes_without_extent_are_kept():
    found = Detections(torch.zeros(1, 2, 4), torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 0]]))
    assert keep_best(found, score_threshold=0.0, nms_threshold=0.5, limit=2).scores[0, 0] == torch.tensor(0.9)


# --- the best classes


def pairs(a: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, a, classes, generator=generator), torch.rand(2, a, classes, 4, generator=generator)


@pytest.mark.parametrize("own", [True, False])
def test_the_best_pairs(own: bool):
    """With a box for each class, and with one for all."""
    scores, boxes = pairs()
    found = best_classes(scores, boxes if own else boxes[:, :, 0], 5)
    for i in range(2):
        ranked = sorted(((float(scores[i, a, c]), a, c) for a in range(6) for c in range(3)), reverse=True)[:5]
        for k, (score, a, c) in enumerate(ranked):
            assert found.scores[i, k].item() == score
            assert found.labels[i, k] == c
            assert torch.equal(found.boxes[i, k], boxes[i, a, c if own else 0])


def test_all_pairs_where_there_are_fewer_than_candidates():
    scores, boxes = pairs()
    assert best_classes(scores, boxes, 1000).scores.shape == (2, 18)


def test_half_precision_comes_out_in_float32():
    scores, boxes = pairs()
    found = best_classes(scores.bfloat16(), boxes.bfloat16(), 3)
    assert found.scores.dtype == found.boxes.dtype == torch.float32


# --- the base class


def test_what_a_detector_must_say():
    bare = Detector()
    with pytest.raises(NotImplementedError, match=r"Detector does not implement forward\(image\)"):
        bare(torch.zeros(1))
    with pytest.raises(NotImplementedError, match=r"Detector does not implement detections\(signals\)"):
        bare.detections({})
    assert bare.assign({}, {}) is None


@pytest.mark.parametrize("given", [(-0.1, 0.5, 1, 1), (0.5, 1.5, 1, 1), (0.5, 0.5, 0, 1), (0.5, 0.5, 2, 1)])
def test_a_choice_that_nothing_would_survive(given: tuple[float, float, int, int]):
    with pytest.raises(ValueError, match=r"is not in \[0, 1\]|give at least 1, and as many candidates"):
        check_selection(*given)


def test_the_ends_of_the_thresholds_are_allowed():
    check_selection(0.0, 1.0, 1, 1)

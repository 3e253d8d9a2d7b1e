from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore_segmentation.metrics import IoU, MeanIoU, PixelAccuracy, iou

MADE: dict[str, Callable[..., Metric]] = {"miou": MeanIoU, "iou": partial(IoU, of=2), "pixel_accuracy": PixelAccuracy}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(6, 4, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    """(N, H, W); class 3 is nowhere, a fifth has no class."""
    generator = torch.Generator().manual_seed(1)
    made = torch.randint(0, 3, (6, 5, 7), generator=generator)
    return made.masked_fill(torch.rand(6, 5, 7, generator=generator) < 0.2, -100)


def answers(*guesses: int, classes: int = 4) -> Tensor:
    """Logits (1, classes, 1, W) whose largest is where the guesses say."""
    return torch.nn.functional.one_hot(torch.tensor([[guesses]]), classes).movedim(-1, 1).float()


def value(metric: Metric, preds: Tensor, target: Tensor) -> float:
    metric.update(preds, target)
    return float(metric.compute())


def naive(preds: Tensor, target: Tensor, classes: int = 4) -> dict[str, float]:
    """Pixel by pixel, in sets."""
    found, wanted = preds.argmax(1).flatten().tolist(), target.flatten().tolist()
    known = [i for i, label in enumerate(wanted) if label != -100]
    ratios = {}
    for c in range(classes):
        ours, theirs = {i for i in known if found[i] == c}, {i for i in known if wanted[i] == c}
        ratios[c] = len(ours & theirs) / len(ours | theirs) if ours | theirs else math.nan
    present = [ratio for ratio in ratios.values() if not math.isnan(ratio)]
    right = sum(found[i] == wanted[i] for i in known)
    return {"miou": sum(present) / len(present), "iou": ratios[2], "pixel_accuracy": right / len(known)}


def test_by_hand():
    preds, target = answers(0, 0, 1, 1, 2), torch.tensor([[[0, 1, 1, -100, 0]]])
    # class 0: 1 of 3, class 1: 1 of 2, class 2: answered once, never right, class 3: neither there nor answered
    assert value(MeanIoU(classes=4), preds, target) == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert value(IoU(of=0, classes=4), preds, target) == pytest.approx(1 / 3)
    assert value(IoU(of=2, classes=4), preds, target) == 0
    assert value(PixelAccuracy(classes=4), preds, target) == pytest.approx(2 / 4)


@pytest.mark.parametrize("name", MADE)
def test_as_counted_in_sets(name: str, logits: Tensor, labels: Tensor):
    assert value(MADE[name](classes=4), logits, labels) == pytest.approx(naive(logits, labels)[name], rel=1e-6)


def test_an_absent_class_has_no_value_and_is_left_out():
    preds, target = answers(0, 1, 1), torch.tensor([[[0, 1, 1]]])
    assert math.isnan(value(IoU(of=3, classes=4), preds, target))
    assert value(MeanIoU(classes=4), preds, target) == 1


def test_a_class_that_is_only_answered_counts_as_wrong():
    preds, target = answers(0, 3), torch.tensor([[[0, 0]]])
    assert value(MeanIoU(classes=4), preds, target) == pytest.approx((0.5 + 0) / 2)


def test_a_pixel_without_a_label_changes_nothing(logits: Tensor, labels: Tensor):
    before = value(MeanIoU(classes=4), logits, labels)
    logits[:, 3] += 1e4 * (labels == -100)  # all of them get a class that is nowhere else
    assert value(MeanIoU(classes=4), logits, labels) == before


def test_it_is_the_data_set_s_and_not_a_mean_of_images(logits: Tensor, labels: Tensor):
    metric = MeanIoU(classes=4)
    images = [value(MeanIoU(classes=4), *pair) for pair in zip(logits.split(1), labels.split(1), strict=True)]
    shares = metric.shares(logits, labels)
    assert metric.value_of(shares).tolist() == pytest.approx(images, rel=1e-6)
    assert value(metric, logits, labels) == pytest.approx(float(metric.value_of(shares.sum(0))), rel=1e-6)
    assert value(metric, logits, labels) != pytest.approx(sum(images) / len(images), rel=1e-3)


@pytest.mark.parametrize("name", MADE)
def test_the_sum_of_the_shares_has_the_metrics_value(name: str, logits: Tensor, labels: Tensor):
    metric = MADE[name](classes=4)
    sums = torch.stack([metric.shares(logits, labels).sum(0), metric.shares(logits[:2], labels[:2]).sum(0)])
    assert metric.value_of(sums)[0] == pytest.approx(value(metric, logits, labels), rel=1e-6)
    assert metric.value_of(sums)[1] == pytest.approx(value(MADE[name](classes=4), logits[:2], labels[:2]), rel=1e-6)


def test_shares_leave_no_trace(logits: Tensor, labels: Tensor):
    metric = MeanIoU(classes=4)
    metric.shares(logits, labels)
    assert metric.matrix.sum() == 0


def test_an_image_without_labels_adds_nothing(logits: Tensor, labels: Tensor):
    labels[1] = -100
    assert MeanIoU(classes=4).shares(logits, labels).sum((1, 2)).eq(0).tolist() == [
        False, True, False, False, False, False,
    ]  # fmt: skip


def test_iou_of_several_matrices():
    matrices = torch.tensor([[[2, 1], [0, 1]], [[0, 0], [3, 3]]])
    torch.testing.assert_close(iou(matrices), torch.tensor([[2 / 3, 1 / 2], [0.0, 3 / 6]]))


# --- what every metric promises ---------------------------------------------------------------------------------------


@made
def test_batches_add_up_to_the_whole(make: Callable[..., Metric], logits: Tensor, labels: Tensor):
    ragged = make(classes=4)
    for part in zip(logits.split([3, 1, 2]), labels.split([3, 1, 2]), strict=True):
        ragged.update(*part)
    assert float(ragged.compute()) == value(make(classes=4), logits, labels)


@made
def test_ranks_add_up_to_the_whole(make: Callable[..., Metric], logits: Tensor, labels: Tensor):
    first, second = make(classes=4), make(classes=4)
    first.update(logits[:2], labels[:2])
    second.update(logits[2:], labels[2:])
    first.merge_state(second)
    assert float(first.compute()) == value(make(classes=4), logits, labels)


@made
def test_classes_may_be_elsewhere(make: Callable[..., Metric], logits: Tensor, labels: Tensor):
    last = value(make(classes=4, class_axis=-1), logits.movedim(1, -1), labels)
    assert last == value(make(classes=4), logits, labels)


@made
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_is_nan(make: Callable[..., Metric]):
    assert make(classes=4).compute().isnan()


@made
def test_reset_forgets(make: Callable[..., Metric], logits: Tensor, labels: Tensor):
    metric = make(classes=4)
    metric.update(logits, labels)
    metric.reset()
    assert value(metric, logits[:1], labels[:1]) == pytest.approx(value(make(classes=4), logits[:1], labels[:1]))


@made
def test_an_update_waits_for_no_device(make: Callable[..., Metric], logits: Tensor, labels: Tensor):
    # on the meta device there are no values: reading one, or a size that depends on one, raises
    metric = make(classes=4).to("meta")
    metric.update(logits.to("meta"), labels.to("meta"))
    assert metric.matrix.is_meta  # type: ignore[union-attr]


@made
def test_a_net_cast_to_bfloat16_does_not_take_the_counts_along(
    make: Callable[..., Metric], logits: Tensor, labels: Tensor
):
    cast = torch.nn.ModuleList([make(classes=4)]).to(torch.bfloat16)[0]
    assert isinstance(cast, Metric)
    assert value(cast, logits, labels) == value(make(classes=4), logits, labels)


@made
def test_what_it_says_of_itself(make: Callable[..., Metric]):
    metric = make(classes=4)
    assert (metric.takes, metric.higher_is_better) == ("preds_target", True)  # type: ignore[union-attr]


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_another_number_of_classes(logits: Tensor, labels: Tensor):
    with pytest.raises(ValueError, match=r"logits of shape \(6, 4, 5, 7\) hold 4 classes at axis 1, the metric has 5"):
        MeanIoU(classes=5).update(logits, labels)


def test_labels_of_another_size(logits: Tensor, labels: Tensor):
    with pytest.raises(ValueError, match=r"labels have shape \(6, 5, 6\)"):
        MeanIoU(classes=4).update(logits, labels[..., :6])


@pytest.mark.parametrize("label", [4, 255])
def test_a_label_that_is_no_class(logits: Tensor, labels: Tensor, label: int):
    with pytest.raises((IndexError, RuntimeError)):
        MeanIoU(classes=4).update(logits, torch.full_like(labels, label))


@pytest.mark.parametrize("of", [-1, 4])
def test_a_class_that_does_not_exist(of: int):
    with pytest.raises(ValueError, match=f"of={of}: the classes are 0 to 3"):
        IoU(of=of, classes=4)

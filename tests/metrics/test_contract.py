"""What every metric of the core promises, whichever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore.builtin import kdcore_register
from kdcore.metrics.accuracy import Accuracy
from kdcore.metrics.agreement import Agreement
from kdcore.metrics.calibration import Calibration
from kdcore.metrics.divergence import Divergence
from kdcore.registry import Registry

MADE: dict[str, Callable[..., Metric]] = {
    "accuracy": Accuracy,
    "accuracy-top3": lambda **k: Accuracy(top_k=3, **k),
    "agreement": Agreement,
    "divergence": Divergence,
    "calibration": Calibration,
}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())


def arguments(metric: Metric, logits: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return (logits, labels) if metric.takes == "preds_target" else (logits, teacher)


def value(metric: Metric, *args: Tensor) -> float:
    metric.update(*args)
    return float(metric.compute())


def test_the_registered_metrics_say_what_they_take_without_torch():
    registry = Registry()
    kdcore_register(lambda kind, name, target: registry.add("kdcore", kind, name, target))
    found = {}
    for name in registry.names("metric"):
        component = registry.get("metric", name)
        assert component is not None
        found[name] = (component.literal("takes"), component.literal("higher_is_better"))
        assert component.parameters()["class_axis"].annotation == "int"
        cls = component.load()
        assert (cls.takes, cls.higher_is_better) == found[name]  # type: ignore[attr-defined]
    assert found == {
        "accuracy": ("preds_target", True),
        "agreement": ("student_teacher", True),
        "calibration": ("preds_target", False),
        "divergence": ("student_teacher", False),
    }


@made
def test_batches_add_up_to_the_whole(make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor):
    args = arguments(make(), logits, teacher, labels)
    ragged = make()
    for part in zip(*(x.split([7, 1, 92, 100]) for x in args), strict=True):
        ragged.update(*part)
    assert float(ragged.compute()) == pytest.approx(value(make(), *args), rel=1e-6)


@made
def test_ranks_add_up_to_the_whole(make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor):
    args = arguments(make(), logits, teacher, labels)
    first, second = make(), make()
    first.update(*(x[:30] for x in args))
    second.update(*(x[30:] for x in args))
    # as torchmetrics does over ranks: every state says how it is reduced
    assert all(reduction is not None for reduction in first._reductions.values())
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(value(make(), *args), rel=1e-6)


@made
def test_the_class_axis_is_the_tasks(make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor):
    flat = value(make(), *arguments(make(), logits, teacher, labels))
    as_maps = [x.view(4, 5, 10, 6).movedim(-1, 1) for x in (logits, teacher)]
    assert value(make(class_axis=1), *arguments(make(), *as_maps, labels.view(4, 5, 10))) == pytest.approx(
        flat, rel=1e-6
    )
    as_tokens = [x.view(8, 25, 6) for x in (logits, teacher)]
    assert value(make(), *arguments(make(), *as_tokens, labels.view(8, 25))) == pytest.approx(flat, rel=1e-6)


@made
def test_reset_forgets(make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor):
    metric = make()
    args = arguments(metric, logits, teacher, labels)
    before = value(metric, *args)
    metric.reset()
    metric.update(*(x[:50] for x in args))
    assert float(metric.compute()) == pytest.approx(value(make(), *(x[:50] for x in args)), rel=1e-6)
    assert float(metric.compute()) != before


@made
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_is_nan_and_not_zero(make: Callable[..., Metric]):
    assert make().compute().isnan()


@made
def test_half_precision_logits_are_scored_in_float32(
    make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor
):
    logits, teacher = logits.bfloat16(), teacher.bfloat16()
    here = value(make(), *arguments(make(), logits, teacher, labels))
    assert here == pytest.approx(value(make(), *arguments(make(), logits.float(), teacher.float(), labels)), rel=1e-6)


@made
def test_an_update_waits_for_no_device(make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor):
    # on the meta device there are no values: reading one, or selecting by a boolean mask, raises
    metric = make().to("meta")
    metric.update(*(x.to("meta") for x in arguments(metric, logits, teacher, labels)))
    assert all(getattr(metric, name).is_meta for name in metric._defaults)


@made
def test_a_net_cast_to_bfloat16_does_not_take_the_metrics_along(
    make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor
):
    args = arguments(make(), logits, teacher, labels)
    cast = torch.nn.ModuleList([make()]).to(torch.bfloat16)[0]
    assert isinstance(cast, Metric)
    assert value(cast, *args) == value(make(), *args)


@made
def test_an_update_keeps_no_graph(make: Callable[..., Metric], logits: Tensor, teacher: Tensor, labels: Tensor):
    metric = make()
    metric.update(*arguments(metric, logits.requires_grad_(), teacher, labels))
    assert not metric.compute().requires_grad

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.cache.codec import LENGTHS, Layout
from kdcore.losses.kl import KL


def logits(*shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def there_and_back(value: Tensor, **how: Any) -> Tensor:
    layout = Layout.of("logits", value, **{"stored": "float32", **how})
    layout = Layout.read(layout.said())
    arrays = layout.encode(value)
    assert {name: (array.dtype.str, array.shape[1:]) for name, array in arrays.items()} == {
        name: (column.dtype, column.shape) for name, column in layout.columns.items()
    }
    return layout.decode({name: layout.to_tensor(name, array) for name, array in arrays.items()})


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (logits(4, 5), "float32"),
        (logits(4, 5).bfloat16(), "bfloat16"),
        (logits(4, 5).half(), "float16"),
        (logits(4, 2, 3, 3), "float32"),
        (logits(4), "float32"),
        (torch.arange(6).view(3, 2), "float16"),
        (torch.tensor([[True], [False]]), "float16"),
        (torch.tensor([[0.0, -torch.inf]]), "float16"),
    ],
)
def test_dense_is_bit_equal_where_the_type_holds_it(value: Tensor, stored: str) -> None:
    back = there_and_back(value, stored=stored)
    assert back.dtype == value.dtype
    assert torch.equal(back, value)


@pytest.mark.parametrize(("stored", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_dense_in_half_precision_rounds_and_keeps_the_given_type(stored: str, error: float) -> None:
    value = logits(64, 10)
    back = there_and_back(value, stored=stored)
    assert back.dtype == torch.float32
    assert not torch.equal(back, value)
    assert ((back - value).abs() <= error * value.abs()).all()


@pytest.mark.parametrize(("stored", "tolerance"), [("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_topk_is_exact_at_the_k_and_spreads_the_rest_evenly(stored: str, tolerance: float) -> None:
    value = logits(32, 20)
    back = there_and_back(value, stored=stored, topk=4)
    top = value.topk(4, -1).indices
    mine, theirs = back.softmax(-1), value.softmax(-1)
    torch.testing.assert_close(mine.gather(-1, top), theirs.gather(-1, top), rtol=tolerance, atol=tolerance)
    others = mine.scatter(-1, top, 0.0)
    rest = theirs.scatter(-1, top, 0.0).sum(-1)
    torch.testing.assert_close(others.sum(-1), rest, rtol=tolerance, atol=tolerance)
    expected = (others.sum(-1, keepdim=True) / 16).expand(-1, 20).scatter(-1, top, 0.0)
    torch.testing.assert_close(others, expected)


def test_topk_gives_the_logits_themselves_not_only_their_softmax() -> None:
    value = logits(8, 20) + 100.0
    back = there_and_back(value, topk=3)
    top = value.topk(3, -1).indices
    torch.testing.assert_close(back.gather(-1, top), value.gather(-1, top))


@pytest.mark.parametrize(("shape", "axis"), [((4, 12, 3, 2), 1), ((4, 7, 12), -1), ((4, 7, 12), 2), ((4, 12), 1)])
def test_topk_ranks_along_the_class_axis(shape: tuple[int, ...], axis: int) -> None:
    value = logits(*shape)
    back = there_and_back(value, topk=2, axis=axis)
    assert back.shape == value.shape
    top = value.topk(2, axis).indices
    torch.testing.assert_close(back.gather(axis, top), value.gather(axis, top))
    torch.testing.assert_close(back.logsumexp(axis), value.logsumexp(axis))


@pytest.mark.parametrize(
    ("temperature", "k", "most"),
    # at a higher temperature more of the teacher lies outside of the k, and an even rest says less than the teacher
    [(1.0, 5, 0.04), (1.0, 10, 0.01), (1.0, 50, 1e-3), (2.0, 20, 0.12), (2.0, 50, 0.02), (4.0, 90, 0.02)],
)
def test_the_kl_of_a_loss_that_reads_it_is_close(temperature: float, k: int, most: float) -> None:
    teacher, student = logits(256, 100, scale=5.0), logits(256, 100, scale=1.0).flip(0)
    loss = KL(temperature=temperature)

    def value(given: Tensor) -> float:
        total = loss({"logits": student}, {"logits": given}, {"labels": torch.zeros(256, dtype=torch.long)})
        return float(total.sum / total.count)

    assert value(there_and_back(teacher, stored="float16", topk=k)) == pytest.approx(value(teacher), rel=most)


@pytest.mark.parametrize("far", [80.0, 1e4])
def test_a_rest_too_small_for_a_float_stays_finite(far: float) -> None:
    value = torch.tensor([[far, 0.0, -1.0, -2.0]])
    back = there_and_back(value, stored="float16", topk=1)
    assert torch.isfinite(back).all()
    torch.testing.assert_close(back.logsumexp(-1), value.logsumexp(-1))
    torch.testing.assert_close(back[:, 1:].logsumexp(-1), value[:, 1:].logsumexp(-1), atol=2e-3, rtol=1e-3)


def test_classes_masked_everywhere_outside_of_the_k_stay_masked() -> None:
    back = there_and_back(torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]]), topk=2)
    torch.testing.assert_close(back, torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]]))


@pytest.mark.parametrize(("classes", "dtype"), [(256, "|u1"), (257, "<i2"), (1 << 15, "<i2"), ((1 << 15) + 1, "<i4")])
def test_class_numbers_take_the_smallest_type_that_holds_them(classes: int, dtype: str) -> None:
    value = torch.zeros(1, classes)
    value[0, -1] = 1.0
    layout = Layout.of("logits", value, stored="float16", topk=1)
    assert layout.columns["logits/classes"].dtype == dtype
    assert there_and_back(value, topk=1).argmax().item() == classes - 1


def test_bytes_of_a_row() -> None:
    value = torch.zeros(2, 5, 1000)
    assert Layout.of("logits", value, stored="float16").bytes == 5 * 1000 * 2
    assert Layout.of("logits", value, stored="float16", topk=10).bytes == 5 * (10 * (2 + 2) + 4 + 4)


@pytest.mark.parametrize(
    ("value", "how", "message"),
    [
        (torch.zeros(2, 10), {"topk": 10}, "`logits` has 10 classes, and topk: 10 keeps no fewer: leave `topk` out"),
        (torch.zeros(2, 10), {"topk": 11}, "topk: 11 keeps no fewer"),
        (torch.zeros(2), {"topk": 1}, r"`logits` of shape \(2,\), float32, holds no scores of classes to rank"),
        (torch.zeros(2, 9, dtype=torch.long), {"topk": 1}, "int64, holds no scores of classes"),
        (torch.zeros(2, 9, dtype=torch.complex64), {}, "`logits` is complex64, which is not kept: known are float64"),
    ],
)
def test_what_cannot_be_kept_is_refused(value: Tensor, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.of("logits", value, stored="float16", **how)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, 7), r"has the shape \(7,\) in one batch and \(5,\) before.*or pack the signal"),
        (torch.zeros(2, 5, dtype=torch.float64), "is torch.float64 in one batch and float32 before"),
        (torch.full((2, 5), 7e4), "`logits` holds 7e[+]04, more than float16 can: .*`dtype: bfloat16`"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(value: Tensor, message: str) -> None:
    layout = Layout.of("logits", torch.zeros(2, 5), stored="float16")
    with pytest.raises(ValueError, match=message):
        layout.encode(value)


def test_the_word_for_lengths_is_the_one_that_signals_use() -> None:
    assert f"frames{LENGTHS}" == "frames.lengths"

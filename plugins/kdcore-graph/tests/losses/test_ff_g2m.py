from __future__ import annotations

import pytest
import torch
from naive import high, low

from kdcore_graph.losses.ff_g2m import FFG2M

EDGES = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 3, 2, 2]])


def signals(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {"logits": torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)}


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_the_slow_formula(temperature: float) -> None:
    student, teacher = signals(0), signals(1)
    found = FFG2M(low_temperature=temperature, high_temperature=temperature)(student, teacher, {"edges": EDGES})
    for name, slow, count in (("low", low, 9), ("high", high, 5)):
        assert int(found[name].count) == count
        expected = slow(student["logits"], teacher["logits"], EDGES, temperature)
        assert float(found[name].sum / found[name].count) == pytest.approx(expected, rel=1e-5)


def test_by_hand_a_student_equal_to_a_smooth_teacher_costs_nothing() -> None:
    flat = {"logits": torch.tensor([[1.0, 0.0]]).expand(4, 2)}
    found = FFG2M()(flat, flat, {"edges": EDGES})
    assert float(found["low"].sum) == pytest.approx(0, abs=1e-6)
    assert float(found["high"].sum) == pytest.approx(0, abs=1e-6)


def test_the_neighbour_teaches() -> None:
    # node 0 learns from node 1's answer, so equality with one's own teacher is not the minimum
    teacher = {"logits": torch.tensor([[5.0, 0.0], [0.0, 5.0]])}
    found = FFG2M()(teacher, teacher, {"edges": torch.tensor([[1], [0]])})
    assert float(found["low"].sum) > 1


def test_without_edges_it_counts_nodes_only() -> None:
    found = FFG2M()(signals(0), signals(1), {"edges": torch.empty(2, 0, dtype=torch.int64)})
    assert int(found["high"].count) == 0
    assert float(found["high"].sum) == 0
    assert int(found["low"].count) == 4


def test_a_batch_without_edges_is_refused() -> None:
    with pytest.raises(KeyError) as caught:
        FFG2M()(signals(0), signals(1), {})
    assert caught.value.args[0] == (
        "ff_g2m compares nodes with their neighbours, and this batch holds no `edges`: leave out `data.batch_size`, so "
        "that a batch is the whole graph, or add `data.fanout`"
    )


@pytest.mark.parametrize("name", ["low_temperature", "high_temperature"])
def test_a_temperature_of_nought_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"temperature=0.0 is not above 0"):
        FFG2M(**{name: 0.0})

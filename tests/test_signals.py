from __future__ import annotations

import pytest

from kdcore.signals import IGNORE, Batch, select_view


def test_no_view_is_the_batch_itself() -> None:
    batch: Batch = {"x": 1}

    assert select_view(batch, None) is batch


def test_a_view_is_laid_over_the_batch() -> None:
    batch: Batch = {"x": 1, "labels": 2, "views": {"weak": {"x": 10}}}

    assert select_view(batch, "weak") == {"x": 10, "labels": 2, "views": {"weak": {"x": 10}}}
    assert batch["x"] == 1


@pytest.mark.parametrize(
    ("batch", "known"),
    [({"views": {"weak": {}, "strong": {}}}, "strong, weak"), ({"views": {}}, "none"), ({}, "none")],
)
def test_an_unknown_view_lists_those_there_are(batch: Batch, known: str) -> None:
    with pytest.raises(KeyError, match=rf"no view `week` \(views: {known}\)"):
        select_view(batch, "week")


def test_ignored_labels_are_those_torch_ignores() -> None:
    torch = pytest.importorskip("torch")

    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORE

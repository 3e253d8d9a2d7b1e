from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.data.base import Treatment
from kdcore.data.loader import Batches

from kdcore_vision.data.images import Held, Images, Streamed, from_bytes


def held(n: int = 8) -> Held:
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()
    return from_bytes(images, torch.arange(n) % 2, torch.arange(n) + 100)


class Made(Images):
    def __init__(self, **given: Any) -> None:
        usual: dict[str, Any] = {"labels": None, "workers": 0}
        super().__init__(names=["a", "b"], channels=1, size=(2, 3), batch_size=4, **(usual | given))
        self.loads = 0

    def load(self, name: str) -> Held | None:
        self.loads += 1
        return None if name == "test" else held()


def test_what_it_says_of_itself():
    data = Made()
    assert data.facts == {
        "classes": 2, "channels": 1, "image_height": 2, "image_width": 3, "class_names": ["a", "b"],
    }  # fmt: skip
    assert data.class_names == ("a", "b")
    assert set(data.fact_names) == set(data.facts)


def test_a_split_is_loaded_once():
    data = Made(labels=4)
    assert data.split("train") is data.split("train")
    assert data.split("test") is None
    assert not data.has_test
    assert data.loads == 2


def test_few_labels_are_spread_evenly_and_depend_on_the_seed():
    one, other = Made(labels=4), Made(labels=4)
    other.seed = 1
    labels = one.split("train").labels
    assert sorted(labels[labels >= 0].tolist()) == [0, 0, 1, 1]
    assert (labels == -100).sum() == 4
    assert labels.tolist() != other.split("train").labels.tolist()
    assert (one.split("val").labels >= 0).all()


def test_pictures_without_a_label_may_go():
    data = Made(labels=4)
    data.treatment = Treatment(labelled=True)
    training = data.split("train")
    chosen = data.samples("train")
    assert len(chosen) == 4
    assert chosen.ids.tolist() == training.ids[training.labels >= 0].tolist()


def test_batches_are_bytes():
    batch = next(iter(Made().val_dataloader()))
    assert batch["image"].dtype == torch.uint8
    assert (batch["labels"].dtype, batch["id"].dtype) == (torch.int64, torch.int64)
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_streamed_pictures_are_the_same_ones():
    images = held()
    streamed = Streamed(lambda row: images.columns["image"][row], torch.arange(8), images.labels, images.ids)
    assert isinstance(images, Batches)
    assert not isinstance(streamed, Batches)
    some = streamed.relabelled(torch.full((8,), 1))
    assert some.labelled.all()
    sample = some[6]
    assert (sample["image"][0, 0, 0], sample["labels"], sample["id"]) == (6, 1, 106)
    assert held().relabelled(torch.full((8,), 1)).labels.tolist() == [1] * 8


def test_what_is_refused():
    with pytest.raises(ValueError, match="workers=-1: give 0 or more"):
        Made(workers=-1)
    with pytest.raises(ValueError, match="there are 1 classes: there must be at least two"):
        Images(names=["a"], channels=1, size=(2, 2), batch_size=1, labels=None, workers=0)
    with pytest.raises(NotImplementedError, match=r"Images does not implement load\(name\)"):
        Images(names="ab", channels=1, size=(2, 2), batch_size=1, labels=None, workers=0).split("val")

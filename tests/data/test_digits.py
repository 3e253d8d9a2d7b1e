"""The digits of scikit-learn: real, split once and for all."""

from __future__ import annotations

import builtins
import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.data.base import Split
from kdcore.data.digits import Digits
from kdcore.errors import RunError
from kdcore.signals import IGNORE

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="the digits are in scikit-learn")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def test_facts_fit_the_images(digits: Digits) -> None:
    image = digits.split("val").columns["image"]
    assert digits.facts == {"classes": 10, "channels": 1, "image_height": 8, "image_width": 8, "features": 64}
    assert tuple(digits.facts) == Digits.fact_names
    assert tuple(image.shape[1:]) == tuple(digits.facts[name] for name in ("channels", "image_height", "image_width"))
    assert image[0].numel() == digits.facts["features"]
    assert digits.class_names == tuple("0123456789")


def test_every_digit_is_in_one_split_with_its_own_image_and_label(digits: Digits) -> None:
    assert digits.split_sizes == {"train": 1000, "val": 297, "test": 500}
    columns = [digits.split(name).columns for name in SPLITS]
    whole = {name: torch.cat([column[name] for column in columns]) for name in ("id", "image", "labels")}
    assert sorted(whole["id"].tolist()) == list(range(1797))
    source = sklearn_datasets.load_digits()
    rows = whole["id"].numpy()
    np.testing.assert_array_equal(whole["labels"].numpy(), source.target[rows])
    np.testing.assert_array_equal(whole["image"][:, 0].numpy() * 16, source.images[rows])
    assert whole["image"].dtype == torch.float32
    assert (whole["image"].min(), whole["image"].max()) == (0, 1)


def test_each_split_holds_the_classes_in_proportion(digits: Digits) -> None:
    share = torch.bincount(torch.cat([digits.split(name).columns["labels"] for name in SPLITS])) / 1797
    for name in SPLITS:
        labels = digits.split(name).columns["labels"]
        assert (torch.bincount(labels) - share * len(labels)).abs().max() <= 2


def test_the_split_is_pinned_and_no_seed_moves_it(digits: Digits) -> None:
    """Changing it makes all accuracies ever reported incomparable."""
    other = Digits()
    other.seed = 5
    assert torch.equal(other.split("test").columns["id"], digits.split("test").columns["id"])
    tested = ",".join(map(str, sorted(digits.split("test").columns["id"].tolist())))
    assert hashlib.sha256(tested.encode()).hexdigest()[:16] == "52334db01289d64f"


@pytest.mark.parametrize("keep", [10, 100, 500])
def test_few_labels_are_even_over_the_classes_and_chosen_by_the_seed(digits: Digits, keep: int) -> None:
    chosen = []
    for seed in (0, 0, 1):
        few = Digits(labels=keep)
        few.seed = seed
        labels = few.split("train").columns["labels"]
        assert torch.bincount(labels[labels != IGNORE]).tolist() == [keep // 10] * 10
        known = labels != IGNORE
        assert torch.equal(labels[known], digits.split("train").columns["labels"][known])
        assert torch.equal(few.split("val").columns["labels"], digits.split("val").columns["labels"])
        chosen.append(known)
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


@pytest.mark.parametrize("keep", [9, 1001])
def test_an_impossible_number_of_labels_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=rf"labels={keep}: give from 10 .* to 1000"):
        Digits(labels=keep).train_dataloader()


def test_a_batch(digits: Digits) -> None:
    batch = next(iter(digits.train_dataloader()))
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "image": (128, 1, 8, 8),
        "labels": (128,),
        "id": (128,),
    }


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r"needs scikit-learn: pip install kdcore\[digits\]"):
        Digits().train_dataloader()

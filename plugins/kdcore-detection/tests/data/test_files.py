"""Pictures in files: held or streamed, of one size, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.data.base import Split
from kdcore.data.mix import Mix
from kdcore.errors import RunError
from pictures import picture

from kdcore_detection.data import files
from kdcore_detection.data.annotations import Annotated, Listing, annotated
from kdcore_detection.data.files import BoxedFiles
from kdcore_detection.data.samples import Held, Streamed

USUAL: dict[str, Any] = {
    "names": ["dog", "cat"], "batch_size": 2, "size": (32, 48), "fit": "stretch", "labels": None, "bad": "error",
    "keep": "memory", "workers": 0,
}  # fmt: skip


@pytest.fixture
def make(tmp_path: Path):
    """Three pictures of 40x60 to train on, one for validation; all boxes are the left half."""

    def build(samples: list[Annotated] | None = None, **given: Any) -> BoxedFiles:
        train = [sample(tmp_path, name) for name in "abc"] if samples is None else samples
        splits: dict[Split, Listing] = {
            "train": Listing(train, list(range(len(train)))),
            "val": Listing([sample(tmp_path, "v")], [1 << 32]),
        }
        return BoxedFiles(splits=splits, **{**USUAL, **given})

    return build


def sample(folder: Path, name: str, height: int = 40, width: int = 60, **picture_of: int) -> Annotated:
    path = picture(folder / f"{name}.png", **{"height": height, "width": width, **picture_of})
    box = [[0.0, 0.0, width / 2, height]]
    return annotated(path, (height, width), box, [1], f"{name}.xml")


@pytest.mark.parametrize(("keep", "kind"), [("memory", Held), ("disk", Streamed), ("auto", Held)])
def test_both_ways_give_the_same_batches(make, keep: str, kind: type):
    data = make(keep=keep)
    assert isinstance(data.split("train"), kind)
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (1, 3, 32, 48)
    assert batch["boxes"].tolist() == [[[0, 0, 24, 32]]]
    assert batch["box_labels"].tolist() == [[1]]
    assert batch["id"].tolist() == [1 << 32]
    expected = next(iter(make(keep="memory").val_dataloader()))
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert data.split("test") is None


def test_large_splits_stay_on_disk(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "AUTO_LIMIT", 3 * 3 * 32 * 48 - 1)
    data = make(keep="auto")
    assert isinstance(data.split("train"), Streamed)
    assert isinstance(data.split("val"), Held)


def test_streamed_through_workers(make):
    data = make(keep="disk", workers=1)
    batches = list(data.train_dataloader())
    assert sum(len(batch["id"]) for batch in batches) == 3
    assert not any(type(batch["boxes"]) is not torch.Tensor for batch in batches)


def test_facts(make):
    data = make()
    assert data.facts == {"classes": 2, "channels": 3, "image_height": 32, "image_width": 48}
    assert data.class_names == ("dog", "cat")
    assert data.split_sizes == {"train": 3, "val": 1}


def test_without_a_size_pictures_stay_as_they_are(make):
    data = make(size=None)
    assert (data.facts["image_height"], data.facts["image_width"]) == (40, 60)
    assert data.split("val")[0]["boxes"].tolist() == [[0, 0, 30, 40]]


def test_without_a_size_they_must_be_equal(make, tmp_path: Path):
    with pytest.raises(RunError) as error:
        make([sample(tmp_path, "a"), sample(tmp_path, "b", 41, 60)], size=None)
    assert str(error.value) == (
        f"{tmp_path}/b.png is 41x60, {tmp_path}/a.png is 40x60: set `size: [HEIGHT, WIDTH]`, to which all are brought"
    )


def test_a_damaged_picture(make, tmp_path: Path):
    good, bad = sample(tmp_path, "a"), sample(tmp_path, "b")
    bad.image.write_bytes(bad.image.read_bytes()[:60])
    with pytest.raises(RunError, match=r"b\.png: is damaged .* Mend it, or set `bad: skip` to go without"):
        make([good, bad]).split("train")
    for keep in ("memory", "disk"):
        data = make([good, bad], bad="skip", keep=keep)
        assert data.split_sizes["train"] == 1
        assert len(data.notes) == 1
        assert data.notes[0].startswith("1 of 2 samples of the split `train` were left out: ")
        assert list(data.split("train").ids) == [0]


def test_a_damaged_picture_that_is_streamed_stops_the_run(make, tmp_path: Path):
    good, bad = sample(tmp_path, "a"), sample(tmp_path, "b")
    bad.image.write_bytes(bad.image.read_bytes()[:60])
    samples = make([good, bad], keep="disk").split("train")
    with pytest.raises(RunError, match=r"b\.png: is damaged .* Mend it"):
        samples[1]


def test_a_missing_picture_is_found_at_the_start(make, tmp_path: Path):
    gone = sample(tmp_path, "a")
    gone.image.unlink()
    for keep in ("memory", "disk"):
        with pytest.raises(RunError, match=r"a\.png: there is no such file\. Mend it"):
            make([gone], keep=keep).split("train")
    with pytest.raises(RunError, match="none of the 1 samples of the split `train` can be used; the first: "):
        make([gone], bad="skip").split("train")


def test_a_picture_of_another_size_than_its_boxes_were_made_for(make, tmp_path: Path):
    turned = sample(tmp_path, "a")
    picture(turned.image, 60, 40)
    with pytest.raises(RunError) as error:
        make([turned]).split("train")
    assert str(error.value).startswith(
        f"{tmp_path}/a.png: is 60x40, but a.xml says 40x60: its boxes would be elsewhere. Mend it"
    )


def test_boxes_that_become_too_small_to_see_are_said(make, tmp_path: Path):
    path = sample(tmp_path, "a").image
    fine = [[0.0, 0.0, 30.0, 1.3], [0.0, 0.0, 1.2, 40.0], [0.0, 0.0, 1.3, 1.3]]  # 1.04, 0.96 and 1.04 of 32x48
    data = make([annotated(path, (40, 60), fine, [0, 1, 0], "a.xml")])
    batch = next(iter(data.train_dataloader()))
    assert batch["box_labels"].tolist() == [[0, 0]]
    assert data.notes == [
        "1 boxes of the split `train` are left out: in pictures of 32x48 they are less than a pixel high or wide"
    ]


def test_labels_of_some_pictures_are_hidden_by_seed(make):
    data = make(labels=1)
    data.seed = 3
    samples = data.split("train")
    assert sum(bool(samples[row]["boxes_known"]) for row in range(3)) == 1
    known = [bool(data.split("val")[0]["boxes_known"])]
    assert known == [True]
    chosen = set()
    for seed in range(12):
        data.seed = seed
        samples = data.split("train")
        chosen |= {row for row in range(3) if samples[row]["boxes_known"]}
    assert chosen == {0, 1, 2}


def test_hidden_boxes_in_a_mix(make):
    batch = next(iter(make().train_dataloader()))
    hidden = BoxedFiles.without_labels(batch)
    assert not hidden["boxes_known"].any()
    assert (hidden["box_labels"] == -100).all()


def test_a_mix_of_pictures_with_boxes_and_without(make, tmp_path: Path):
    full = sample(tmp_path, "u")
    many = annotated(full.image, full.size, [[0, 0, 9, 9], [9, 9, 20, 20], [5, 5, 30, 30]], [0, 1, 0], "u")
    mixed = Mix(labelled=make(), unlabelled=make([many] * 2), batch_size=5)
    batch = next(iter(mixed.train_dataloader()))
    known = batch["boxes_known"]
    assert int(known.sum()) == 3
    assert ((batch["box_labels"] != -100).any(1) == known).all()
    assert batch["boxes"].shape == (5, 1, 4)  # as many as the known ones need


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": (1, 40)}, r"size=\[1, 40\]: give \[height, width\] in pixels"),
        ({"workers": -1}, "workers=-1: give 0 or more"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_what_cannot_be(make, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**given)

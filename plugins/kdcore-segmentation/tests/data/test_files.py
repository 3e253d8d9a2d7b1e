"""What all data in files shares: reading once, keeping, and what is done about files that are no good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdcore.data.loader import Batches
from kdcore.errors import RunError
from pictures import Draw

from kdcore_segmentation.data import files
from kdcore_segmentation.data.files import ImageMasks
from kdcore_segmentation.data.folders import Folders
from kdcore_segmentation.data.reading import Pair, Reader


def data(path: Path, **keys: Any) -> ImageMasks:
    return Folders(**{"path": path, "classes": 3, "batch_size": 4, "validation": 0.2, **keys})


def batches(found: ImageMasks, split: str = "val") -> list[dict[str, Any]]:
    return list(found.val_dataloader() if split == "val" else found.train_dataloader())


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_a_batch_is_what_a_task_reads(folders: Path, keep: str):
    found = data(folders, keep=keep)
    assert found.split_sizes == {"train": 8, "val": 2}
    (batch,) = batches(found)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()} == {
        "image": (torch.float32, (2, 3, 6, 8)),
        "labels": (torch.int64, (2, 6, 8)),
        "id": (torch.int64, (2,)),
    }
    assert batch["labels"][0, :, 0].tolist() == [0, 1, 2, 0, 1, 2]
    for image, number in zip(batch["image"], batch["id"].tolist(), strict=True):
        assert image[2].unique().item() == pytest.approx(10 * number / 255)  # the id is the place in the folder
        assert image[0, 5, 0].item() == pytest.approx(5 / 255)


def test_disk_and_memory_give_the_same(folders: Path):
    kept, read = (batches(data(folders, keep=keep, size=(4, 4)), "train") for keep in ("memory", "disk"))
    assert len(kept) == len(read) == 2
    for ours, theirs in zip(kept, read, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_ignored_is_minus_100(folders: Path, mask: Draw):
    values = np.full((6, 8), 255)
    values[0, 0] = 1
    for number in range(10):
        mask(f"masks/{number}.png", values=values)
    (batch,) = batches(data(folders))
    assert batch["labels"][0, 0, :2].tolist() == [1, -100]
    assert (batch["labels"] == -100).sum() == 2 * 47


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Pair]:
    """Every pair that is read from now on."""
    calls: list[Pair] = []
    read = Reader.read
    monkeypatch.setattr(Reader, "read", lambda reader, pair: calls.append(pair) or read(reader, pair))
    return calls


def test_files_in_memory_are_decoded_once_and_given_a_batch_at_a_time(folders: Path, monkeypatch: pytest.MonkeyPatch):
    found, calls = data(folders), counted(monkeypatch)
    for _ in range(3):
        batches(found, "train")
    assert len(calls) == 8
    assert isinstance(found.split("train"), Batches)
    assert found.split("train").ids.tolist() == [pair.id for pair in calls]


def test_files_on_disk_are_decoded_when_they_are_wanted(folders: Path, monkeypatch: pytest.MonkeyPatch):
    found, calls = data(folders, keep="disk"), counted(monkeypatch)
    samples = found.split("train")
    assert calls == []
    batches(found, "train")
    batches(found, "train")
    assert len(calls) == 16
    assert samples.ids.tolist() == sorted({pair.id for pair in calls})


def test_a_batch_in_memory_does_not_share_it(folders: Path):
    samples = data(folders).split("train")
    first = samples.__getitems__([0])
    first["image"].zero_(), first["labels"].zero_(), first["id"].zero_()
    again = samples.__getitems__([0, 1])
    assert again["image"].sum() > 0
    assert again["labels"].sum() > 0
    assert again["id"][1] > 0


def test_facts_are_those_of_whole_images(folders: Path):
    assert data(folders).facts == {"classes": 3, "channels": 3, "image_height": 6, "image_width": 8}
    resized = data(folders, size=(4, 5))
    assert (resized.facts["image_height"], resized.facts["image_width"]) == (4, 5)
    (batch,) = batches(resized)
    assert batch["image"].shape[2:] == batch["labels"].shape[1:] == (4, 5)


def test_there_is_no_test_split_unless_there_is_one(folders: Path):
    assert not data(folders).has_test
    assert data(folders, test=0.2).split_sizes == {"train": 6, "val": 2, "test": 2}


def test_workers_only_read_from_disk(folders: Path):
    assert data(folders, workers=2).workers == 0
    assert data(folders, workers=2, keep="disk").workers == 2


@pytest.mark.slow
def test_a_worker_gives_the_same(folders: Path):
    here, there = (batches(data(folders, keep="disk", workers=count)) for count in (0, 1))
    assert all(torch.equal(here[0][name], there[0][name]) for name in here[0])


# --- bad files --------------------------------------------------------------------------------------------------------

BAD = ["value", "sizes", "void", "jpeg", "pixel", "missing"]


def spoil(folder: Path, image: Draw, mask: Draw, how: str, number: int) -> str:
    """Make one sample bad; returns what the message about it must say, with the file."""
    if how == "value":
        mask(f"masks/{number}.png", values=np.full((6, 8), 9))
        return f"{number}.png: holds the value 9, which is no class"
    if how == "sizes":
        mask(f"masks/{number}.png", width=9)
        return f"{number}.png: is 6x9, but its image"
    if how == "void":
        mask(f"masks/{number}.png", values=np.full((6, 8), 255))
        return f"{number}.png: holds no class at all"
    if how == "jpeg":
        (folder / f"images/{number}.png").unlink()
        path = image(f"images/{number}.jpg", height=64, width=64)
        mask(f"masks/{number}.png", height=64, width=64)
        path.write_bytes(path.read_bytes()[:-200])
        return f"{number}.jpg: is damaged (OSError: image file is truncated"
    if how == "pixel":
        image(f"images/{number}.png", height=1, width=1)
        mask(f"masks/{number}.png", height=1, width=1)
        return f"{number}.png: is 1x1 pixels, which is no picture"
    (folder / f"masks/{number}.png").unlink()
    return f"{number}.png: there is no such file"


def a_number_of(folder: Path, split: str = "train") -> int:
    """The number of a sample of a split, not its first: the first one tells the size of all."""
    return int(data(folder).split(split).ids[-1])


@pytest.mark.parametrize("keep", ["memory", "disk"])
@pytest.mark.parametrize("how", BAD)
def test_a_bad_sample_stops_the_run_and_is_named(folders: Path, image: Draw, mask: Draw, how: str, keep: str):
    said = spoil(folders, image, mask, how, a_number_of(folders))
    with pytest.raises(RunError) as error:
        batches(data(folders, keep=keep, size=(6, 8)), "train")
    assert said in str(error.value)
    assert str(error.value).startswith(str(folders))
    assert str(error.value).endswith("Mend it, or set `bad: skip` to go without")


@pytest.mark.parametrize("keep", ["memory", "disk"])
@pytest.mark.parametrize("how", BAD)
def test_a_bad_sample_is_left_out_and_counted(folders: Path, image: Draw, mask: Draw, how: str, keep: str):
    number = a_number_of(folders)
    said = spoil(folders, image, mask, how, number)
    found = data(folders, keep=keep, bad="skip", size=(6, 8))
    assert found.notes == []  # nothing is read yet
    ids = torch.cat([batch["id"] for batch in batches(found, "train")]).tolist()
    assert len(ids) == 7
    assert number not in ids
    assert found.split_sizes == {"train": 7, "val": 2}
    (note,) = found.notes
    assert note.startswith("1 of 8 samples of the split `train` were left out: ")
    assert said in note


def test_the_ids_of_the_others_stay(folders: Path, image: Draw, mask: Draw):
    before = data(folders).split("train").ids.tolist()
    spoil(folders, image, mask, "value", before[2])
    assert data(folders, bad="skip").split("train").ids.tolist() == [*before[:2], *before[3:]]


def test_a_good_set_has_no_notes(folders: Path):
    found = data(folders, bad="skip")
    batches(found, "train")
    assert found.notes == []


def test_of_many_bad_samples_three_are_named(folders: Path, image: Draw, mask: Draw):
    for number in data(folders).split("train").ids.tolist()[1:]:
        spoil(folders, image, mask, "value", number)
    found = data(folders, bad="skip")
    assert len(found.split("train")) == 1
    assert found.notes[0].startswith("7 of 8 samples of the split `train` were left out: ")
    assert found.notes[0].count("holds the value 9") == 3
    assert found.notes[0].endswith(" (and 4 more)")


def test_a_split_without_any_good_sample(folders: Path, image: Draw, mask: Draw):
    for number in range(10):
        spoil(folders, image, mask, "value", number)
    with pytest.raises(RunError, match=r"none of the 8 samples of the split `train` can be used; the first: .*value 9"):
        data(folders, bad="skip").split("train")


def test_the_size_is_that_of_the_first_image_that_can_be_read(folders: Path):
    first = folders / "images" / f"{int(data(folders).split('train').ids[0])}.png"
    first.write_text("nothing")
    with pytest.raises(RunError, match=r"is no picture that can be read .*Mend it, or set `bad: skip`"):
        data(folders)
    assert data(folders, bad="skip").facts["image_width"] == 8
    assert len(data(folders, bad="skip").split("train")) == 7


def test_a_first_image_of_one_pixel_does_not_tell_the_size(folders: Path, image: Draw, mask: Draw):
    first = int(data(folders).split("train").ids[0])
    spoil(folders, image, mask, "pixel", first)
    with pytest.raises(RunError, match=rf"{first}\.png: is 1x1 pixels, which is no picture"):
        data(folders)
    assert data(folders, bad="skip").facts["image_width"] == 8


def test_no_image_at_all_can_be_read(folders: Path):
    for path in (folders / "images").iterdir():
        path.write_text("nothing")
    with pytest.raises(RunError, match="neither this nor any other training image can be read"):
        data(folders, bad="skip")


@pytest.mark.parametrize("bad", ["error", "skip"])
def test_images_of_several_sizes_need_one(folders: Path, image: Draw, mask: Draw, bad: str):
    number = a_number_of(folders)
    image(f"images/{number}.png", width=9)
    mask(f"masks/{number}.png", width=9)
    with pytest.raises(
        RunError, match=rf"{number}\.png: is 6x9, the first image is 6x8: set `size: \[HEIGHT, WIDTH\]`"
    ):
        data(folders, bad=bad).split("train")
    assert len(data(folders, bad=bad, size=(6, 8)).split("train")) == 8


def test_too_much_for_memory(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MEMORY_LIMIT", 8 * 4 * 6 * 8 - 1)
    with pytest.raises(RunError, match=r"8 samples of 6x8 would take .* set a smaller `size`, or `keep: disk`"):
        data(folders).split("train")
    assert len(data(folders, keep="disk").split("train")) == 8
    assert len(data(folders, size=(6, 7)).split("train")) == 8


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": (1, 8)}, r"size=\[1, 8\]: give \[height, width\] in pixels"),
        ({"workers": -1}, "workers=-1: give 0 or more"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_numbers_that_make_no_sense(folders: Path, keys: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        data(folders, **keys)

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Draw
from kdcore.errors import RunError
from PIL import Image

from kdcore_vision.data import files
from kdcore_vision.data.folders import Folders
from kdcore_vision.data.images import Held, Streamed


def data(path: Path, **given: Any) -> Folders:
    return Folders(path=path, validation=0.2, **given)


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_memory_and_disk_give_the_same(folders: Path, keep: str):
    made, other = data(folders, keep=keep), data(folders, keep="memory")
    assert isinstance(made.split("train"), Held if keep == "memory" else Streamed)
    ours, theirs = (next(iter(one.val_dataloader())) for one in (made, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ("image", "labels", "id"))
    assert len(ours["id"]) == 4


def test_auto_keeps_what_is_small(folders: Path, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(data(folders).split("train"), Held)
    monkeypatch.setattr(files, "AUTO_LIMIT", 16 * 3 * 6 * 8 - 1)
    assert isinstance(data(folders).split("train"), Streamed)
    assert isinstance(data(folders).split("val"), Held)


def test_all_get_the_size_that_is_asked_for(folders: Path, picture: Draw):
    picture("pictures/ant/tall.png", height=90)
    made = data(folders, size=(5, 4))
    assert made.facts["image_height"] == 5
    assert made.split("train").columns["image"].shape[1:] == (3, 5, 4)


def test_sizes_that_differ_are_named(folders: Path, picture: Draw):
    path = picture("pictures/ant/tall.png", height=90)
    made = Folders(path=folders, validation=0.2)
    with pytest.raises(RunError, match=rf"{path}: is 90x8, the first picture is 6x8: set `size: \[HEIGHT, WIDTH\]`"):
        (made.split("train"), made.split("val"))


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_a_bad_picture_stops_the_run(folders: Path, keep: str):
    (folders / "ant" / "3.png").write_bytes(b"")
    made = data(folders, keep=keep)
    with pytest.raises(RunError, match=r"ant/3.png: is an empty file. Mend it, or set `bad: skip` to go without$"):
        (made.split("train"), made.split("val"))


def damage(folders: Path) -> None:
    Image.effect_noise((64, 64), 90).save(folders / "bee" / "noise.jpg")
    content = (folders / "bee" / "noise.jpg").read_bytes()
    (folders / "bee" / "noise.jpg").write_bytes(content[: len(content) // 2])  # its header is good
    (folders / "ant" / "3.png").write_bytes(b"")


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_or_is_left_out_and_said(folders: Path, keep: str):
    damage(folders)
    made = data(folders, keep=keep, bad="skip", size=(6, 8))
    assert len(made.split("train")) + len(made.split("val")) == 19
    said = " | ".join(made.notes)
    assert said.count("left out") >= 1
    assert "ant/3.png: is an empty file" in said
    assert "noise.jpg: is damaged" in said
    assert all(batch["image"].shape[1:] == (3, 6, 8) for batch in made.train_dataloader())


def test_a_picture_that_goes_bad_later_is_named(folders: Path):
    made = data(folders, keep="disk", bad="skip")
    training = made.split("train")
    for path in folders.rglob("*.png"):
        path.unlink()
    with pytest.raises(RunError, match=r"there is no such file. Mend it"):
        training[0]


def test_no_picture_at_all_can_be_used(folders: Path):
    for path in folders.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="neither this nor any other training picture can be read"):
        data(folders, bad="skip")
    with pytest.raises(RunError, match=r"none of the \d+ samples of the split `train` can be used; the first: .*0.png"):
        data(folders, bad="skip", size=(4, 4)).split("train")
    with pytest.raises(RunError, match=r"is an empty file. Mend it"):
        data(folders)


def test_many_that_are_left_out_are_counted(folders: Path):
    for number in range(6):
        (folders / "ant" / f"{number}.png").write_bytes(b"")
    made = Folders(path=folders, validation=0.01, bad="skip", size=(4, 4))
    (made.split("train"), made.split("val"))
    (said,) = [note for note in made.notes if "`train`" in note]
    assert said.startswith(("6 of 18", "5 of 18"))
    assert said.endswith(("(and 3 more)", "(and 2 more)"))


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_what_was_converted_is_said(folders: Path, picture: Draw, keep: str):
    for number in range(10):
        picture(f"pictures/ant/{number}.png", mode="L")
    picture("pictures/bee/print.tif", mode="CMYK")
    made = data(folders, keep=keep)
    (made.split("train"), made.split("val"))
    said = " | ".join(made.notes)
    assert "of 17 pictures of the split `train` these were converted to RGB: 8 grey" in said
    assert "2 grey" in said
    assert "1 CMYK" in said


def test_workers_are_sent_a_reader(folders: Path):
    streamed = data(folders, keep="disk").split("train")
    copied = pickle.loads(pickle.dumps(streamed))
    assert torch.equal(copied[3]["image"], streamed[3]["image"])


def test_workers_give_the_same_batches(folders: Path):
    ours, theirs = (list(data(folders, keep="disk", workers=n, batch_size=7).train_dataloader()) for n in (0, 1))
    assert all(
        torch.equal(a["id"], b["id"]) and torch.equal(a["image"], b["image"]) for a, b in zip(ours, theirs, strict=True)
    )


def test_a_size_that_is_none(folders: Path):
    with pytest.raises(ValueError, match=r"size=\[0, 8\]: give \[height, width\] in pixels"):
        data(folders, size=(0, 8))

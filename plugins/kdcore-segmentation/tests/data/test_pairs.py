from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import RunError
from pictures import Draw

from kdcore_segmentation.data.pairs import held_out, matching
from kdcore_segmentation.data.reading import Pair


def pairs(count: int) -> list[Pair]:
    return [Pair(Path(f"folder/{i}.png"), Path(f"{i}.png"), i) for i in range(count)]


def test_names_match_whatever_the_endings(tmp_path: Path, image: Draw, mask: Draw):
    image("images/b.jpg")
    image("images/a.png")
    image("images/c.JPEG")
    mask("masks/a.png")
    mask("masks/b.tif")
    mask("masks/c.gif")
    mask("masks/unused.png")
    found = matching(tmp_path / "images", tmp_path / "masks")
    assert [(pair.image.name, pair.mask.name, pair.id) for pair in found] == [
        ("a.png", "a.png", 0),
        ("b.jpg", "b.tif", 1),
        ("c.JPEG", "c.gif", 2),
    ]


def test_other_files_are_passed_over(tmp_path: Path, image: Draw):
    image("images/a.png")
    image("images/.hidden.png")
    (tmp_path / "images" / "Thumbs.db").write_text("")
    (tmp_path / "masks").mkdir()
    assert [pair.image.name for pair in matching(tmp_path / "images", tmp_path / "masks")] == ["a.png"]


def test_an_image_without_a_mask_gets_the_name_it_should_have(tmp_path: Path, image: Draw):
    image("images/a.png")
    (tmp_path / "masks").mkdir()
    assert matching(tmp_path / "images", tmp_path / "masks")[0].mask == tmp_path / "masks" / "a.png"


def test_ids_of_the_splits_never_meet(tmp_path: Path, image: Draw):
    image("images/a.png")
    (tmp_path / "masks").mkdir()
    ids = [matching(tmp_path / "images", tmp_path / "masks", split=split)[0].id for split in ("train", "val", "test")]
    assert ids == [0, 1 << 32, 2 << 32]


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_a_missing_folder(tmp_path: Path, image: Draw, mask: Draw, missing: str):
    image("images/a.png")
    mask("masks/a.png")
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{missing}: there is no such folder"):
        matching(tmp_path / "images", tmp_path / "masks")


def test_an_empty_folder(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(RunError, match=r"images: holds no image \(looked for \.jpg, \.jpeg, \.png"):
        matching(tmp_path / "images", tmp_path / "masks")


def test_two_files_of_one_name(tmp_path: Path, image: Draw):
    image("images/a.png")
    image("images/a.jpg")
    (tmp_path / "masks").mkdir()
    with pytest.raises(RunError, match=r"images: a\.jpg and a\.png share a name"):
        matching(tmp_path / "images", tmp_path / "masks")


# --- held out ---------------------------------------------------------------------------------------------------------


def test_shares_are_fixed_and_do_not_overlap():
    first, second = (held_out(pairs(20), 0.2, 0.1) for _ in range(2))
    assert first == second
    assert {name: len(found) for name, found in first.items()} == {"train": 14, "val": 4, "test": 2}
    ids = [pair.id for found in first.values() for pair in found]
    assert sorted(ids) == list(range(20))
    assert first["val"] != pairs(20)[:4]  # chosen at random
    assert [pair.id for pair in first["train"]] == sorted(pair.id for pair in first["train"])


def test_no_share_no_split():
    assert set(held_out(pairs(10), 0.1, 0.0)) == {"train", "val"}


def test_a_small_share_is_one_image():
    assert len(held_out(pairs(3), 0.01, 0.0)["val"]) == 1


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.1), (0.5, 0.5), (0.1, -0.1), (1.0, 0.0)])
def test_shares_that_leave_nothing(validation: float, test: float):
    with pytest.raises(ValueError, match=f"validation={validation} and test={test}: give shares"):
        held_out(pairs(10), validation, test)


def test_too_few_images_to_hold_any_out():
    with pytest.raises(RunError, match="folder: holds 1 images, too few to hold some out for validation"):
        held_out(pairs(1), 0.1, 0.0)

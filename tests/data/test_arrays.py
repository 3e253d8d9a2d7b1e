"""Data from a NumPy archive: what is read, and what is said when it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from kdcore.data.arrays import Arrays, Columns
from kdcore.errors import RunError
from kdcore.signals import IGNORE

if TYPE_CHECKING:
    from pathlib import Path

Y = np.arange(60) % 3


def archive(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "data.npz"
    random = np.random.default_rng(0)
    arrays = {"x": random.random((60, 2, 4, 5)), "y": Y} | arrays
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def train_batch(data: Arrays) -> dict[str, Any]:
    data.batch_size = 1000
    return next(iter(data.train_dataloader()))


# --- Columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0])])
def test_columns_give_a_batch_of_copies(index: Any) -> None:
    x = torch.arange(6.0).view(3, 2)
    columns = Columns({"id": torch.arange(3), "x": x})
    batch = columns.__getitems__(index)
    assert {name: column.tolist() for name, column in batch.items()} == {"id": [2, 0], "x": [[4, 5], [0, 1]]}
    batch["x"].zero_()
    assert x[2].tolist() == [4, 5]
    assert len(columns) == 3


def test_columns_need_equal_lengths() -> None:
    with pytest.raises(ValueError, match=r"different lengths: \{'id': 3, 'x': 2\}"):
        Columns({"id": torch.arange(3), "x": torch.zeros(2)})


def test_columns_need_ids() -> None:
    with pytest.raises(ValueError, match=r"the columns x, labels lack `id`"):
        Columns({"x": torch.zeros(2), "labels": torch.zeros(2)})


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "sample", "facts"),
    [
        ((60, 2, 4, 5), (2, 4, 5), {"channels": 2, "image_height": 4, "image_width": 5, "features": 40}),
        ((60, 4, 5), (1, 4, 5), {"channels": 1, "image_height": 4, "image_width": 5, "features": 20}),
        ((60, 7), (7,), {"features": 7}),
    ],
)
def test_shapes_and_facts(tmp_path: Path, shape: tuple[int, ...], sample: tuple[int, ...], facts: Any) -> None:
    x = np.random.default_rng(1).random(shape)
    data = Arrays(path=archive(tmp_path, x=x))
    assert data.facts == {"classes": 3, **facts}
    assert set(data.facts) <= set(Arrays.fact_names)
    batch = train_batch(data)
    assert batch["image"].shape == (48, *sample)
    assert batch["image"].dtype == torch.float32
    rows = batch["id"].numpy()
    np.testing.assert_allclose(batch["image"].numpy(), x[rows].reshape(48, *sample), rtol=1e-6)
    np.testing.assert_array_equal(batch["labels"].numpy(), Y[rows])
    assert batch["labels"].dtype == batch["id"].dtype == torch.int64
    assert set(batch) == {"id", "image", "labels"}


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", 1.0), ("int16", 255.0), ("uint16", 255.0), ("float64", 255.0), ("float16", 255.0)]
)
def test_only_uint8_is_scaled(tmp_path: Path, dtype: str, expected: float) -> None:
    x = np.full((60, 4, 4), 255, dtype=dtype)
    assert train_batch(Arrays(path=archive(tmp_path, x=x)))["image"].unique().tolist() == [expected]


def test_split_is_a_fixed_share_of_each_class(tmp_path: Path) -> None:
    data = Arrays(path=archive(tmp_path), validation=0.2, test=0.1)
    assert data.split_sizes == {"train": 42, "val": 12, "test": 6}
    ids = {}
    for name in ("train", "val", "test"):
        columns = data.split(name).columns  # type: ignore[union-attr, arg-type]
        assert torch.bincount(columns["labels"]).tolist() == [len(columns["id"]) // 3] * 3
        ids[name] = set(columns["id"].tolist())
    assert set.union(*ids.values()) == set(range(60))
    other = Arrays(path=archive(tmp_path), validation=0.2, test=0.1)
    other.seed = 7
    assert set(other.split("test").columns["id"].tolist()) == ids["test"]  # type: ignore[union-attr]


def test_no_test_split_on_request(tmp_path: Path) -> None:
    data = Arrays(path=archive(tmp_path), test=0.0)
    assert not data.has_test
    assert data.split_sizes == {"train": 54, "val": 6}


def test_a_given_split_is_taken_as_it_is(tmp_path: Path) -> None:
    split = np.array(["val", "train", "train"] * 20)
    data = Arrays(path=archive(tmp_path, split=split), validation=0.5, test=0.4)
    assert data.split_sizes == {"train": 40, "val": 20}
    assert data.split("val").columns["id"].tolist() == list(range(0, 60, 3))  # type: ignore[union-attr]


def test_labels_keeps_a_few_in_training_only_and_follows_the_seed(tmp_path: Path) -> None:
    data = Arrays(path=archive(tmp_path), labels=6)
    kept = {}
    for seed in (0, 1):
        data.seed = seed
        labels = data.split("train").columns["labels"]  # type: ignore[union-attr]
        assert torch.bincount(labels[labels != IGNORE]).tolist() == [2, 2, 2]
        kept[seed] = labels.tolist()
    assert kept[0] != kept[1]
    assert IGNORE not in data.split("val").columns["labels"].tolist()  # type: ignore[union-attr]
    data.seed = 0
    assert data.split("train").columns["labels"].tolist() == kept[0]  # type: ignore[union-attr]


def test_samples_without_a_label_are_welcome(tmp_path: Path) -> None:
    y = Y.copy()
    y[:10] = IGNORE
    data = Arrays(path=archive(tmp_path, y=y))
    assert data.facts["classes"] == 3
    assert sum(data.split_sizes.values()) == 60


# --- what is refused --------------------------------------------------------------------------------------------------

X = np.zeros((60, 4, 4))


def broken(row: int, value: float) -> Any:
    x = X.copy()
    x[row, 1, 1] = value
    x[row + 5, 1, 1] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": None, "images": X}, r"lacks the array `y` \(it holds: x, images\)"),
        ({"x": None, "y": None}, r"lacks the array `x` and `y` \(it holds: nothing\)"),
        ({"x": np.array([object()] * 60)}, "`x` holds Python objects, which are not read: store numbers or text"),
        ({"y": np.array([None] * 60)}, "`y` holds Python objects"),
        ({"x": np.array(["a"] * 60)}, "`x` has the type <U1: give numbers"),
        ({"x": np.zeros((60, 2), complex)}, "`x` has the type complex128"),
        ({"x": np.zeros(60)}, r"`x` has the shape \(60,\): give \(N, F\), \(N, H, W\) or \(N, C, H, W\)"),
        ({"x": np.zeros((60, 1, 1, 1, 1))}, r"`x` has the shape \(60, 1, 1, 1, 1\)"),
        ({"x": np.zeros((0, 4, 4)), "y": Y[:0]}, r"`x` has the shape \(0, 4, 4\)"),
        ({"x": X[:59]}, "`x` has 59 rows and `y` has 60"),
        ({"x": broken(17, np.nan)}, "`x` holds NaN or infinity in 2 of 60 rows, first in row 17"),
        ({"x": broken(3, np.inf)}, "first in row 3"),
        ({"x": broken(3, 1e300)}, "first in row 3"),
        ({"y": Y.astype(float)}, r"`y` has the type float64 and the shape \(60,\): give class numbers"),
        ({"y": Y[:, None]}, r"`y` has the type int64 and the shape \(60, 1\)"),
        ({"y": Y - 1}, f"`y` holds -1 in row 0: class numbers start at 0, and {IGNORE} means no label"),
        ({"y": Y + 1}, r"`y` goes up to 3, but no sample has class 0: number the classes 0..K-1 without gaps"),
        ({"y": Y * 2}, "`y` goes up to 4, but no sample has class 1"),
        ({"y": np.full(60, 10**15)}, "goes up to 1000000000000000, but no sample has class 0"),
        ({"y": np.full(60, IGNORE)}, "`y` holds no label"),
        ({"split": np.array(["train"] * 59)}, r"`split` has the shape \(59,\), `x` has 60 rows"),
        ({"split": np.array(["train", "dev", "valid"] * 20)}, "`split` holds 'dev', 'valid': write 'train', 'val'"),
        ({"split": np.arange(60) % 2}, "`split` holds '0', '1': write"),
        ({"split": np.array(["train", "test"] * 30)}, "no row is left for the val split"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = archive(tmp_path, **arrays)
    with pytest.raises(RunError, match=message) as error:
        Arrays(path=path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\.npz: there is no such file"):
        Arrays(path=tmp_path / "nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short", b"\x80\x04pickle"])
def test_a_file_that_is_no_archive_is_refused_unread(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"is not a NumPy archive: write it with numpy\.savez"):
        Arrays(path=path)


def test_a_bare_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    np.save(path, X)
    with pytest.raises(RunError, match="holds one bare array: write it with"):
        Arrays(path=path)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(RunError, match="`x` is damaged: Bad CRC-32"):
        Arrays(path=path)


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.1), (0.6, 0.4), (-0.1, 0.1), (0.1, -0.1), (float("nan"), 0)])
def test_shares_that_leave_nothing_are_refused(tmp_path: Path, validation: float, test: float) -> None:
    with pytest.raises(ValueError, match=f"validation={validation} and test={test}: give shares of the data"):
        Arrays(path=archive(tmp_path), validation=validation, test=test)


def test_too_little_data_for_its_shares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no row is left for the val split"):
        Arrays(path=archive(tmp_path), validation=0.001)


def test_too_many_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels=49: give from 3 \(one for each class\) to 48"):
        Arrays(path=archive(tmp_path), labels=49).train_dataloader()

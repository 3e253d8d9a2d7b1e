from __future__ import annotations

import os
from pathlib import Path

import pytest
from files import model_folder
from transformers.utils import logging

from kdcore.errors import RunError
from kdcore_specdec.sources import Source, on_disk, on_hub, quietly


def test_folders_files_and_names(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert on_disk(tmp_path) == Source(str(tmp_path))
    assert on_disk(tmp_path / "model.gguf") == Source(str(tmp_path), gguf_file="model.gguf")
    assert on_hub("owner/name") == Source("owner/name")
    assert on_hub("owner/name@abc").options == {"revision": "abc"}
    assert str(on_hub("owner/name@abc")) == "owner/name@abc"
    assert str(on_disk(tmp_path / "model.gguf")) == str(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/name@", "/owner", "./name"])
def test_what_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(RunError, match="is no model of the hub: write OWNER/NAME or OWNER/NAME@REVISION"):
        on_hub(name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing: there is no such folder: give one that `save_pretrained` has written"):
        on_disk(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"x\.gguf: there is no such file"):
        on_disk(tmp_path / "x.gguf")
    with pytest.raises(RunError, match="transformers finds no model there: "):
        on_disk(tmp_path).config()


def test_rows_of_a_head(tmp_path: Path) -> None:
    assert on_disk(model_folder(tmp_path / "model", vocabulary=40)).rows() == 40
    assert on_disk(tmp_path).rows() is None


def test_quiet_is_only_for_the_time_being() -> None:
    level = logging.get_verbosity()
    assert logging.is_progress_bar_enabled()
    with quietly():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
        with quietly():
            pass
        assert not logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == level
    assert logging.is_progress_bar_enabled()


def test_a_folder_is_read_again_only_when_it_was_written(tmp_path: Path) -> None:
    source = on_disk(model_folder(tmp_path / "model", vocabulary=40))
    first = source.config()
    first.vocab_size = 1  # a caller's own
    assert source.config().vocab_size == 40
    config = tmp_path / "model" / "config.json"
    before = config.stat().st_mtime_ns
    config.write_text(config.read_text().replace('"vocab_size": 40', '"vocab_size": 41'))
    os.utime(config, ns=(before, before))
    assert source.config().vocab_size == 40
    os.utime(config, ns=(before, before + 1))
    assert source.config().vocab_size == 41

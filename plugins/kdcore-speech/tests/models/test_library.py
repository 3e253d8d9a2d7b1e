"""What is common to nets of transformers; messages that depend on the kind of net are tested with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.utils import logging

from kdcore_speech.models.library import checked, first_line, loaded, quietly, refuse_fresh, settings_of, source_of
from small import SSL


def test_a_source_is_a_folder_or_a_name(tmp_path: Path):
    assert source_of(None, None) is None
    assert source_of(tmp_path, None) == str(tmp_path)
    assert source_of(None, "owner/name") == "owner/name"


def test_options_are_a_copy():
    given = {"hidden_size": 8}
    found = checked(given, HubertConfig)
    assert found == given
    assert found is not given
    assert checked(None, HubertConfig) == {}


def test_weights_are_float32_and_what_is_missing_is_told(tmp_path: Path):
    HubertModel(HubertConfig(**SSL)).half().save_pretrained(tmp_path)
    net, fresh = loaded(AutoModel, str(tmp_path), {"num_hidden_layers": 3})
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    assert fresh
    assert all(name.startswith("encoder.layers.2.") for name in fresh)
    refuse_fresh("here", fresh, head="encoder.")
    says = rf"^`here` does not fit: {len(fresh)} weights below the head are missing, first `encoder\.layers\.2\."
    with pytest.raises(ValueError, match=says):
        refuse_fresh("here", fresh, head="lm_head.")


def test_settings_are_those_that_were_saved(tmp_path: Path):
    assert settings_of(str(tmp_path)) == {}
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    assert settings_of(str(tmp_path))["sampling_rate"] == 8000


def test_the_library_is_quiet_for_the_time_being():
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quietly():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_error_says_something():
    assert first_line(OSError("one\ntwo")) == "one"
    assert first_line(OSError("")) == "OSError"

from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import RunError
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from kdcore_speech.byte_pairs import BYTES, END, BytePairs, read_byte_pairs


def save(folder: Path, *special: str) -> Path:
    """A tokenizer of all bytes and a few words, as Whisper's is made."""
    letters = sorted(BYTES)
    words = ["Ġt", "Ġth", "he", "Ġthe"]
    tokenizer = Tokenizer(
        BPE(
            vocab={token: place for place, token in enumerate([*letters, *words])},
            merges=[("Ġ", "t"), ("h", "e"), ("Ġt", "he")],
        )
    )
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def vocabulary(tmp_path: Path) -> BytePairs:
    return read_byte_pairs(save(tmp_path, END, "<|en|>"))


def test_bytes_are_gpt_2_s():
    assert len(BYTES) == 256
    assert sorted(BYTES.values()) == list(range(256))
    assert set(BYTES) == set(ByteLevel.alphabet())
    assert (BYTES["Ġ"], BYTES["A"], BYTES["Ċ"]) == (ord(" "), ord("A"), ord("\n"))


def test_its_size_and_its_end(vocabulary: BytePairs):
    assert len(vocabulary) == 256 + 4 + 2
    assert vocabulary.blank == 260
    assert vocabulary.symbols[260] == ""
    assert vocabulary.symbols[261] == "<|en|>"
    assert vocabulary.separator == ""


def test_a_transcript_begins_with_a_space(vocabulary: BytePairs):
    ids = vocabulary.encode("the hat")
    assert [vocabulary.symbols[i] for i in ids] == [" the", " ", "h", "a", "t"]
    assert vocabulary.decode(ids) == "the hat"


@pytest.mark.parametrize("text", ["the hat", "Zürich, 5 €", "日本"])
def test_any_text_comes_back(vocabulary: BytePairs, text: str):
    assert vocabulary.decode([*vocabulary.encode(text), vocabulary.blank, -100]) == text


def test_half_a_character_is_shown_as_one_that_is_not(vocabulary: BytePairs):
    first = vocabulary.encode("ü")[1]
    assert vocabulary.decode([first]) == "\N{REPLACEMENT CHARACTER}"


def test_a_folder_without_a_tokenizer(tmp_path: Path):
    with pytest.raises(RunError, match=rf"^{tmp_path}/tokenizer\.json: the tokenizer cannot be read: "):
        read_byte_pairs(tmp_path)


def test_a_tokenizer_of_another_kind(tmp_path: Path):
    with pytest.raises(RunError, match=r"tokenizer\.json: has no <\|endoftext\|>, which ends a transcript of Whisper$"):
        read_byte_pairs(save(tmp_path, "<s>"))

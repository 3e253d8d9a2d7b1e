from __future__ import annotations

from pathlib import Path

import pytest
from files import TEMPLATE, tokenizer_folder

from kdcore.errors import RunError
from kdcore_specdec.sources import on_disk
from kdcore_specdec.tokenizers import Bytes, Pretrained, load

CHAT = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "a c"},
]


def test_bytes_there_and_back() -> None:
    tokenizer = Bytes()
    text = "naïve\tfox\n🦊"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.end, tokenizer.pad]) == text
    assert tokenizer.vocabulary == 261
    assert {tokenizer.end, tokenizer.pad} == {256, 257}
    assert tokenizer.decode([0xC3]) == "\ufffd"  # half a letter


def test_a_chat_in_bytes() -> None:
    ids, said = Bytes().chat([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}])
    assert ids == [259, *b"hi", 257, 260, *b"yo", 257]
    assert said == [False] * 5 + [True] * 3


def test_a_role_that_bytes_do_not_know() -> None:
    with pytest.raises(ValueError, match=r"the role `tool` is unknown to the byte tokenizer: use system, user, assist"):
        Bytes().chat([{"role": "tool", "content": "x"}])


@pytest.fixture
def words(tmp_path: Path) -> Pretrained:
    found = load(on_disk(tokenizer_folder(tmp_path / "words")))
    assert isinstance(found, Pretrained)
    return found


def test_a_tokenizer_of_transformers(words: Pretrained) -> None:
    assert words.decode(words.encode("a b c")) == "a b c"
    assert words.end not in words.encode("a b")
    assert words.vocabulary == len(words.tokenizer)
    assert words.pad == words.end  # it has no token of its own for padding


def test_only_what_the_assistant_says_is_learnt(words: Pretrained) -> None:
    ids, said = words.chat(CHAT)
    spoken = "".join(words.tokenizer.convert_ids_to_tokens(one) for one, mine in zip(ids, said, strict=True) if mine)
    assert spoken == "c<end>ac<end>"
    assert len(ids) == len(said)


def test_a_template_that_rewrites_earlier_turns(tmp_path: Path) -> None:
    forgetful = TEMPLATE.replace("{{ message.content }}", "{{ message.content if loop.last else '' }}")
    words = load(on_disk(tokenizer_folder(tmp_path / "words", template=forgetful)))
    with pytest.raises(ValueError, match="the chat template does not simply append turn 2"):
        words.chat(CHAT)


def test_no_template(tmp_path: Path) -> None:
    words = load(on_disk(tokenizer_folder(tmp_path / "words", template=None)))
    with pytest.raises(ValueError, match="the tokenizer has no chat template, which `messages` need"):
        words.chat(CHAT)


def test_no_end_token(words: Pretrained) -> None:
    words.tokenizer.eos_token = None
    with pytest.raises(RunError, match="the tokenizer has no end-of-sequence token, which ends every document"):
        _ = words.end


def test_equal_tokenizers_have_equal_digests(tmp_path: Path) -> None:
    one, same = (load(on_disk(tokenizer_folder(tmp_path / name))).digest for name in ("one", "same"))
    other = load(on_disk(tokenizer_folder(tmp_path / "other", words="a c b d"))).digest
    assert one == same != other
    assert Bytes().digest not in (one, other)


def test_what_was_saved_is_equal(words: Pretrained, tmp_path: Path) -> None:
    words.save(tmp_path / "again")
    assert load(on_disk(tmp_path / "again")).digest == words.digest
    Bytes().save(tmp_path / "nothing")


def test_a_head_with_more_rows_than_tokens(words: Pretrained) -> None:
    assert Pretrained(words.tokenizer, rows=64).vocabulary == 64
    assert Pretrained(words.tokenizer, rows=2).vocabulary == len(words.tokenizer)


def test_no_tokenizer_in_a_folder(tmp_path: Path) -> None:
    assert load(None).digest == "bytes"
    with pytest.raises(RunError, match=f"{tmp_path}: transformers finds no tokenizer there: "):
        load(on_disk(tmp_path))

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.data.digits import Digits
from kdcore.errors import RunError
from torch import Tensor
from transformers import BertForMaskedLM, BertTokenizerFast

import pretrained
from kdcore_speech.actions.token_probabilities import TokenProbabilities
from spoken import Spoken

TOKENS = [*pretrained.SPECIAL, "three", "other", "two", "one"]
WRITTEN = ("one two two", None, "three")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny masked language model of words."""
    torch.manual_seed(0)
    return pretrained.bert(tmp_path_factory.mktemp("bert"), TOKENS[len(pretrained.SPECIAL) :])


def table(path: Path, written: Any = WRITTEN, **options: Any) -> dict[str, Tensor]:
    data = Spoken([[1]] * len(written), written)
    return TokenProbabilities(path=path, **options)({}.__getitem__, data)


def naive(path: Path, text: str, u: int, temperature: float) -> dict[int, float]:
    """What stands at one place of a text, by the label of the data (one, two, three are 1, 2, 3)."""
    words = text.split()
    ids = [TOKENS.index(word) for word in ("[CLS]", *words[:u], "[MASK]", *words[u + 1 :], "[SEP]")]
    with torch.no_grad():
        logits = BertForMaskedLM.from_pretrained(path).eval()(input_ids=torch.tensor([ids])).logits[0, u + 1]
    known = torch.tensor([float(logits[TOKENS.index(word)]) for word in ("one", "two", "three")])
    return dict(enumerate((known / temperature).softmax(0).tolist(), start=1))


@pytest.mark.parametrize(("batch_size", "temperature"), [(1, 1.0), (64, 2.0)])
def test_by_one_place_after_the_other(bert: Path, batch_size: int, temperature: float) -> None:
    found = table(bert, batch_size=batch_size, temperature=temperature)
    assert found["id"].tolist() == [100, 101, 102]
    assert found["soft_tokens"].shape == found["soft_probabilities"].shape == (3, 3, 3)
    for clip, text in enumerate(WRITTEN):
        for u in range(len((text or "").split())):
            wanted = naive(bert, str(text), u, temperature)
            labels = found["soft_tokens"][clip, u].tolist()
            assert labels == sorted(wanted, key=wanted.__getitem__, reverse=True)
            assert found["soft_probabilities"][clip, u].tolist() == pytest.approx([wanted[x] for x in labels], rel=1e-4)


def test_behind_a_transcript_there_is_nothing(bert: Path) -> None:
    found = table(bert)
    for place in (1, (2, slice(1, None))):
        assert (found["soft_tokens"][place] == -100).all()
        assert not found["soft_probabilities"][place].any()


def test_the_likeliest_are_kept(bert: Path) -> None:
    all_of, two = table(bert), table(bert, top=2)
    assert torch.equal(two["soft_tokens"], all_of["soft_tokens"][..., :2])
    assert torch.allclose(two["soft_probabilities"], all_of["soft_probabilities"][..., :2])


def test_a_space_is_written_in_other_ways(bert: Path) -> None:
    action = TokenProbabilities(path=bert)

    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 4, "|": 7}

    assert action._places(Tokenizer(), ["a", " "]).tolist() == [4, 7]


def test_symbols_that_the_model_does_not_know(bert: Path, tmp_path: Path) -> None:
    action = TokenProbabilities(path=bert)
    tokenizer, _ = action._opened()
    message = (
        f"{bert}: its vocabulary of 9 tokens lacks 2 of the data's 3 symbols, such as 'four', 'five': give the data a "
        "vocabulary of tokens that the model knows (`data.vocabulary`)"
    )
    with pytest.raises(RunError, match=re.escape(message)):
        action._places(tokenizer, ["one", "four", "five"])


def test_no_transcripts(bert: Path) -> None:
    with pytest.raises(RunError, match=r"`speech\.token_probabilities`: no training clip has a transcript"):
        table(bert, written=(None, None))


def test_no_model(tmp_path: Path) -> None:
    missing = re.escape(
        f"{tmp_path / 'x'}: there is no such folder; give one with a masked language model of transformers"
    )
    with pytest.raises(RunError, match=missing):
        table(tmp_path / "x")
    with pytest.raises(RunError, match=re.escape(f"{tmp_path}: holds no masked language model of transformers: ")):
        table(tmp_path)


def test_a_model_without_a_mask(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BertTokenizerFast, "mask_token_id", None, raising=False)
    message = re.escape(f"{bert}: its tokenizer has no mask, so it is no masked language model")
    with pytest.raises(RunError, match=message):
        table(bert)


def test_other_data(bert: Path) -> None:
    with pytest.raises(
        RunError, match=r"`speech\.token_probabilities` reads training clips of sound, and the data is a Dig"
    ):
        TokenProbabilities(path=bert)({}.__getitem__, Digits())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top=0: give at least 1"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
        ({"temperature": 0.0}, "temperature=0.0 is not above 0: logits are divided by it"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TokenProbabilities(path=Path("x"), **options)

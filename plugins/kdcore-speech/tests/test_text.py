from __future__ import annotations

from typing import Any

import pytest

from kdcore_speech.text import normalised


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", "Don't  STOP—it's No. 5!"),
        ("lower", "don't stop—it's no. 5!"),
        ("upper", "DON'T STOP—IT'S NO. 5!"),
        ("plain", "don't stop it's no 5"),
    ],
)
def test_each_by_its_name(how: Any, expected: str):
    assert normalised(" Don't \n STOP—it's No. 5! ", how) == " ".join(expected.split())


def test_plain_knows_other_apostrophes_forms_and_lines():
    assert normalised("L\N{RIGHT SINGLE QUOTATION MARK}ÉTÉ ﬁn_1", "plain") == "l'été fin 1"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="there is no normaliser `whisper`: known are none, lower, upper, plain"):
        normalised("a", "whisper")  # type: ignore[arg-type]

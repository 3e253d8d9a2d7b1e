"""Prompts end where the first label begins, and come from what nobody was trained on."""

from __future__ import annotations

import pytest
import torch

from kdcore.data.arrays import Columns
from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore_specdec.decoding.prompts import prompts_of

NO = -100


class Made(Data):
    def __init__(self, **splits):
        super().__init__(batch_size=2)
        self.splits = splits

    def split(self, name):
        rows = self.splits.get(name)
        if rows is None:
            return None
        columns = {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
        return Columns({**columns, "id": torch.arange(len(rows))})


def row(ids: list[int], labels: list[int], segment: list[int]) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": labels, "segment": segment}


QUESTION = row([5, 6, 7, 8, 9, 0], [NO, NO, 8, 9, NO, NO], [1, 1, 1, 1, 1, 0])
TEXT = row([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, NO], [1] * 6)
PACKED = row([1, 2, 7, 7, 7, 7], [NO, NO, 7, 7, 7, NO], [1, 1, 2, 2, 2, 2])
SILENT = row([1, 2, 3, 0, 0, 0], [NO] * 6, [1, 1, 1, 0, 0, 0])


def found(*rows, split="test", count=10, at_least=1, at_most=99) -> list[list[int]]:
    made = Made(**{split: list(rows), "train": [TEXT]})
    return [prompt[0].tolist() for prompt in prompts_of(made, count, at_least=at_least, at_most=at_most)]


def test_a_question_is_a_prompt_up_to_its_answer():
    assert found(QUESTION) == [[5, 6, 7]]


def test_text_gives_as_many_tokens_as_asked_for():
    assert found(TEXT, at_least=4) == [[1, 2, 3, 4]]
    assert found(QUESTION, at_least=4) == [[5, 6, 7, 8]]


def test_only_the_document_that_is_labelled():
    assert found(PACKED, at_least=2) == [[7, 7]]


def test_without_segments_a_row_is_a_document():
    rows = [{key: value for key, value in TEXT.items() if key != "segment"}]
    assert found(*rows, at_least=2) == [[1, 2]]


def test_what_is_passed_over():
    assert found(SILENT, QUESTION, TEXT, at_least=2, at_most=2) == [[1, 2]]
    assert found(TEXT, QUESTION, at_least=5) == [[1, 2, 3, 4, 5]]  # the question has no token left to decode


def test_they_are_spread_over_the_split():
    rows = [row([n] * 4, [n] * 3 + [NO], [1] * 4) for n in range(9)]
    assert found(*rows, count=3) == [[0], [3], [6]]
    assert len(found(*rows, count=20)) == 9


def test_the_validation_split_where_there_is_no_test():
    assert found(TEXT, split="val", at_least=2) == [[1, 2]]


def test_none_is_an_error_that_says_why():
    said = (
        r"no document of the test split begins with a prompt of 6 to 99 tokens and goes on after it "
        r"\(the shortest prompt has 6 tokens\): set `--prompt` lower"
    )
    with pytest.raises(RunError, match=said):
        found(TEXT, at_least=6)
    with pytest.raises(RunError, match=r"of the val split .* \(there is no document\)"):
        found(SILENT, split="val")

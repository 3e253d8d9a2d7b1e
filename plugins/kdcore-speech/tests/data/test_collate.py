from __future__ import annotations

from typing import Any

import torch

from kdcore_speech.data.collate import collate


def sample(number: int, samples: int, *tokens: int, **more: Any) -> dict[str, Any]:
    return {"audio": torch.ones(samples), "tokens": torch.tensor(tokens), "id": torch.tensor(number), **more}


def test_everything_is_padded_at_its_end():
    batch = collate([sample(5, 2, 1), sample(6, 4, 3, 2, 1)])
    assert batch["audio"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["audio_lengths"].tolist() == [2, 4]
    assert batch["tokens"].tolist() == [[1, -100, -100], [3, 2, 1]]
    assert batch["id"].tolist() == [5, 6]
    assert batch["id"].dtype == batch["audio_lengths"].dtype == torch.int64


def test_columns_of_a_table_lose_their_padding():
    batch = collate([sample(0, 2, 1, -100, -100), sample(1, 2, 2, 3, -100)])
    assert batch["tokens"].tolist() == [[1, -100], [2, 3]]


def test_without_a_transcript_one_column_is_left():
    batch = collate([sample(0, 2, -100), sample(1, 2, -100, -100)])
    assert batch["tokens"].tolist() == [[-100], [-100]]


def test_further_columns():
    codes = [torch.tensor([[1, 2]]), torch.tensor([[3, 4], [5, 6]])]
    frames = [torch.ones(1), torch.ones(2)]
    rows = [sample(i, 2, 1, codes=codes[i], scores=frames[i], labels=i) for i in range(2)]
    batch = collate(rows)
    assert batch["codes"].tolist() == [[[1, 2], [-100, -100]], [[3, 4], [5, 6]]]
    assert batch["scores"].tolist() == [[1, 0], [1, 1]]
    assert batch["labels"].tolist() == [0, 1]

from __future__ import annotations

import pytest
import torch

from kdcore_specdec.data.packing import OPEN, Document, Rows, filled, fit, single, stream

PAD = 9


def test_a_row_by_hand() -> None:
    rows = filled([[Document([1, 2, 3]), Document([4, 5])]], 7, pad=PAD)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, PAD, PAD]]
    # the last token of a document does not predict the first of the next, and padding predicts nothing
    assert rows.labels.tolist() == [[2, 3, -100, 5, -100, -100, -100]]
    assert rows.segment.tolist() == [[1, 1, 1, 2, 2, 0, 0]]
    assert all(column.dtype == torch.int64 for column in rows)


def test_only_what_is_said_is_a_label() -> None:
    rows = filled([[Document([1, 2, 3, 4, 5], [False, False, True, True, False])]], 5, pad=PAD)
    assert rows.labels.tolist() == [[-100, 3, 4, -100, -100]]


def test_a_stream_fills_every_row_and_starts_anew_in_the_next() -> None:
    rows = filled(stream([Document([1, 2, 3]), Document([4, 5, 6, 7, 8])], 4), 4, pad=PAD)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert rows.labels.tolist() == [[2, 3, -100, -100], [6, 7, 8, -100]]
    assert rows.segment.tolist() == [[1, 1, 1, 2], [1, 1, 1, 1]]


def test_a_stream_keeps_who_says_what_when_it_cuts() -> None:
    document = Document([1, 2, 3, 4], [False, True, False, True])
    assert stream([Document([7]), document], 3) == [
        [Document([7]), Document([1, 2], [False, True])],
        [Document([3, 4], [False, True])],
    ]


def test_whole_documents_go_where_there_is_room() -> None:
    rows = fit([Document([1] * 3), Document([2] * 4), Document([3] * 2), Document([4] * 1)], 5)
    assert [[len(one.ids) for one in row] for row in rows] == [[3, 2], [4, 1]]


def test_rows_that_were_left_behind_are_not_looked_at_again() -> None:
    large = [Document([1, 1]) for _ in range(OPEN + 1)]
    rows = fit([*large, Document([2])], 3)
    assert len(rows[0]) == 1
    assert len(rows[1]) == 2


@pytest.mark.parametrize("arrange", [stream, fit, single])
def test_no_token_is_lost_or_moved(arrange: object) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, 9, (40,), generator=generator).tolist()
    documents = [Document([1000 * number + at for at in range(size)]) for number, size in enumerate(sizes)]
    rows = filled(arrange(documents, 8), 8, pad=-1)  # type: ignore[operator]
    found = sorted(rows.input_ids[rows.segment > 0].tolist())
    everything = sorted(one for document in documents for one in document.ids)
    assert set(found) <= set(everything)
    if arrange is not stream:  # which may leave a last row of one token
        assert found == everything
    labelled = rows.labels != -100
    assert torch.equal(rows.labels[labelled], rows.input_ids[labelled] + 1)


def test_each_document_alone_and_a_long_one_in_pieces() -> None:
    rows = filled(single([Document([1, 2]), Document([3, 4, 5, 6, 7])], 3), 3, pad=PAD)
    assert rows.input_ids.tolist() == [[1, 2, PAD], [3, 4, 5], [6, 7, PAD]]


def test_rows_that_teach_nothing_are_left_out() -> None:
    silent = Document([1, 2, 3], [True, False, False])
    rows = filled([[silent], [Document([4])], [silent, Document([5, 6])]], 6, pad=PAD)
    assert rows.input_ids.tolist() == [[1, 2, 3, 5, 6, PAD]]
    assert filled([[silent]], 6, pad=PAD).input_ids.shape == (0, 6)


def test_what_teaches() -> None:
    assert Document([1, 2]).teaches
    assert not Document([1]).teaches
    assert not Document([]).teaches
    assert not Document([1, 2], [True, False]).teaches
    assert isinstance(filled([], 3, pad=0), Rows)

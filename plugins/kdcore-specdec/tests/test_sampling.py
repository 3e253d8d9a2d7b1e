from __future__ import annotations

import pytest
import torch
from made import llama
from torch import nn

from kdcore_specdec.data.packing import Document, Rows, filled, single
from kdcore_specdec.sampling import Continuation, continued

END, PAD, LENGTH = 39, 38, 12
ROWS = filled(
    single([Document([1, 2, 3, 4, 5], [False, False, False, True, True]), Document([6, 7, 8, END])], LENGTH),
    LENGTH,
    pad=PAD,
)


def test_what_is_kept() -> None:
    assert Continuation().known(ROWS).tolist() == [3, 1]
    assert Continuation(prompt=2).known(ROWS).tolist() == [3, 2]
    # the last token is always said anew
    assert Continuation(prompt=10).known(ROWS).tolist() == [4, 3]


def by_hand(prompt: list[int], new: int) -> list[int]:
    """Greedy, one whole forward for each token, no cache."""
    model, ids = llama(), list(prompt)
    while len(ids) < min(LENGTH, len(prompt) + new):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == END:
            break
    return ids


@pytest.mark.parametrize("new", [None, 4])
def test_greedy_rows_are_those_of_plain_decoding(new: int | None) -> None:
    rows = continued(llama(), ROWS, Continuation(new_tokens=new, temperature=0.0), end=END, pad=PAD, seed=0)
    for row, prompt in enumerate(([1, 2, 3], [6])):
        wanted = by_hand(prompt, LENGTH if new is None else new)
        assert rows.input_ids[row].tolist() == wanted + [PAD] * (LENGTH - len(wanted))
        assert rows.segment[row].tolist() == [1] * len(wanted) + [0] * (LENGTH - len(wanted))
        labels = [-100] * (len(prompt) - 1) + wanted[len(prompt) :]
        assert rows.labels[row].tolist() == labels + [-100] * (LENGTH - len(labels))


def test_a_row_ends_with_the_end_token() -> None:
    model = llama()
    first = by_hand([1, 2, 3], 1)[-1]
    rows = continued(model, ROWS, Continuation(temperature=0.0), end=first, pad=PAD, seed=0)
    assert rows.input_ids[0].tolist() == [1, 2, 3, first] + [PAD] * 8
    assert rows.labels[0].tolist() == [-100, -100, first] + [-100] * 9
    assert int(rows.segment[1].sum()) > 4  # the other row goes on


def test_what_is_drawn_follows_the_distribution_and_the_seed() -> None:
    model = llama()
    many = Rows(*(column[:1].expand(4000, -1).contiguous() for column in ROWS))
    how = Continuation(new_tokens=1, temperature=2.0)
    said = continued(model, many, how, end=END, pad=PAD, seed=0).input_ids[:, 3]
    wanted = (model(ROWS.input_ids[:1, :3]).logits[0, -1] / 2.0).softmax(-1)
    found = torch.bincount(said, minlength=40) / 4000
    assert float((found - wanted.detach()).abs().max()) < 0.03
    assert torch.equal(said, continued(model, many, how, end=END, pad=PAD, seed=0).input_ids[:, 3])
    assert not torch.equal(said, continued(model, many, how, end=END, pad=PAD, seed=1).input_ids[:, 3])


def test_nothing_else_is_touched() -> None:
    model = llama().train()
    model.lm.model.layers[0].eval()  # a frozen part
    ids, state = ROWS.input_ids.clone(), torch.get_rng_state()
    rows = continued(model, ROWS, Continuation(), end=END, pad=PAD, seed=0)
    assert model.training
    assert not model.lm.model.layers[0].training
    assert model.lm.model.layers[1].training
    assert torch.equal(ROWS.input_ids, ids)
    assert torch.equal(torch.get_rng_state(), state)
    assert not rows.labels.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="a Linear cannot continue a text by itself: sample from an ordinary draft"):
        continued(nn.Linear(1, 1), ROWS, Continuation(), end=END, pad=PAD, seed=0)
    with pytest.raises(ValueError, match="prompt=0: keep at least one token, which the model continues"):
        Continuation(prompt=0)
    with pytest.raises(ValueError, match="new_tokens=0: give at least 1"):
        Continuation(new_tokens=0)
    with pytest.raises(ValueError, match=r"temperature=-1.0 is negative: 0 takes the likeliest token"):
        Continuation(temperature=-1.0)

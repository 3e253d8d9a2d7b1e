from __future__ import annotations

import torch
from made import llama

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.decoding.base import Sampler
from kdcore_specdec.decoding.cached import Cached
from kdcore_specdec.models.decoder import Memory
from kdcore_specdec.models.falcon import Falcon

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


@torch.no_grad()
def test_blocks_follow_each_other_from_the_drafts_own_states() -> None:
    """Seven tokens of a draft with blocks of three, by hand: everything computed anew for every block."""
    net, made = draft(Falcon, block=3), batch()
    net(made, signals(TARGET, made))
    net.eval()
    ids = torch.tensor([[4, 8, 15, 16, 23, 2, 17]])
    hidden = Cached(TARGET, (3,)).read(ids).layers[3]
    drafter = net.drafter(TARGET)
    drafter.start(ids[:, :3], {3: hidden[:, :2]})
    assert drafter.propose(7, Sampler()).tokens.tolist() == []  # two rows are no block of three
    drafter.accept(ids[0, 3:], {3: hidden[:, 2:6]})
    found = drafter.propose(7, Sampler()).tokens

    tokens, felt, said = ids[:, 1:], hidden[:, :6], list[int]()
    while len(said) < 7:
        rows, _ = net.over_time(tokens, felt)
        n = rows.shape[1]
        block = torch.arange(n) // 3  # six rows: the blocks end with the last row here, too
        mask = (block[None] <= block[:, None])[None, None]
        (out,) = net.layer(rows, torch.arange(n)[None], Memory(), mask=mask, step=False)
        guesses = out[:, -3:]
        new = net.lm_head(guesses[0]).argmax(-1)
        said += new.tolist()
        tokens, felt = torch.cat([tokens, new[None]], 1), torch.cat([felt, guesses], 1)
    assert found.tolist() == said[:7]


@torch.no_grad()
def test_reading_in_parts_gives_the_same_blocks() -> None:
    net, made = draft(Falcon, block=3), batch()
    net(made, signals(TARGET, made))
    net.eval()
    ids = torch.randint(VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(5))
    hidden = Cached(TARGET, (3,)).read(ids).layers[3]
    at_once, in_parts = net.drafter(TARGET), net.drafter(TARGET)
    at_once.start(ids, {3: hidden[:, :11]})
    in_parts.start(ids[:, :2], {3: hidden[:, :1]})
    done = 2
    for size in (1, 4, 1, 3, 1):
        in_parts.propose(5, Sampler())
        in_parts.accept(ids[0, done : done + size], {3: hidden[:, done - 1 : done - 1 + size]})
        done += size
    assert done == 12
    assert at_once.propose(6, Sampler()).tokens.tolist() == in_parts.propose(6, Sampler()).tokens.tolist()

from __future__ import annotations

import pytest
import torch
from made import llama
from torch.nn.functional import silu

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.models.medusa import Medusa

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def fresh(**keywords: int) -> Medusa:
    return Medusa(vocabulary=VOCABULARY, width=WIDTH, heads=3, **keywords)


def test_every_head_is_the_papers_formula_of_the_hidden_state_before() -> None:
    made, net = batch(), draft(Medusa)
    given = signals(TARGET, made)
    found = net(made, given)
    for k in range(3):
        for t in range(1, 10):
            h = given["hidden"][0, t - 1]
            wanted = net.w2[k] @ (silu(net.w1[k] @ h) + h)
            torch.testing.assert_close(found["heads"][k] @ found["unrolled"][0, k, t], wanted, atol=1e-5, rtol=1e-5)


def test_an_untrained_head_repeats_what_the_target_said() -> None:
    made, net = batch(), fresh()
    given = signals(TARGET, made)
    found = net(made, given)
    for k in range(3):
        said = found["unrolled"][:, k] @ found["heads"][k].T
        torch.testing.assert_close(said[:, 1:], given["logits"][:, :-1])


def test_trained_heads_do_not_start_again() -> None:
    """Read back from a file, they meet their target for the first time once more."""
    made, net = batch(), fresh()
    given = signals(TARGET, made)
    net(made, given)
    with torch.no_grad():
        net.w2.add_(1.0)
    again = fresh()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(made, given)["logits"], net(made, given)["logits"])
    assert not torch.allclose(again.w2[0], TARGET.head)


def test_heads_over_a_small_vocabulary_start_as_the_targets_rows() -> None:
    made = batch()
    net = Medusa(vocabulary=VOCABULARY, width=WIDTH, heads=2, draft_vocabulary=5, token_counts=list(range(VOCABULARY)))
    net(made, signals(TARGET, made))
    assert torch.equal(net.w2[1], TARGET.head[VOCABULARY - 5 :])


def test_no_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=0: there must be one at least"):
        Medusa(vocabulary=4, width=4, heads=0)

from __future__ import annotations

from typing import Any

import pytest
import torch
from made import llama
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from drafts import LAYERS, VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.models.decoder import rotate
from kdcore_specdec.models.eagle import Eagle3

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def naive_chain(net: Eagle3, tokens: Tensor, features: Tensor, steps: int) -> list[Tensor]:
    """Decoding by hand: ``tokens`` (n + steps - 1,) after ``features`` (n, F), each guess appended to the sequence.

    The last ``steps`` tokens' outputs are returned, each (D,), from an ordinary causal attention over everything so
    far, computed anew each time.
    """
    layer: Any = net.layers[0]
    fused = list(features @ net.fc.weight.T)
    outputs = []
    for length in range(len(features), len(features) + steps):
        hidden = torch.stack(fused)[None]
        embedded = net.embed_tokens.weight[tokens[:length]][None]
        both = torch.cat([rms(embedded, layer.input_layernorm.weight), rms(hidden, layer.hidden_norm.weight)], -1)
        at = torch.arange(length)[None]
        q, k, v = (
            (both @ one.weight.T).view(1, length, heads, 4).transpose(1, 2)
            for one, heads in ((layer.self_attn.q_proj, 4), (layer.self_attn.k_proj, 2), (layer.self_attn.v_proj, 2))
        )
        mixed = scaled_dot_product_attention(
            rotate(q, at, 10000.0), rotate(k, at, 10000.0), v, is_causal=True, enable_gqa=True
        )
        hidden = hidden + mixed.transpose(1, 2).flatten(2) @ layer.self_attn.o_proj.weight.T
        normed = rms(hidden, layer.post_attention_layernorm.weight)
        inner = silu(normed @ layer.mlp.gate_proj.weight.T) * (normed @ layer.mlp.up_proj.weight.T)
        out = (hidden + inner @ layer.mlp.down_proj.weight.T)[0, -1]
        outputs.append(rms(out, net.norm.weight))
        fused.append(out)
    return outputs


def test_the_training_time_test_is_decoding_from_every_position_at_once() -> None:
    made = batch(n=1, t=8)
    given = signals(TARGET, made)
    net = draft(Eagle3, steps=3).train()
    unrolled = net(made, given)["unrolled"]
    features = torch.cat([given[f"layer.{i}"] for i in LAYERS], -1)[0]
    tokens = made["input_ids"][0]
    for t in range(1, 6):  # t: the last token that was read; steps read t + 1 and t + 2 as well
        wanted = naive_chain(net, tokens[1:], features[:t], 3)
        for j in range(3):
            torch.testing.assert_close(unrolled[0, j, t], wanted[j], atol=1e-4, rtol=1e-4)


def test_the_unrolled_steps_stay_within_their_document() -> None:
    made = batch(packed=True)
    net = draft(Eagle3, steps=3).train()
    together = net(made, signals(TARGET, made))["unrolled"]
    alone = {"input_ids": made["input_ids"][:, 4:8]}
    apart = net(alone, signals(TARGET, alone))["unrolled"]
    for j in range(3):  # the last j positions of a document have no token j further on
        torch.testing.assert_close(together[:, j, 5 : 8 - j], apart[:, j, 1 : 4 - j], atol=1e-5, rtol=1e-5)


def test_in_eval_mode_there_is_the_first_step_only() -> None:
    made = batch()
    given = signals(TARGET, made)
    net = draft(Eagle3, steps=3)
    training, evaluated = net.train()(made, given), net.eval()(made, given)
    assert training["unrolled"].shape == (2, 3, 10, WIDTH)
    assert evaluated["unrolled"].shape == (2, 1, 10, WIDTH)
    assert training["heads"].shape == (3, VOCABULARY, WIDTH)
    torch.testing.assert_close(training["unrolled"][:, 0], evaluated["hidden"])
    torch.testing.assert_close(training["logits"], evaluated["logits"])


def test_later_steps_read_the_draft_and_not_the_target() -> None:
    made = batch(n=1)
    given = signals(TARGET, made)
    net = draft(Eagle3, steps=2)
    before = net(made, given)["unrolled"]
    other = {**given, "layer.1": given["layer.1"].clone()}
    other["layer.1"][:, 5] += 1.0
    after = net(made, other)["unrolled"]
    assert torch.equal(
        before[:, :, :6], after[:, :, :6]
    )  # step 1 at t = 5 is about t + 1, and has not seen the target there
    assert not torch.allclose(before[:, 1, 6], after[:, 1, 6])


def test_layers_may_be_counted_from_the_end() -> None:
    made = batch()
    with torch.no_grad():
        last = TARGET(made["input_ids"], layers=(-1,)).layers[-1]
    found = draft(Eagle3, target_layers=[-1])(made, {**signals(TARGET, made), "layer.-1": last})
    assert found["logits"].isfinite().all()


def test_a_target_without_the_needed_hidden_states_is_refused() -> None:
    made = batch()
    given = signals(TARGET, made)
    del given["layer.1"]
    said = (
        r"reads layer.1 of `target`, which gives embedding, head, hidden, layer.0, layer.2, logits: set "
        r"`task.layers: \[0, 1, 2\]`, and no layer that the target does not have"
    )
    with pytest.raises(KeyError, match=said):
        draft(Eagle3)(made, given)


@pytest.mark.parametrize("wrong", [{"target_layers": []}, {"steps": 0}])
def test_no_layers_or_no_steps_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must name a layer at least, and steps=\d must be 1 or more"):
        draft(Eagle3, **wrong)

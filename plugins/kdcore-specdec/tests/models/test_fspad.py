from __future__ import annotations

import pytest
import torch
from made import llama
from torch.nn.functional import silu

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.models.decoder import Memory
from kdcore_specdec.models.fspad import FSPAD

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def test_feature_and_hidden_are_two_halves_of_one_output() -> None:
    """One row: its attention sees itself only, so that all is a formula of its token and its feature."""
    net, feature, token = draft(FSPAD).eval(), torch.randn(1, 1, WIDTH), torch.tensor([[7]])
    hidden, guess = net.step(token, feature, torch.tensor([[0]]), Memory(), mask=None, step=False)
    e, f = net.embed_tokens.weight[7], feature[0, 0]
    h = net.fc.weight @ torch.cat([e, f]) + net.fc.bias
    normed = h / (h.square().mean() + 1e-6).sqrt()
    sampling = net.sampling
    h = h + sampling.down_proj.weight @ (silu(sampling.gate_proj.weight @ e) * (sampling.up_proj.weight @ normed))
    attention = net.layer.self_attn
    value = (attention.v_proj.weight @ h).view(2, 1, 4).expand(2, 2, 4).reshape(-1)  # 2 key heads for 4 queries
    h = h + attention.o_proj.weight @ value
    fed = net.layer.mlp(h / (h.square().mean() + 1e-6).sqrt())
    torch.testing.assert_close(hidden[0, 0], h + fed[:WIDTH], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guess[0, 0], h + fed[WIDTH:], atol=1e-5, rtol=1e-5)


def test_the_feature_half_does_not_reach_the_logits() -> None:
    made, net = batch(), draft(FSPAD)
    found = net(made, signals(TARGET, made))
    found["feature"].square().sum().backward(retain_graph=True)
    of_feature = net.layer.mlp.down_proj.weight.grad.clone()
    assert not of_feature[:WIDTH].any()
    net.zero_grad()
    found["logits"].square().sum().backward()
    assert not net.layer.mlp.down_proj.weight.grad[WIDTH:].any()


def test_noise_is_added_in_training_only_and_stays_within_its_bounds() -> None:
    made, given = batch(), signals(TARGET, batch())
    torch.manual_seed(0)
    net = draft(FSPAD, noise=0.3)
    seen = []
    net.fc.register_forward_pre_hook(lambda module, args: seen.append(args[0][..., WIDTH:].detach()))
    net.train()(made, given)
    net.eval()(made, given)
    difference = (seen[0] - seen[1]).abs()
    assert 0.2 < float(difference.max()) <= 0.3
    quiet = draft(FSPAD, noise=0.0)
    torch.testing.assert_close(quiet.train()(made, given)["logits"], quiet.eval()(made, given)["logits"])


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise=-1 is negative: it is the width of the noise on the target's features"):
        draft(FSPAD, noise=-1)

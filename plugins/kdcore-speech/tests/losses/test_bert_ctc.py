from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from kdcore.losses.base import Total
from torch import Tensor, nn

from kdcore_speech.losses.bert_ctc import BertCTC, Decoder, positions
from recognised import BLANK, LABELS, RAGGED, clips, features, soft

WIDTH = 6


def made(**options: Any) -> BertCTC:
    torch.manual_seed(0)
    loss = BertCTC(vocabulary=LABELS, blank=BLANK, **{"width": 16, "heads": 2, "dropout": 0.0, **options})
    loss.setup({"student": {"feature": features(7, WIDTH, 1)}}, {}, lambda _: nn.Identity())
    return loss


def total(loss: BertCTC, feature: Tensor, batch: dict[str, Any]) -> Total:
    found = loss({"feature": feature}, {}, batch)
    assert isinstance(found, Total)
    return found


def said_by(loss: BertCTC, feature: Tensor, tokens: list[int]) -> list[list[float]]:
    """What the decoder gives each token, one after the other, of one clip without padding: (U, V) probabilities."""
    rows = []
    for u in range(len(tokens)):
        before = torch.tensor([[BLANK, *tokens[:u]]])
        heard = torch.ones(1, len(feature), dtype=torch.bool)
        rows.append(loss.decoder(before, feature.unsqueeze(0), heard)[0, -1].softmax(-1).tolist())
    return rows


def naive(loss: BertCTC, feature: Tensor, batch: dict[str, Any]) -> float:
    value = 0.0
    for clip, share in enumerate(RAGGED):
        tokens = [token for token in batch["tokens"][clip].tolist() if token >= 0]
        end = max(1, round(7 * share))
        for u, q in enumerate(said_by(loss, feature[clip, :end], tokens)):
            weights = batch["soft_probabilities"][clip, u].tolist()
            for label, weight in zip(batch["soft_tokens"][clip, u].tolist(), weights, strict=True):
                p = weight / sum(weights)
                value += (1 - loss.hard) * p * math.log(p / q[label])
            value -= loss.hard * math.log(q[tokens[u]])
    return value


@pytest.mark.parametrize("hard", [0.0, 0.5, 1.0])
def test_by_a_slow_formula(hard: float) -> None:
    loss, feature, batch = made(hard=hard, layers=2), features(7, WIDTH, 1), soft(clips())
    found = total(loss, feature, batch)
    assert found.sum.item() == pytest.approx(naive(loss, feature, batch), rel=1e-4)
    assert found.count.item() == 6
    assert loss.count(batch) == 6


def test_by_hand() -> None:
    loss = made(hard=0.0)
    nn.init.zeros_(loss.decoder.head.weight)
    nn.init.zeros_(loss.decoder.head.bias)  # a decoder that gives each of five labels 1/5
    batch = soft(clips())
    batch["tokens"] = torch.tensor([[3], [-100], [-100]])
    batch["soft_tokens"] = torch.tensor([[[3, 1]]] * 3)
    batch["soft_probabilities"] = torch.tensor([[[0.6, 0.2]]] * 3)  # 3/4 and 1/4
    found = total(loss, features(7, WIDTH, 1), batch)
    assert found.sum.item() == pytest.approx(0.75 * math.log(0.75 * 5) + 0.25 * math.log(0.25 * 5))
    assert found.count.item() == 1


def test_a_certain_teacher_is_its_label() -> None:
    batch, feature = soft(clips()), features(7, WIDTH, 1)
    batch["soft_tokens"][..., 0] = batch["tokens"]
    batch["soft_probabilities"] = torch.zeros_like(batch["soft_probabilities"])
    batch["soft_probabilities"][..., 0] = 1.0
    soft_only, hard_only = (total(made(hard=hard), feature, batch).sum.item() for hard in (0.0, 1.0))
    assert soft_only == pytest.approx(hard_only, rel=1e-6)


def test_no_token_sees_itself_or_what_follows() -> None:
    loss, feature, batch = made(hard=1.0), features(7, WIDTH, 1)[:1], {k: v[:1] for k, v in soft(clips()).items()}
    logits = []

    def keep(module: nn.Module, given: Any, found: Tensor) -> None:
        logits.append(found)

    hook = loss.decoder.register_forward_hook(keep)
    total(loss, feature, batch)
    changed = {**batch, "tokens": torch.tensor([[0, 3, 1, 1]])}  # the last two are others
    total(loss, feature, changed)
    hook.remove()
    assert torch.allclose(logits[0][:, :3], logits[1][:, :3], atol=1e-6)
    assert not torch.allclose(logits[0][:, 3], logits[1][:, 3], atol=1e-3)


def test_columns_of_the_table_may_be_longer_than_the_batch() -> None:
    batch = soft(clips())
    longer = {
        **batch,
        "soft_tokens": torch.nn.functional.pad(batch["soft_tokens"], (0, 0, 0, 3), value=-100),
        "soft_probabilities": torch.nn.functional.pad(batch["soft_probabilities"], (0, 0, 0, 3)),
    }
    feature = features(7, WIDTH, 1)
    assert total(made(), feature, longer).sum.item() == pytest.approx(total(made(), feature, batch).sum.item())


def test_gradients_reach_the_clip_and_the_decoder() -> None:
    loss, feature, batch = made(), features(7, WIDTH, 1).requires_grad_(), soft(clips())
    total(loss, feature, batch).sum.backward()
    assert feature.grad is not None
    assert feature.grad[0].abs().sum(-1).min() > 0
    assert not feature.grad[1, 5:].any()  # behind its end, where it is NaN
    assert not feature.grad[2].any()  # nobody knows what is said in it
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


def test_a_batch_without_transcripts() -> None:
    batch = soft(clips())
    batch["tokens"] = torch.full((3, 1), -100)
    loss, feature = made(), features(7, WIDTH, 1).requires_grad_()
    found = total(loss, feature, batch)
    found.sum.backward()
    assert (found.sum.item(), found.count.item(), loss.count(batch)) == (0.0, 0, 0)
    assert feature.grad is not None
    assert not feature.grad.any()


def test_dropout_is_that_of_training() -> None:
    loss, feature, batch = made(dropout=0.5), features(7, WIDTH, 1), soft(clips())
    assert total(loss, feature, batch).sum.item() != total(loss, feature, batch).sum.item()
    loss.eval()
    assert total(loss, feature, batch).sum.item() == total(loss, feature, batch).sum.item()


def test_a_run_in_bfloat16_as_a_whole() -> None:
    loss, feature, batch = made(), features(7, WIDTH, 1), soft(clips())
    full = total(loss, feature, batch).sum.item()
    half = total(loss.bfloat16(), feature.bfloat16(), batch).sum
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full, rel=0.02)


def test_positions_are_sines_of_falling_frequency() -> None:
    found = positions(5, 4, torch.device("cpu"))
    for u in range(5):
        wanted = [math.sin(u), math.cos(u), math.sin(u / 100), math.cos(u / 100)]
        assert found[u].tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_decoder_is_as_large_as_it_is_told() -> None:
    decoder = Decoder(WIDTH, vocabulary=LABELS, layers=3, width=8, heads=2, dropout=0.0)
    assert len(decoder.layers.layers) == 3
    assert decoder.head.weight.shape == (LABELS, 8)
    assert decoder.memory.weight.shape == (8, WIDTH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard": 1.5}, "hard=1.5: give a share from 0 to 1"),
        ({"width": 10, "heads": 4}, "layers=1, width=10, heads=4: width must be a multiple of 2 heads"),
        ({"layers": 0}, "layers=0, width=16, heads=2: width must be a multiple of 2 heads, and each at least 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        made(**options)


def test_an_activation_without_time_is_refused() -> None:
    message = re.escape("the activation has shape (3, 6); a decoder looks at (N, T, D): tap a block")
    with pytest.raises(ValueError, match=message):
        total(made(), torch.zeros(3, 6), soft(clips()))


def test_a_batch_without_what_the_teacher_says() -> None:
    with pytest.raises(KeyError) as error:
        total(made(), features(7, WIDTH, 1), clips())
    assert error.value.args[0] == (
        "`speech.bert_ctc` reads the batch's `soft_tokens`, which this data does not give: run the action "
        "`speech.token_probabilities` in a stage before, and give `data: {table: THAT_STAGE}`"
    )
    with pytest.raises(KeyError) as error:
        made().count({})
    assert error.value.args[0] == "`speech.bert_ctc` reads the batch's `tokens`, which this data does not give"

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from made import llama
from torch import Tensor

from drafts import KINDS, LAYERS, VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.models.eagle import Eagle3
from kdcore_specdec.models.falcon import Falcon
from kdcore_specdec.models.feature import FeatureDraft, row_positions
from kdcore_specdec.models.fspad import FSPAD
from kdcore_specdec.models.medusa import Medusa

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)
COUNTS = [(7 * i) % VOCABULARY for i in range(VOCABULARY)]
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_signals_stand_where_those_of_a_language_model_stand(kind: type[FeatureDraft]) -> None:
    made = batch()
    found = draft(kind).eval()(made, signals(TARGET, made))
    assert found["logits"].shape == (2, 10, VOCABULARY)
    assert found["hidden"].shape == (2, 10, WIDTH)
    assert found["tokens"].tolist() == list(range(VOCABULARY))
    torch.testing.assert_close(found["logits"], found["hidden"] @ found["head"].T)


@kinds
def test_a_position_has_read_the_target_up_to_the_token_before(kind: type[FeatureDraft]) -> None:
    """Nothing of the target at t or later may reach what the draft says at t."""
    made = batch(n=1)
    given = signals(TARGET, made)
    net = draft(kind).eval()
    before = net(made, given)["logits"]
    for t in range(10):
        other = {**given}
        for name in ("hidden", *(f"layer.{i}" for i in LAYERS)):
            other[name] = given[name].clone()
            other[name][:, t] += 1.0
        changed = (net(made, other)["logits"] - before).abs().amax(-1)[0] > 1e-6
        assert not changed[: t + 1].any()
        assert t == 9 or changed[t + 1 :].any() or kind is Falcon  # its last rows are seen by rows outside this text


@kinds
def test_packed_documents_do_not_see_each_other(kind: type[FeatureDraft]) -> None:
    made = batch(packed=True)
    net = draft(kind).eval()
    together = net(made, signals(TARGET, made))
    for document in (slice(0, 4), slice(4, 8)):
        alone: dict[str, Tensor] = {"input_ids": made["input_ids"][:, document]}
        apart = net(alone, signals(TARGET, alone))
        at = apart["predicts"]
        assert torch.equal(together["predicts"][:, document], at)
        torch.testing.assert_close(together["logits"][:, document][at], apart["logits"][at], atol=1e-5, rtol=1e-5)


@kinds
def test_padding_predicts_nothing_and_changes_nothing(kind: type[FeatureDraft]) -> None:
    made = batch(packed=True)
    other = {**made, "input_ids": made["input_ids"].clone()}
    other["input_ids"][:, 8:] = 0
    net = draft(kind).eval()
    first, second = (net(one, signals(TARGET, one)) for one in (made, other))
    assert not first["predicts"][:, 8:].any()
    torch.testing.assert_close(first["logits"][:, :8], second["logits"][:, :8])


@kinds
def test_without_its_target_it_computes_from_zeros(kind: type[FeatureDraft]) -> None:
    made = batch()
    net = draft(kind).eval()
    net(made, signals(TARGET, made))
    nothing = {name: torch.zeros(2, 10, WIDTH) for name in ("hidden", *(f"layer.{i}" for i in LAYERS))}
    torch.testing.assert_close(net(made, None)["logits"], net(made, nothing)["logits"])


@kinds
def test_a_small_vocabulary_says_nothing_about_other_tokens(kind: type[FeatureDraft]) -> None:
    made = batch()
    net = draft(kind, draft_vocabulary=8, token_counts=COUNTS).eval()
    found = net(made, signals(TARGET, made))
    kept = sorted(sorted(range(VOCABULARY), key=lambda i: (-COUNTS[i], i))[:8])
    assert found["tokens"].tolist() == kept
    assert found["head"].shape == (8, WIDTH)
    assert (found["logits"].isfinite().nonzero()[:, -1].unique()).tolist() == kept
    torch.testing.assert_close(found["logits"][..., kept], found["hidden"] @ found["head"].T)
    assert net.t2d.nonzero()[:, 0].tolist() == kept


@kinds
def test_logits_are_left_out_where_nobody_wants_them(kind: type[FeatureDraft]) -> None:
    made = batch()
    assert "logits" not in draft(kind)(made, signals(TARGET, made), logits=False)


@kinds
def test_another_type_than_the_targets_is_kept(kind: type[FeatureDraft]) -> None:
    made = batch()
    net = draft(kind).to(torch.bfloat16)
    found = net(made, signals(TARGET, made))
    assert found["logits"].dtype == found["hidden"].dtype == torch.bfloat16
    assert found["logits"].isfinite().all()


@kinds
def test_all_that_it_learns_gets_a_gradient_and_the_targets_part_none(kind: type[FeatureDraft]) -> None:
    made = batch()
    given = {name: one.detach().clone().requires_grad_() for name, one in signals(TARGET, made).items()}
    net = draft(kind)
    found = net(made, given)
    wanted = [found[name] for name in ("unrolled", "feature") if name in found]
    (sum(one.square().sum() for one in wanted) + found["logits"].square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert not learning & {"embed_tokens.weight", "lm_head.weight"}
    assert given["embedding"].grad is None
    assert given["head"].grad is None


@pytest.mark.parametrize("kind", [Eagle3, FSPAD, Falcon])
def test_the_targets_embedding_and_head_are_taken_over_and_followed(kind: type[FeatureDraft]) -> None:
    made, target = batch(), copy.deepcopy(TARGET)
    net = draft(kind, draft_vocabulary=8, token_counts=COUNTS)
    net(made, signals(target, made))
    assert torch.equal(net.embed_tokens.weight, target.embedding.weight)
    assert torch.equal(net.lm_head.weight, target.head[net.tokens])
    with torch.no_grad():  # another stage trains the target further
        target.head.mul_(2.0)
    assert not torch.equal(net.lm_head.weight, target.head[net.tokens])
    net(made, signals(target, made))
    assert torch.equal(net.lm_head.weight, target.head[net.tokens])


def test_a_target_that_has_not_changed_is_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, net, copied = batch(), draft(FSPAD), []
    monkeypatch.setattr(net, "adopt", lambda *given: copied.append(given))
    for _ in range(3):
        net(made, signals(TARGET, made))
    assert len(copied) == 1


def test_signals_from_a_cache_need_no_embedding_once_it_is_known() -> None:
    made, net = batch(), draft(FSPAD).eval()
    given = signals(TARGET, made)
    first = net(made, given)["logits"]
    assert torch.equal(net(made, {"hidden": given["hidden"]})["logits"], first)


@kinds
def test_a_target_of_another_width_is_refused(kind: type[FeatureDraft]) -> None:
    made, wide = batch(), llama(layers=3, vocabulary=VOCABULARY, width=24)
    said = r"the draft has width=16, and the hidden states of its target `target` are 24 wide: set `width: 24`"
    with pytest.raises(ValueError, match=said):
        draft(kind)(made, signals(wide, made))
    cached = {name: one for name, one in signals(wide, made).items() if name not in ("embedding", "head")}
    with pytest.raises(ValueError, match=said):
        draft(kind)(made, cached)


def test_a_target_of_another_vocabulary_is_refused() -> None:
    made = batch()
    said = "the draft has a vocabulary of 41, its target `big` one of 40: a draft uses the target's embedding and head"
    with pytest.raises(ValueError, match=said):
        draft(FSPAD, vocabulary=41, target="big")(made, signals(TARGET, made))


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"draft_vocabulary": 8}, "draft_vocabulary keeps the most frequent tokens, and nobody has counted them: set "),
        (
            {"draft_vocabulary": 8, "token_counts": [1, 2]},
            "token_counts holds 2 numbers, the vocabulary 40 tokens",
        ),
        ({"draft_vocabulary": 41, "token_counts": COUNTS}, "draft_vocabulary=41 keeps that many of the target's 40 "),
    ],
)
def test_a_vocabulary_without_counts_is_refused(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draft(Medusa, **keywords)


def test_the_whole_vocabulary_needs_no_maps() -> None:
    assert draft(FSPAD).d2t is None
    assert draft(FSPAD, draft_vocabulary=VOCABULARY).d2t is None
    assert "d2t" not in draft(FSPAD).state_dict()


def test_it_names_the_model_that_it_reads() -> None:
    assert draft(Falcon).reads == ("target",)
    assert draft(Falcon, target="teacher").reads == ("teacher",)


def test_a_row_stands_at_its_features_position() -> None:
    made = batch(n=1, packed=True)
    assert row_positions(made)[0].tolist() == [-1, 0, 1, 2, -1, 0, 1, 2, -1, 0]
    assert row_positions({"input_ids": made["input_ids"]})[0, :3].tolist() == [-1, 0, 1]

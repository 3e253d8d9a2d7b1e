from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.losses.kl import KL
from kdcore.run.exporters import torch_export
from kdcore.signals import IGNORE
from kdcore.testing import check_task
from torch import Tensor, nn

from kdcore_speech.metrics import WER
from kdcore_speech.tasks.seq2seq import Seq2Seq
from small import TOKENS, clips, transcriber
from utterances import padded

SYMBOLS = ["", *"abcdefghij"]


def task() -> Seq2Seq:
    made = Seq2Seq(vocabulary=TOKENS, blank=0, sample_rate=16000)
    made.facts |= {"symbols": SYMBOLS, "separator": " ", "audio_samples": 8000}  # as the data completes them
    return made


def batch() -> dict[str, Tensor]:
    audio, lengths = clips(8000, 5000, 900)
    return {"audio": audio, "audio_lengths": lengths, "tokens": padded([[1, 2], [3], []]), "id": torch.arange(3)}


def prepared() -> dict[str, Any]:
    return task().prepare(batch(), lambda name: nn.Identity())


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, audio: Tensor, audio_lengths: Tensor, labels: Tensor, *, listen: bool) -> Any:
        return self.output


class Other(NamedTuple):
    logits: Tensor
    frames: Tensor
    heard: Tensor


def test_it_keeps_what_a_task_promises():
    check_task(task(), transcriber(), batch(), metric=WER(symbols=SYMBOLS, blank=0, separator=" "))


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_the_tokens_and_the_end():
    found = prepared()
    assert found["labels"].tolist() == [[1, 2, 0], [3, 0, IGNORE], [IGNORE, IGNORE, IGNORE]]
    assert torch.equal(found["mask"], found["labels"] != IGNORE)
    assert torch.equal(found["tokens"], batch()["tokens"])


def test_the_core_s_losses_leave_out_the_padding():
    net, made = transcriber(), prepared()
    signals = task().signals(net, made, {})
    said = made["mask"]
    total = CrossEntropy()(signals, {}, made)
    assert int(total.count) == 5
    wanted = nn.functional.cross_entropy(signals["logits"][said], made["labels"][said], reduction="sum")
    torch.testing.assert_close(total.sum, wanted)
    assert int(KL()(signals, task().signals(transcriber(seed=1), made, {}), made).count) == 5


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_scored_is_written_down():
    net = transcriber()
    found = task().signals(net, batch(), {})
    assert torch.equal(found["heard"], net.transcribe(batch()["audio"], batch()["audio_lengths"]))


def test_a_batch_to_learn_from_is_not(monkeypatch: pytest.MonkeyPatch):
    net = transcriber()
    monkeypatch.setattr(net, "_written", lambda hidden: pytest.fail("it wrote"))
    scored = task().signals(net, prepared(), {})
    assert scored["heard"].shape == (3, 3)
    assert task().signals(net, task().example(2), {}).keys() == scored.keys()


def test_logits_are_aligned_with_labels():
    net = transcriber()
    found = task().signals(net, batch(), {})
    assert found["logits"].shape == (3, 3, TOKENS)
    torch.testing.assert_close(found["logits"], task().signals(net, prepared(), {})["logits"])


def test_a_batch_without_tokens():
    given = {name: value for name, value in batch().items() if name != "tokens"}
    with pytest.raises(KeyError, match=r"this task reads `tokens`, the batch holds: audio, audio_lengths, id"):
        task().signals(transcriber(), given, {})


def test_a_net_of_another_kind():
    says = (
        r"^the model returned a Tensor; a sequence-to-sequence net returns `logits` \(N, U, 11\), `frames` \(N,\) and "
        r"`heard` \(N, L\) by name$"
    )
    with pytest.raises(ValueError, match=says):
        task().signals(Returns(torch.zeros(3, 3, TOKENS)), batch(), {})


def test_another_vocabulary():
    output = Other(torch.zeros(3, 3, 5), torch.ones(3), torch.ones(3, 1))
    says = (
        r"^the model gave logits of the shape \(3, 3, 5\); the data has 11 tokens: \(N, U, 11\) is wanted\. Student "
        r"and teacher need the same vocabulary \(give the data the teacher's\)$"
    )
    with pytest.raises(ValueError, match=says):
        task().signals(Returns(output), batch(), {})


@pytest.mark.parametrize(("vocabulary", "blank"), [(1, 0), (5, 5), (5, -1)])
def test_a_vocabulary_that_says_nothing(vocabulary: int, blank: int):
    with pytest.raises(ValueError, match=rf"^vocabulary={vocabulary} with blank={blank}: give the blank and one token"):
        Seq2Seq(vocabulary=vocabulary, blank=blank, sample_rate=16000)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_what_is_observed():
    logits = torch.randn(3, 3, TOKENS)
    ours = {"logits": logits, "heard": torch.tensor([[1, 2], [4, 5], [1, 1]])}
    theirs = {"logits": torch.randn(3, 3, TOKENS)}
    found = task().observe(ours, {"teacher": theirs}, batch())
    assert torch.equal(found["transcripts"][0], ours["heard"])
    assert torch.equal(found["transcripts"][1], batch()["tokens"])
    assert torch.equal(found["preds_target"][1], prepared()["labels"])
    said = prepared()["mask"]
    for one, signals in zip(found["student_teacher"], (ours, theirs), strict=True):
        assert torch.equal(one, signals["logits"][said])
    metric = WER(symbols=SYMBOLS, blank=0, separator=" ")
    metric.update(*found["transcripts"])
    assert metric.compute() == pytest.approx(2 / 3)  # `d e` for `c`: one wrong, one too many, of three words


def test_chance_is_an_empty_transcript():
    metric = WER(symbols=SYMBOLS, blank=0, separator=" ")
    metric.update(torch.full((3, 1), IGNORE), batch()["tokens"])
    assert metric.compute() == task().chance()


def test_an_example_needs_a_length():
    with pytest.raises(ValueError, match="an example needs the fact audio_samples"):
        Seq2Seq(vocabulary=TOKENS, blank=0, sample_rate=16000).example(2)


@pytest.mark.parametrize(("blank", "token"), [(0, 1), (4, 0)])
def test_an_example_says_something(blank: int, token: int):
    made = Seq2Seq(vocabulary=TOKENS, blank=blank, sample_rate=16000)
    made.facts["audio_samples"] = 100
    assert made.example(2)["labels"].tolist() == [[token, blank]] * 2


# --- deploy -----------------------------------------------------------------------------------------------------------


def test_deployed_it_writes_down_what_it_hears():
    net = transcriber()
    made = batch()
    found = task().deploy(net)(made["audio"], made["audio_lengths"])
    written = net.transcribe(made["audio"], made["audio_lengths"])
    assert found.shape == (3, net.limit)
    assert torch.equal(found[:, : written.shape[1]], written)
    assert (found[:, written.shape[1] :] == IGNORE).all()


@pytest.mark.slow
def test_it_can_be_exported(tmp_path: Path):
    made = batch()
    deployed = task().deploy(transcriber())
    (path,) = torch_export(deployed, (made["audio"], made["audio_lengths"]), tmp_path)
    shorter = made["audio"][1:, :5000], made["audio_lengths"][1:]
    assert torch.equal(torch.export.load(path).module()(*shorter), deployed(*shorter))

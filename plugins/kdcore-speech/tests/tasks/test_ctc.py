from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from kdcore.errors import RunError
from kdcore.testing import check_task
from torch import Tensor, nn

from kdcore_speech.metrics import WER
from kdcore_speech.models.conv import conv
from kdcore_speech.models.nets import Recognised, Recogniser
from kdcore_speech.tasks.ctc import CTCRecognition
from utterances import padded

SYMBOLS = ["", "a", "b", "c", "d"]


def task(**options: Any) -> CTCRecognition:
    made = CTCRecognition(vocabulary=5, blank=0, sample_rate=8000, **options)
    made.facts |= {"symbols": SYMBOLS, "separator": " ", "audio_samples": 1600}  # as the data completes them
    return made


def net(stride: int = 2, vocabulary: int = 5) -> Recogniser:
    torch.manual_seed(0)
    return conv(sample_rate=8000, vocabulary=vocabulary, width=8, depth=1, kernel=3, mels=12, stride=stride)


def batch() -> dict[str, Tensor]:
    audio = 0.2 * torch.randn(3, 1600, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([1600, 900, 500])
    audio = audio * (torch.arange(1600) < lengths.unsqueeze(1))
    return {"audio": audio, "audio_lengths": lengths, "tokens": padded([[1, 2], [3], []]), "id": torch.arange(3)}


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Any:
        return self.output


class More(NamedTuple):
    logits: Tensor
    frames: Tensor
    codes: Tensor
    nothing: None


def test_it_keeps_what_a_task_promises():
    metric = WER(symbols=SYMBOLS, blank=0, separator=" ")
    check_task(task(), net(), batch(), metric=metric)
    check_task(task(mask_of="student"), net(), batch(), metric=metric)


def test_signals_are_what_the_model_says():
    model, given = net(), batch()
    signals = task().signals(model, given, {})
    assert set(signals) == {"logits", "frames"}
    assert torch.equal(signals["logits"], model(given["audio"], given["audio_lengths"]).logits)
    assert signals["frames"].tolist() == [10, 6, 4]


def test_what_a_model_says_besides_is_a_signal_too():
    model = Returns(More(torch.zeros(3, 4, 5), torch.ones(3, dtype=torch.int64), torch.zeros(3, 4), None))
    assert set(task().signals(model, batch(), {})) == {"logits", "frames", "codes"}


def test_padding_does_not_matter():
    model, given = net(), batch()
    whole = task().signals(model, given, {})
    cut = {**given, "audio": given["audio"][1:2, :900], "audio_lengths": given["audio_lengths"][1:2]}
    alone = task().signals(model, cut, {})
    torch.testing.assert_close(whole["logits"][1, :6], alone["logits"][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            torch.zeros(3, 4, 5),
            r"returned a Tensor; a recogniser returns `logits` \(N, T, 5\) and `frames` \(N,\) by name",
        ),
        ((torch.zeros(3, 4, 5), torch.ones(3)), "returned a tuple; a recogniser returns"),
        (
            Recognised(torch.zeros(3, 4, 9), torch.ones(3)),
            r"logits of the shape \(3, 4, 9\); the data has 5 labels, so \(N, T, 5\) is wanted: student and teacher "
            "need the same vocabulary",
        ),
        (Recognised(torch.zeros(3, 5), torch.ones(3)), r"logits of the shape \(3, 5\)"),
    ],
)
def test_a_model_that_gives_something_else_is_named(output: Any, message: str):
    with pytest.raises(ValueError, match=message):
        task().signals(Returns(output), batch(), {})


def test_a_batch_without_audio_is_named():
    with pytest.raises(KeyError, match="tasks of speech read `audio`, the batch holds: id, tokens"):
        task().signals(net(), {"tokens": padded([[1]]), "id": torch.zeros(1)}, {})


# ---- masks


def test_the_mask_tells_the_frames_of_one_model():
    models = {"student": net(stride=3), "teacher": net()}
    made = task(mask_of="student").prepare(batch(), models.__getitem__)
    signals = task().signals(models["student"], made, {})
    assert made["mask"].shape == signals["logits"].shape[:2]
    assert made["mask"].sum(1).tolist() == signals["frames"].tolist()
    assert "mask" not in batch()


def test_each_view_has_its_own_mask():
    given = batch()
    short = {"audio": given["audio"][:, :1000], "audio_lengths": given["audio_lengths"].clamp(max=1000)}
    made = task(mask_of="student").prepare(
        {**given, "views": {"cut": short, "same": {}}}, {"student": net()}.__getitem__
    )
    assert made["mask"].shape == (3, 10)
    assert made["views"]["cut"]["mask"].sum(1).tolist() == [7, 6, 4]
    assert made["views"]["same"] == {}
    assert "mask" not in short


def test_without_it_a_batch_stays_as_it_is():
    given = batch()
    assert task().prepare(given, {}.__getitem__) is given


def test_a_model_without_frames_is_named():
    with pytest.raises(RunError, match=r"mask_of: `student` is a Linear, which has no `frames\(samples\)`"):
        task(mask_of="student").prepare(batch(), {"student": nn.Linear(1, 1)}.__getitem__)


# ---- metrics


def test_metrics_are_given_transcripts_and_logits_of_frames_that_count():
    given = batch()
    ours, theirs, slower = (task().signals(model, given, {}) for model in (net(), net(), net(stride=4)))
    observed = task().observe(ours, {"teacher": theirs}, given)
    heard, said = observed["transcripts"]
    assert heard.shape == (3, 10)
    assert said is given["tokens"]
    assert observed["frames_tokens"] == (ours["frames"], given["tokens"])
    student, teacher = observed["student_teacher"]
    assert student.shape == teacher.shape == (20, 5)
    # frames of another rate are not compared
    assert "student_teacher" not in task().observe(ours, {"teacher": slower}, given)
    del given["tokens"]
    assert task().observe(ours, {}, given) == {}


def test_an_empty_transcript_is_chance():
    metric = WER(symbols=SYMBOLS, blank=0, separator=" ")
    metric.update(torch.full((1, 3), -100), padded([[1, 2]]))
    assert float(metric.compute()) == task().chance()


# ---- example, deploy


def test_an_example_is_a_clip_of_the_longest_length():
    example = task().example(2)
    assert example["audio"].shape == (2, 1600)
    assert example["audio_lengths"].tolist() == [1600, 1600]
    assert example["tokens"].tolist() == [[1], [1]]
    made = CTCRecognition(vocabulary=5, blank=1, sample_rate=8000)
    with pytest.raises(ValueError, match="an example needs the fact audio_samples; known are: blank, sample_rate, voc"):
        made.example(1)


@pytest.mark.parametrize(("vocabulary", "blank"), [(1, 0), (5, 5), (5, -1)])
def test_impossible_vocabularies(vocabulary: int, blank: int):
    with pytest.raises(ValueError, match=f"vocabulary={vocabulary} with blank={blank}: give the blank and one label"):
        CTCRecognition(vocabulary=vocabulary, blank=blank, sample_rate=8000)


def test_what_is_shipped_takes_raw_audio_and_gives_tokens():
    model, given = net(), batch()
    deployed = task().deploy(model)
    tokens, probabilities = deployed(given["audio"], given["audio_lengths"])
    signals = task().signals(model, given, {})
    torch.testing.assert_close(probabilities, signals["logits"].softmax(-1))
    assert torch.equal(tokens, task().observe(signals, {}, given)["transcripts"][0])
    assert not deployed.training
    assert deployed(given["audio"].bfloat16(), given["audio_lengths"])[1].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch_export", "onnx"])
def test_what_is_shipped_can_be_exported(tmp_path: Any, name: str):
    from kdcore.run import exporters

    given = batch()
    made = getattr(exporters, name)(task().deploy(net()), (given["audio"], given["audio_lengths"]), tmp_path)
    assert made[0].exists()

"""Whole runs of the tasks that transformers' nets are made for, and of these nets as teachers and students."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kdcore.testing.runner import Runner

import pretrained
from conftest import Write
from kdcore_speech.data import tones

HEAD = """\
kdcore: 1
name: small
trainer: {max_epochs: 1}
logger: null
"""

SEQ2SEQ = """\
task: {use: speech.seq2seq}
data: {use: speech.tones, sample_rate: 16000, batch_size: 6, labels: 6}
models:
  teacher: {use: speech.whisper, pretrained: whisper, limit: 8}
  student: {use: speech.whisper, pretrained: whisper, limit: 8, options: {decoder_layers: 2}}
stages:
  alone: {train: alone, losses: {ce: {use: cross_entropy}}}
  transcribe: {do: {use: speech.transcribe, model: teacher}}
  distil:
    train: student
    teachers: [teacher]
    data: {table: transcribe}
    init: {student: {from: teacher, map: {decoder.layers.1: decoder.layers.3}}}
    freeze: {student: [encoder.**]}
taps: {top: {student: decoder.layers.1, teacher: decoder.layers.3}}
losses: {ce: {use: cross_entropy}, kd: {use: kl}, hint: {use: mse, at: top}}
metrics: {wer: {use: speech.wer}, accuracy: {use: accuracy}, agreement: {use: agreement}}
""".replace("stages:", "  alone: ${models.student}\nstages:")

NET = "{hidden_size: 16, num_attention_heads: 2, intermediate_size: 16, num_hidden_layers: 2, conv_dim: [8, 8], "
NET += "conv_kernel: [200, 3], conv_stride: [80, 2], num_conv_pos_embeddings: 8, num_conv_pos_embedding_groups: 2}"

CTC = f"""\
task: {{use: speech.ctc}}
data: {{use: speech.tones, batch_size: 6}}
models:
  teacher: {{use: speech.wav2vec2_ctc, kind: wavlm, options: {NET}}}
  student: {{use: speech.wav2vec2_ctc, options: {NET}}}
stages:
  teach: {{train: teacher, losses: {{ctc: {{use: speech.ctc}}}}}}
  distil: {{train: student, teachers: [teacher], task: {{mask_of: student}}, freeze: {{student: [encoder.convs.**]}}}}
losses: {{ctc: {{use: speech.ctc}}, kd: {{use: kl}}}}
metrics: {{wer: {{use: speech.wer}}}}
"""

REPRESENTATION = """\
task: {use: speech.representation}
data: {use: speech.tones, sample_rate: 16000, batch_size: 6}
models:
  teacher: {use: speech.wav2vec2, pretrained: hubert}
  student: {use: speech.conformer_encoder, width: 8, depth: 1, heads: 2, mels: 20}
stages:
  distil: {train: student, teachers: [teacher]}
taps: {deep: {student: encoder.blocks.0, teacher: encoder.blocks.11}}
losses: {hear: {use: speech.distilhubert, at: deep}}
metrics: {cka: {use: speech.cka}}
"""

SPEAKER = """\
task: {use: speech.speaker}
data: {use: speech.folders, path: voices, sample_rate: 8000, batch_size: 4, validation: 0.3, test: 0.2}
models:
  teacher: {use: speech.conformer_speaker, size: 4, width: 16, depth: 1, heads: 2, mels: 20}
  student: {use: speech.conformer_speaker, size: 4, width: 8, depth: 1, heads: 2, mels: 20}
stages:
  teach: {train: teacher, losses: {margin: {use: speech.margin}}}
  distil: {train: student, teachers: [teacher]}
losses: {margin: {use: speech.margin}, same: {use: cosine, signal: embedding}}
metrics: {eer: {use: speech.eer}}
"""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tones, "COUNTS", {"train": 12, "val": 6, "test": 6})
    for task in ("ctc.CTCRecognition", "seq2seq.Seq2Seq", "speaker.Speaker"):
        monkeypatch.setattr(f"kdcore_speech.tasks.{task}.chance", lambda self: None)  # nothing is learnt so soon


@pytest.mark.slow
def test_whisper_teaches_itself_with_fewer_layers(runner: Runner, tmp_path: Path):
    pretrained.whisper(tmp_path / "whisper", len("".join(tones.KEYS)) + 1)
    run = runner.fit(HEAD + SEQ2SEQ)
    assert set(run.report["models"]) == {"teacher", "student", "alone"}
    assert {"wer", "accuracy", "agreement"} <= run.report["models"]["student"]["metrics"].keys()


@pytest.mark.slow
def test_wav2vec2_learns_from_wavlm(runner: Runner):
    run = runner.fit(HEAD + CTC)
    assert "wer" in run.report["models"]["student"]["metrics"]
    card = json.loads((run.folder / "distil" / "student.json").read_text(encoding="utf-8"))
    assert card["class_names"][0] == "<blank>"


@pytest.mark.slow
def test_a_conformer_hears_as_hubert_does(runner: Runner, tmp_path: Path):
    pretrained.hubert(tmp_path / "hubert")
    models = runner.fit(HEAD + REPRESENTATION).report["models"]
    assert 0 <= models["student"]["metrics"]["cka"]["test"] < 1
    assert models["teacher"]["metrics"]["cka"]["test"] == pytest.approx(1.0)


def test_a_speaker_net(runner: Runner, sound: Write):
    for place in range(20):
        sound(f"voices/{'ab'[place % 2]}/{place}.wav", 0.2 + 0.01 * place, hertz=200.0 + 200 * (place % 2))
    run = runner.fit(HEAD + SPEAKER)
    assert 0 <= run.report["models"]["student"]["metrics"]["eer"]["test"] <= 1

"""Everything this plugin adds to kdcore. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import Problem, not_installed
from kdcore.hookspecs import Add, hookimpl

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe

KDCORE_API = 1

NEEDED = {"jiwer": "jiwer", "scipy": "scipy", "soundfile": "soundfile"}
"""Module -> distribution."""


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "ctc", "kdcore_speech.tasks.ctc:CTCRecognition")
    add("task", "tagging", "kdcore_speech.tasks.tagging:Tagging")
    add("task", "seq2seq", "kdcore_speech.tasks.seq2seq:Seq2Seq")
    add("task", "representation", "kdcore_speech.tasks.representation:Representation")
    add("task", "speaker", "kdcore_speech.tasks.speaker:Speaker")

    add("data", "tones", "kdcore_speech.data.tones:Tones")
    add("data", "manifest", "kdcore_speech.data.manifest:Manifest")
    add("data", "folders", "kdcore_speech.data.folders:Folders")
    add("data", "fsdd", "kdcore_speech.data.fsdd:FSDD")

    add("transform", "spec_augment", "kdcore_speech.transforms:spec_augment")

    add("model", "conv", "kdcore_speech.models.conv:conv")
    add("model", "conv_tagger", "kdcore_speech.models.conv:conv_tagger")
    add("model", "conformer", "kdcore_speech.models.conformer:conformer")
    add("model", "conformer_tagger", "kdcore_speech.models.conformer:conformer_tagger")
    add("model", "token_tagger", "kdcore_speech.models.tokens:token_tagger")
    add("model", "wav2vec2", "kdcore_speech.models.wav2vec2:wav2vec2")
    add("model", "wav2vec2_ctc", "kdcore_speech.models.wav2vec2:wav2vec2_ctc")
    add("model", "wav2vec2_tagger", "kdcore_speech.models.wav2vec2:wav2vec2_tagger")
    add("model", "wav2vec2_speaker", "kdcore_speech.models.wav2vec2:wav2vec2_speaker")
    add("model", "conformer_speaker", "kdcore_speech.models.speaker:conformer_speaker")
    add("model", "conformer_encoder", "kdcore_speech.models.representation:conformer_encoder")
    add("model", "whisper", "kdcore_speech.models.whisper:whisper")

    add("loss", "ctc", "kdcore_speech.losses.ctc:CTC")
    add("loss", "margin", "kdcore_speech.losses.margin:Margin")
    add("loss", "frame_kl", "kdcore_speech.losses.frame_kl:FrameKL")
    add("loss", "guided_ctc", "kdcore_speech.losses.guided_ctc:GuidedCTC")
    add("loss", "bert_ctc", "kdcore_speech.losses.bert_ctc:BertCTC")
    add("loss", "slu_features", "kdcore_speech.losses.slu:RehearsedFeatures")
    add("loss", "slu_predictions", "kdcore_speech.losses.slu:RehearsedPredictions")
    add("loss", "distilhubert", "kdcore_speech.losses.distilhubert:DistilHuBERT")
    add("loss", "mvq", "kdcore_speech.losses.mvq:MVQ")
    add("loss", "ced", "kdcore_speech.losses.ced:CED")
    add("loss", "audiocap", "kdcore_speech.losses.audiocap:EncoderContrast")
    add("loss", "dm_codec", "kdcore_speech.losses.dm_codec:DMCodec")
    add("loss", "os_kdft", "kdcore_speech.losses.os_kdft:OSKDFT")

    add("action", "quantise", "kdcore_speech.actions.quantise:Quantise")
    add("action", "transcribe", "kdcore_speech.actions.transcribe:Transcribe")
    add("action", "rehearse", "kdcore_speech.actions.rehearse:Rehearse")
    add("action", "token_probabilities", "kdcore_speech.actions.token_probabilities:TokenProbabilities")

    add("edit", "adapters", "kdcore_speech.adapters:adapters")

    add("metric", "wer", "kdcore_speech.metrics:WER")
    add("metric", "cer", "kdcore_speech.metrics:CER")
    add("metric", "impossible", "kdcore_speech.metrics:Impossible")
    add("metric", "eer", "kdcore_speech.metrics:EER")
    add("metric", "cka", "kdcore_speech.similarity:CKA")


@hookimpl
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:
    from kdcore_speech.check import check_recipe

    return check_recipe(recipe)


@hookimpl
def kdcore_check_environment() -> list[Problem]:
    return not_installed(NEEDED)

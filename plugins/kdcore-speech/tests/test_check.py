"""What `check` says of recipes, before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kdcore.errors import RecipeError
from kdcore.plugins import Plugins
from kdcore.recipe.check import read

BASE = """\
kdcore: 1
name: lab
task: {use: speech.ctc}
data: {use: speech.tones}
models:
  teacher: {use: speech.conv, width: 16}
  student: {use: speech.conv, width: 8}
stages:
  teach: {train: teacher, losses: {ctc: {use: speech.ctc}}}
  distil: {train: student, teachers: [teacher], task: {mask_of: student}}
losses: {ctc: {use: speech.ctc}, kd: {use: kl}}
trainer: {max_epochs: 1}
logger: null
"""


@pytest.fixture
def problems(tmp_path: Path) -> Any:
    """What is said, as ``path: message | hint``."""

    def said(*overrides: str, text: str = BASE) -> list[str]:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        plugins = Plugins()
        try:
            found = plugins.check_recipe(read([tmp_path / "recipe.yaml"], overrides, plugins))
        except RecipeError as error:
            found = list(error.problems)
        return [f"{one.path}: {one.message.removeprefix('speech: ')} | {one.hint}" for one in found]

    return said


def test_a_good_recipe_has_none(problems: Any):
    assert problems() == []
    assert problems("stages.distil.losses={kd: {use: speech.ctc}}", "~stages.distil.task") == []


def test_a_core_loss_on_frames_wants_a_mask(problems: Any):
    (said,) = problems("~stages.distil.task")
    assert said == (
        "losses.kd: `kl` would count the padding behind each clip's end | add `task: {mask_of: student}` to the stage"
    )
    assert problems("~stages.distil.task", "~losses.kd") == []


def test_frames_of_two_rates_want_to_be_resized(problems: Any):
    (said,) = problems("models.student.stride=3")
    assert said == (
        "losses.kd: compares frames, and makes `student` a frame of 30 ms and `teacher` a frame of 20 ms | add "
        "`resize: teacher`"
    )
    assert problems("models.student.stride=3", "losses.kd.resize=teacher") == []
    (said,) = problems("models.teacher={use: speech.conformer}")
    assert "`teacher` a frame of 40 ms" in said
    assert problems("models.teacher={use: speech.conformer, stride: 2}") == []


def test_statistics_of_the_input_are_of_no_use(problems: Any):
    for name in ("mean", "std"):
        (said,) = problems(f"models.teacher.{name}=[0.5]")
        assert said == (
            f"models.teacher.{name}: is of no use here: nets of speech take waveforms as they are | leave it out"
        )


def test_strings_are_for_recognisers_and_digits_for_taggers(problems: Any, tmp_path: Path):
    (said,) = problems(f"data={{use: speech.fsdd, path: {tmp_path}}}")
    assert said == (
        "data.strings: gives `speech.ctc` single digits, which have no transcripts | say how many strings to train on, "
        "such as `strings: 1000`"
    )
    assert problems(f"data={{use: speech.fsdd, path: {tmp_path}, strings: 10}}") == []
    tagging = BASE.replace("speech.conv", "speech.conv_tagger").replace("use: speech.ctc", "use: cross_entropy")
    tagging = tagging.replace("task: {use: cross_entropy}", "task: {use: speech.tagging}").replace(
        ", task: {mask_of: student}", ""
    )
    data = f"data={{use: speech.fsdd, path: {tmp_path}}}"
    assert problems(data, text=tagging) == []
    (said,) = problems(data, "data.strings=5", text=tagging)
    assert said == ("data.strings: gives `speech.tagging` strings of digits, which have transcripts | remove it")


def test_an_ensemble_writes_no_transcript(problems: Any):
    written = BASE.replace("speech.ctc", "speech.seq2seq", 1).replace("{use: speech.ctc}", "{use: cross_entropy}")
    written = written.replace(", task: {mask_of: student}", "").replace(", width: 16", "").replace(", width: 8", "")
    written = written.replace("speech.conv", "speech.whisper")
    assert problems(text=written) == []
    both = "models.both={use: ensemble, of: [teacher, other]}", "models.other={use: speech.whisper, seed: 1}"
    taught = written.replace("  distil:", "  other: {train: other, losses: {ce: {use: cross_entropy}}}\n  distil:")
    (said,) = problems(*both, "stages.distil.teachers=[both]", text=taught)
    assert said == (
        "models.both: is an ensemble, which cannot write a transcript token by token | name its members as teachers"
    )


def test_data_of_a_kind_that_a_representation_does_not_read(problems: Any, tmp_path: Path):
    bare = BASE.replace("use: speech.ctc}\ndata", "use: speech.representation}\ndata").replace(
        "{use: speech.ctc}", "{use: speech.distilhubert}"
    )
    bare = bare.replace("speech.conv", "speech.conformer_encoder").replace(", task: {mask_of: student}", "")
    for strings in ("", ", strings: 5"):
        said = problems(f"data={{use: speech.fsdd, path: {tmp_path}{strings}}}", text=bare)
        assert not [one for one in said if "strings" in one]

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workshop import Workshop

from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.run.restore import Restored, restore, samples


@pytest.fixture(scope="module")
def restored(finished: Workshop) -> Restored:
    plugins = Plugins()
    return restore(read([finished.recipe], [], plugins), plugins, finished.runs, (), print)


CUSTOM = '''
"""Counts parameters into a text file."""
from kdcore.hookspecs import hookimpl


def count(module, example, folder, *, unit: str = "parameters", data=None, card=None):
    path = folder / "count.txt"
    rows = len(data.split("train"))
    count = sum(p.numel() for p in module.parameters())
    path.write_text(f"{count} {unit}, {tuple(example[0].shape)}, {rows}, {card['model']}")
    return [path]


@hookimpl
def kdcore_register(add):
    add("exporter", "count", count)
'''


def test_the_student_alone_goes_out_by_default(finished: Workshop, tmp_path: Path) -> None:
    result = finished.kdcore("export", "--to", tmp_path)
    assert result.code == 0, result.err
    folder = tmp_path / "student"
    assert result.out.split() == [str(folder / "model.safetensors"), str(folder / "student.json")]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.safetensors", "student", "student.json"]
    kept = load_file(finished.folders()[0] / "distil" / "student.safetensors")
    shipped = load_file(folder / "model.safetensors")
    weights = {key: tensor for key, tensor in shipped.items() if tensor.numel() > 1 and "mean" not in key}
    assert sorted(tuple(tensor.shape) for tensor in weights.values()) == sorted(tuple(t.shape) for t in kept.values())
    for tensor in kept.values():
        assert any(tensor.equal(other) for other in weights.values())
    card = json.loads((folder / "student.json").read_text())
    assert card["inputs"] == {"image": [1, 8, 8]}
    assert card["class_names"] == list("0123456789")
    assert (card["recipe"], card["task"], card["model"]) == ("tiny", "classify", "student")


def test_fit_exports_what_it_has_trained(workshop: Workshop) -> None:
    result = workshop.kdcore(
        "fit", "--export", "safetensors", "--export", "local.count", "--plugin", workshop.write("custom.py", CUSTOM)
    )
    assert result.code == 0, result.err
    (run,) = workshop.folders()
    folder = run / "export" / "student"
    assert result.out.splitlines()[-4:] == [
        f"report: {run / 'report.md'}",
        f"export: {folder / 'model.safetensors'}",
        f"export: {folder / 'count.txt'}",
        f"export: {folder / 'student.json'}",
    ]
    assert json.loads((folder / "student.json").read_text())["model"] == "student"


def test_a_format_that_writes_over_anothers_file_is_told(workshop: Workshop, tmp_path: Path) -> None:
    twice = CUSTOM.replace(
        'add("exporter", "count", count)', 'add("exporter", "count", count)\n    add("exporter", "sum", count)'
    )
    plugin = workshop.write("twice.py", twice)
    workshop.fit("--plugin", plugin)
    words = ("--plugin", plugin, "--format", "local.count", "--format", "local.sum")
    result = workshop.kdcore("export", *words, "--to", tmp_path)
    assert result.code == 1
    assert f"`local.sum` has written over {tmp_path / 'student' / 'count.txt'} of another format" in result.err


def test_an_unknown_format_is_said_before_anything_is_trained(workshop: Workshop) -> None:
    result = workshop.kdcore("fit", "--export", "onxx", "--export", "tflite")
    assert result.code == 2
    assert "--export onxx: there is no exporter `onxx`\n    did you mean `onnx`?" in result.err
    assert "--export tflite: there is no exporter `tflite`" in result.err
    assert not workshop.runs.exists()


@pytest.mark.slow
def test_every_format_answers_like_the_net(finished: Workshop, restored: Restored, tmp_path: Path) -> None:
    import onnxruntime

    words = ("--format", "safetensors", "--format", "onnx", "--format", "torch", "--model", "teacher")
    result = finished.kdcore("export", *words, "--to", tmp_path)
    assert result.code == 0, result.err
    folder = tmp_path / "teacher"
    images = samples(restored, ["image"], 32)[0]
    wanted = restored.cast.task.deploy(restored.cast.module("teacher"))(images).detach()
    torch.testing.assert_close(wanted.sum(1), torch.ones(32))  # softmax is inside
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), wanted, atol=1e-5, rtol=0)
    program = torch.export.load(folder / "model.pt2").module()
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == list("0123456789")
    assert json.loads(said["inputs"]) == {"image": [1, 8, 8]}
    for size in (1, 7):  # the batch is dynamic
        torch.testing.assert_close(program(images[:size]), wanted[:size], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "studnet"), "--model studnet: `studnet` is no model of the recipe\n    did you mean `student`?"),
        (("--format", "onxx"), "--format onxx: there is no exporter `onxx`\n    did you mean `onnx`?"),
        (("--format", "safetensors", "--format", "tflite"), "--format tflite: there is no exporter `tflite`"),
    ],
)
def test_names_that_nobody_knows(words: tuple[str, ...], message: str, finished: Workshop, tmp_path: Path) -> None:
    result = finished.kdcore("export", *words, "--to", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


def test_a_format_of_ones_own(workshop: Workshop, tmp_path: Path) -> None:
    plugin = workshop.write("custom.py", CUSTOM)
    workshop.fit("--plugin", plugin)
    result = workshop.kdcore("export", "--plugin", plugin, "--format", "local.count", "--to", tmp_path)
    assert result.code == 0, result.err
    assert (tmp_path / "student" / "count.txt").read_text() == "310 parameters, (32, 1, 8, 8), 1000, student"

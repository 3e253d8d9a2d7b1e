from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from plugin_factory import HEALTHY, PluginFactory

from kdcore.errors import RecipeError
from kdcore.new_recipe import new_recipe
from kdcore.plugins import Plugins


def write(task: str = "classify", teacher: Path | str | None = None, data: Path | str | None = None) -> str:
    return new_recipe(
        task, teacher=str(teacher) if teacher else None, data=str(data) if data else None, plugins=Plugins()
    )


def resolved(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(yaml.safe_load(text)), resolve=True)


def safetensors(path: Path, header: dict[str, Any] | bytes, length: int | None = None) -> Path:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(body) if length is None else length).to_bytes(8, "little") + body)
    return path


HEADER = {
    "__metadata__": {"format": "pt"},
    "head.weight": {"dtype": "F32", "shape": [10, 4], "data_offsets": [0, 160]},
    "head.bias": {"dtype": "F32", "shape": [10], "data_offsets": [160, 200]},
}


class TestClassify:
    def test_without_a_teacher_it_trains_one_and_the_fair_baseline(self, plugins: PluginFactory) -> None:
        recipe = resolved(write())

        assert recipe["kdcore"] == 1
        assert recipe["task"]["use"] == "classify"
        assert recipe["data"] == {"use": "arrays", "path": "DATA.npz"}
        assert list(recipe["stages"]) == ["teach", "alone", "distil"]
        assert recipe["stages"]["distil"] == {"train": "student", "teachers": ["teacher"]}
        assert recipe["models"]["alone"] == recipe["models"]["student"]
        assert recipe["models"]["teacher"]["width"] > recipe["models"]["student"]["width"]
        assert [recipe["losses"][name]["use"] for name in ("ce", "kd")] == ["cross_entropy", "kl"]

    def test_with_a_teacher_the_default_stages_do(self, plugins: PluginFactory, tmp_path: Path) -> None:
        file = safetensors(tmp_path / "net.safetensors", HEADER)

        text = write(teacher=file)

        assert "stages" not in resolved(text)
        assert resolved(text)["models"]["teacher"]["weights"] == f"file://{file}"
        assert "weights" not in resolved(text)["models"]["student"]
        assert "# net.safetensors holds 2 tensors: head.bias [10], head.weight [10, 4]\n" in text

    def test_data(self, plugins: PluginFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine.npz").touch()
        monkeypatch.chdir(tmp_path)

        assert resolved(write(data="mine.npz"))["data"]["path"] == str(tmp_path / "mine.npz")

    @pytest.mark.parametrize("name", ["with space.npz", "a: b #c.npz", "${oc.env:HOME}.npz", 'quo"te.npz', "größe.npz"])
    def test_awkward_file_names_survive(self, plugins: PluginFactory, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()

        assert resolved(write(data=tmp_path / name))["data"]["path"] == str(tmp_path / name)

    def test_every_parameter_of_a_slot_is_shown(self, plugins: PluginFactory) -> None:
        text, registry = write(), Plugins().registry
        for kind, name in [("data", "arrays"), ("model", "convnet"), ("loss", "kl"), ("metric", "calibration")]:
            component = registry.get(kind, name)  # type: ignore[arg-type]
            assert component is not None
            for parameter in component.parameters().values():
                assert f" {parameter.name}: " in text, (name, parameter)

    def test_the_choices_are_listed_with_their_first_line(self, plugins: PluginFactory) -> None:
        text = write()

        assert "  # mlp: " in text
        assert "  # cosine: " in text
        assert "When distilling pays" in text

    def test_lines_are_readable(self, plugins: PluginFactory) -> None:
        assert max(map(len, write().splitlines())) <= 130

    def test_it_passes_the_check(self, plugins: PluginFactory, tmp_path: Path) -> None:
        check = pytest.importorskip("kdcore.recipe.check")
        (tmp_path / "mine.npz").touch()
        teacher = safetensors(tmp_path / "net.safetensors", HEADER)
        for number, text in enumerate([write(), write(teacher=teacher, data=tmp_path / "mine.npz")]):
            file = tmp_path / f"{number}.yaml"
            file.write_text(text, encoding="utf-8")

            recipe = check.read([file], [], Plugins(), alone=True)

            assert list(recipe.stages)[-1] in ("distil", "student")
            assert len(recipe.stages) >= 2


TASK = (
    HEALTHY
    + """
        add("task", "boxes", "{package}.losses:Boxes")
        add("loss", "labels", "{package}.losses:Labels")
        add("metric", "map", "{package}.losses:Map")
"""
)
MORE = '''
    class Boxes:
        """Boxes and their classes."""

        def __init__(self, *, classes: int) -> None: ...

    class Labels:
        """Cross-entropy of boxes."""

        needs = frozenset({"student.logits"})

    class Map:
        """Mean average precision."""
'''


class TestPluginTask:
    def install(self, plugins: PluginFactory, **more: Any) -> str:
        package = plugins.install("detection", TASK, version="1.2", **more)
        losses = plugins.site / package / "losses.py"
        from textwrap import dedent

        losses.write_text(losses.read_text() + dedent(MORE))
        return package

    def test_its_own_components_come_first(self, plugins: PluginFactory) -> None:
        self.install(plugins)

        recipe = resolved(write("detection.boxes"))

        assert recipe["task"] == {"use": "detection.boxes"}
        assert recipe["requires"][1] == "kdcore-detection>=1.2"
        assert recipe["models"]["student"] == {"use": "detection.yolo"}
        assert recipe["losses"]["ce"]["use"] == "detection.labels"
        assert recipe["losses"]["kd"] == {"use": "detection.fgd", "weight": 0.9}
        assert recipe["metrics"] == {"map": {"use": "detection.map"}}
        assert recipe["stages"]["teach"]["losses"] == {"ce": {"use": "detection.labels"}}

    def test_its_own_template_wins(self, plugins: PluginFactory, tmp_path: Path) -> None:
        package = self.install(plugins)
        text = "task: {use: detection.boxes}\ndata: {path: {{data}}}\nteacher: {{teacher}}\n"
        plugins.write(f"{package}/recipes/new.yaml", text)
        teacher = safetensors(tmp_path / "net.safetensors", HEADER)

        task = {"use": "detection.boxes"}
        assert yaml.safe_load(write("detection.boxes", teacher, tmp_path)) == {
            "task": task,
            "data": {"path": str(tmp_path)},
            "teacher": f"file://{teacher}",
        }
        assert yaml.safe_load(write("detection.boxes")) == {"task": task, "data": {"path": "DATA"}, "teacher": None}

    def test_a_template_for_another_task_does_not_count(self, plugins: PluginFactory) -> None:
        package = self.install(plugins)
        plugins.write(f"{package}/recipes/new.yaml", "task: {use: detection.boxes_too}\n")

        assert resolved(write("detection.boxes"))["task"] == {"use": "detection.boxes"}

    def test_a_template_that_takes_whole_models_takes_a_folder(self, plugins: PluginFactory, tmp_path: Path) -> None:
        package = self.install(plugins)
        text = "task: {use: detection.boxes}\nmodels: {target: {path: {{teacher_path}}}}\n"
        plugins.write(f"{package}/recipes/new.yaml", text)

        assert resolved(write("detection.boxes", tmp_path))["models"] == {"target": {"path": str(tmp_path)}}
        assert resolved(write("detection.boxes"))["models"] == {"target": {"path": "TEACHER"}}
        with pytest.raises(RecipeError, match="there is no such file"):
            write("detection.boxes", tmp_path / "missing")


class TestRefused:
    @pytest.mark.parametrize(
        ("task", "message"),
        [
            ("clasify", "there is no task `clasify`\n    did you mean `classify`?"),
            ("kl", "`kl` is a loss, not a task"),
            ("detection.boxes", "no plugin `detection` is installed\n    pip install kdcore-detection"),
        ],
    )
    def test_an_unknown_task(self, plugins: PluginFactory, task: str, message: str) -> None:
        with pytest.raises(RecipeError) as caught:
            write(task)

        assert message in str(caught.value)

    @pytest.mark.parametrize("what", ["teacher", "data"])
    def test_a_missing_file(self, plugins: PluginFactory, tmp_path: Path, what: str) -> None:
        missing = tmp_path / "missing.npz"
        with pytest.raises(RecipeError) as caught:
            write("classify", missing if what == "teacher" else None, missing if what == "data" else None)

        assert str(caught.value).startswith(f"--{what} {tmp_path / 'missing.npz'}: there is no such file")

    def test_a_folder_is_no_teacher(self, plugins: PluginFactory, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"this is a folder\n    give the file that holds the weights"):
            write(teacher=tmp_path)

    @pytest.mark.parametrize(
        ("header", "length", "reason"),
        [
            (b"", 0, "Expecting value"),
            (b"{", None, "Expecting property name"),
            (b"[1]", None, "has no attribute"),
            (b'{"a": 3}', None, "not subscriptable"),
            (b'{"a": {}}', None, "'shape'"),
            (b"{}", 2**62, f"a header of {2**62} bytes"),
            (b"\xff{}", None, "codec can't decode"),
        ],
    )
    def test_a_damaged_header(
        self, plugins: PluginFactory, tmp_path: Path, header: bytes, length: int | None, reason: str
    ) -> None:
        file = safetensors(tmp_path / "net.safetensors", header, length)

        with pytest.raises(RecipeError) as caught:
            write(teacher=file)

        assert f"--teacher {file}: its safetensors header cannot be read (" in str(caught.value)
        assert reason in str(caught.value)

    def test_a_file_that_holds_no_weights(self, plugins: PluginFactory, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr("readme", "hello")

        for name in ("notes.txt", "other.zip"):
            with pytest.raises(RecipeError, match=r"these are no weights\n    give a .safetensors file"):
                write(teacher=tmp_path / name)


class TestTorchFiles:
    def test_tensors_are_counted_without_unpickling(self, plugins: PluginFactory, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
            archive.writestr("net/data.pkl", "cos\nsystem\n(S'false'\ntR.")
            for number in range(3):
                archive.writestr(f"net/data/{number}", b"\0" * 4)

        assert "# net.pt holds 3 tensors\n" in write(teacher=tmp_path / "net.pt")

    def test_what_torch_writes(self, plugins: PluginFactory, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "net.pt")

        assert "# net.pt holds 2 tensors\n" in write(teacher=tmp_path / "net.pt")

    def test_an_old_file_is_named_as_such(self, plugins: PluginFactory, tmp_path: Path) -> None:
        (tmp_path / "old.pth").write_bytes(b"\x80\x02")

        assert "# old.pth is a pickle, from torch before 1.6" in write(teacher=tmp_path / "old.pth")


def test_the_yaml_is_safe() -> None:
    assert "!!" not in write()
    assert "kdcore_detection" not in sys.modules


class TestATemplateThatWantsTheNetsName:
    TASK = "task: {use: detection.boxes}\n"
    TEMPLATE = TASK + "models: {teacher: {name: {{arch}}, weights: {{teacher}}}}\n"

    def written(self, plugins: PluginFactory, teacher: Path | None, name: str | None) -> tuple[str, list[Path]]:
        register = HEALTHY.replace(
            'add("loss", "fgd"', 'add("task", "boxes", "{package}.losses:yolo")\n        add("loss", "fgd"'
        )
        package = plugins.install("detection", register)
        plugins.write(f"{package}/recipes/new.yaml", self.TEMPLATE)
        asked: list[Path] = []

        def architecture_of(file: Path) -> str | None:
            asked.append(file)
            return name

        text = new_recipe(
            "detection.boxes",
            teacher=None if teacher is None else str(teacher),
            data=None,
            plugins=Plugins(),
            architecture_of=architecture_of,
        )
        return text, asked

    def test_it_is_read_from_the_teachers_file(self, plugins: PluginFactory, tmp_path: Path) -> None:
        file = safetensors(tmp_path / "net.safetensors", HEADER)
        text, asked = self.written(plugins, file, "resnet: 50")
        assert text == f'{self.TASK}models: {{teacher: {{name: "resnet: 50", weights: "file://{file}"}}}}\n'
        assert asked == [file]

    def test_where_the_file_does_not_tell_it_is_to_be_given(self, plugins: PluginFactory, tmp_path: Path) -> None:
        text, _ = self.written(plugins, safetensors(tmp_path / "net.safetensors", HEADER), None)
        assert "name: ???, " in text

    def test_without_a_teacher_nobody_is_asked(self, plugins: PluginFactory) -> None:
        assert self.written(plugins, None, "resnet50") == (
            self.TASK + "models: {teacher: {name: ???, weights: null}}\n",
            [],
        )

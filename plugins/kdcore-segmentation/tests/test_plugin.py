from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from kdcore.hookspecs import KDCORE_API
from kdcore.registry import Registry

from kdcore_segmentation import plugin


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = Registry()
    plugin.kdcore_register(lambda kind, name, target: found.add("segmentation", kind, name, target))
    return found


def test_it_is_declared():
    (entry,) = entry_points(group="kdcore", name="segmentation")
    assert entry.value == "kdcore_segmentation.plugin"
    assert plugin.KDCORE_API == KDCORE_API


def test_everything_it_adds(registry: Registry):
    names: dict[str, list[str]] = {}
    for component in registry:
        names.setdefault(component.kind, []).append(component.name.removeprefix("segmentation."))
    assert names == {
        "task": ["semantic"],
        "data": ["camvid", "cityscapes", "digits", "folders"],
        "model": ["segformer", "smp"],
        "prepare": ["labelled"],
        "metric": ["iou", "miou", "pixel_accuracy"],
        "loss": [
            "cirkd", "cirkd_memory", "collaboration_pixel", "collaboration_region", "csf", "cwd", "ifvd", "mgd", "pea",
            "perceptual", "skd",
        ],
    }  # fmt: skip


def test_every_signature_can_be_read_without_importing_it(registry: Registry):
    for component in registry:
        assert isinstance(component.target, str)
        for parameter in component.parameters().values():
            assert parameter.annotation, f"{component.name}: {parameter.name} has no annotation"
        assert component.documentation().partition("\n")[0].strip(), component.name


def test_every_target_is_there(registry: Registry):
    for component in registry:
        assert callable(component.load())


def test_facts_and_needs_are_literals(registry: Registry):
    for component in registry:
        if component.kind in ("task", "data"):
            assert {"classes", "channels", "image_height", "image_width"} == set(component.literal("fact_names"))
        if component.kind == "loss":
            assert any(need.startswith("teacher.") for need in component.literal("needs"))
        if component.kind == "metric":
            assert component.literal("takes") == "preds_target"
            assert "classes" in component.parameters()


def test_neither_the_plugin_nor_its_checks_import_torch():
    code = (
        "import sys, kdcore_segmentation.plugin as plugin, kdcore_segmentation.check; "
        "plugin.kdcore_register(lambda *a: None); plugin.kdcore_check_environment(); "
        "heavy = {'torch', 'numpy', 'transformers', 'segmentation_models_pytorch', 'PIL'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_complete_environment_has_no_problems():
    assert plugin.kdcore_check_environment() == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "segmentation_models_pytorch" else find(name, *a)
    )
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "segmentation-models-pytorch is not installed"
    assert problem.hint == "pip install segmentation-models-pytorch"

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from kdcore.hookspecs import KDCORE_API
from kdcore.registry import Registry

from kdcore_vision import plugin


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = Registry()
    plugin.kdcore_register(lambda kind, name, target: found.add("vision", kind, name, target))
    return found


def test_it_is_declared():
    (entry,) = entry_points(group="kdcore", name="vision")
    assert entry.value == "kdcore_vision.plugin"
    assert plugin.KDCORE_API == KDCORE_API


def test_everything_it_adds(registry: Registry):
    kinds = ("task", "data", "model", "prepare", "loss", "exporter")
    assert {kind: [name.removeprefix("vision.") for name in registry.names(kind)] for kind in kinds} == {
        "task": ["classify"],
        "data": ["csv", "fashion_mnist", "folders", "torchvision"],
        "model": ["timm"],
        "prepare": ["cutmix", "mixup"],
        "loss": ["deit", "ofa"],
        "exporter": ["onnx", "onnx_int8"],
    }
    assert {component.kind for component in registry} == set(kinds)


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
            assert "class_names" in component.literal("fact_names")
        if component.kind == "loss":
            assert "teacher.logits" in component.literal("needs")


def test_neither_the_plugin_nor_its_checks_import_torch():
    code = (
        "import sys, kdcore_vision.plugin as plugin, kdcore_vision.check; "
        "plugin.kdcore_register(lambda *a: None); plugin.kdcore_check_environment(); "
        "sys.exit(', '.join({'torch', 'numpy', 'timm', 'torchvision', 'PIL'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_complete_environment_has_no_problems():
    assert plugin.kdcore_check_environment() == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "PIL" else find(name, *a))
    (problem,) = plugin.kdcore_check_environment()
    assert (problem.message, problem.hint) == ("pillow is not installed", "pip install pillow")

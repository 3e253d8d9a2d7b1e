"""What every loss of this plugin says of itself, whichever it is."""

from __future__ import annotations

import pytest
from kdcore.losses.base import Loss
from kdcore.registry import Component, Registry

from kdcore_segmentation.plugin import kdcore_register

REGISTRY = Registry()
kdcore_register(lambda kind, name, target: REGISTRY.add("segmentation", kind, name, target))


@pytest.fixture(params=REGISTRY.names("loss"))
def component(request: pytest.FixtureRequest) -> Component:
    found = REGISTRY.get("loss", request.param)
    assert found is not None
    return found


def test_all_papers_are_there():
    assert {name.partition(".")[2] for name in REGISTRY.names("loss")} == {
        *("cwd", "skd", "ifvd", "cirkd", "cirkd_memory", "mgd", "pea", "csf", "perceptual"),
        *("collaboration_pixel", "collaboration_region"),
    }


def test_check_sees_without_torch_what_the_class_says_with_it(component: Component):
    cls = component.load()
    assert isinstance(cls, type)
    assert issubclass(cls, Loss)
    assert component.literal("needs") == cls.needs
    assert all(need.partition(".")[2] in (cls.signal, "logits") for need in cls.needs)


def test_every_parameter_says_its_type_and_a_temperature_may_be_scheduled(component: Component):
    parameters = component.parameters()
    assert all(parameter.annotation for parameter in parameters.values())
    assert {name for name, parameter in parameters.items() if parameter.required} <= {"classes", "channels", "layers"}
    if "temperature" in parameters:
        assert parameters["temperature"].annotation == "Scheduled"


@pytest.mark.parametrize("part", ["**Shape**", "**Reduction**", "count", "Args:", "Raises:", "**Paper**"])
def test_the_documentation_has_all_its_parts(component: Component, part: str):
    text = component.documentation()
    assert part in text
    for name in component.parameters():
        assert f"{name}: " in text

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from kdcore_specdec import plugin


class Added(list[tuple[str, str, str]]):
    def __call__(self, kind: str, name: str, target: str) -> None:
        self.append((kind, name, target))


def test_every_component_is_where_it_says() -> None:
    added = Added()
    plugin.kdcore_register(added)  # type: ignore[arg-type]
    assert len(added) > 10
    for kind, name, target in added:
        module, _, attribute = target.partition(":")
        found = getattr(import_module(module), attribute)
        assert found.__module__ == module, (kind, name)
        assert found.__doc__, (kind, name)


def test_missing_transformers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin.kdcore_check_environment() == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else find_spec(name))
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "transformers is not installed, which every model here needs"
    assert problem.hint == "pip install transformers"

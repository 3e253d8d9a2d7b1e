from __future__ import annotations

from importlib.util import find_spec

import pytest

from kdcore_graph import plugin


class Added(list[tuple[str, str, str]]):
    def __call__(self, kind: str, name: str, target: str) -> None:
        self.append((kind, name, target))


def test_every_component_is_where_it_says() -> None:
    from importlib import import_module

    added = Added()
    plugin.kdcore_register(added)  # type: ignore[arg-type]
    assert len(added) > 25
    for kind, name, target in added:
        module, _, attribute = target.partition(":")
        found = getattr(import_module(module), attribute)
        assert found.__module__ == module, (kind, name)
        assert found.__doc__, (kind, name)


def test_a_missing_pyg_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin.kdcore_check_environment() == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch_geometric" else find_spec(name))
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "PyTorch Geometric is not installed, which the teachers need"

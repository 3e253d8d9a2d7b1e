from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdcore.errors import PluginError
from kdcore.registry import Component, Parameter, Registry, locate

SOURCE = '''
"""Losses of a plugin."""
import a_module_that_does_not_exist

SIZE = 3


class Base:
    signal = "tap"
    fact_names: tuple[str, ...] = ("classes", "channels")

    def __init__(self, *, alpha: float = 0.5, beta: "int | None") -> None: ...

    def forward(self, student, teacher, batch, *, reference: object, assistant=None): ...


class Focal(Base):
    """Focal loss.

    More about it.
    """

    needs = frozenset({"student.logits"})
    empty = frozenset()
    primary = ("accuracy", "max")
    size = SIZE


class Own(Base):
    def __init__(self, positional, *, gamma=(1, 2)): ...


class Loop(Loop):
    pass


def model(*, width: int = 8, depth: int) -> object:
    """A net."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "a_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "losses.py").write_text(SOURCE)
    (folder / "typo.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "a_plugin"


def component(target: Any, plugin: str = "detection") -> Component:
    return Component("loss", f"{plugin}.focal", target, plugin)


class TestAdd:
    @pytest.mark.parametrize(
        ("plugin", "full"), [("kdcore", "kl"), ("detection", "detection.kl"), ("local", "local.kl")]
    )
    def test_names_are_prefixed_by_the_plugin_except_the_core_s(self, plugin: str, full: str) -> None:
        registry = Registry()
        registry.add(plugin, "loss", "kl", "m:KL")

        assert registry.get("loss", full) == Component("loss", full, "m:KL", plugin)
        assert registry.get("metric", full) is None

    @pytest.mark.parametrize(
        ("kind", "name", "target", "message"),
        [
            ("los", "kl", "m:KL", "adds `detection.kl` as a `los`\n    did you mean `loss`?"),
            (None, "kl", "m:KL", "adds `detection.kl` as a `None`"),
            ("loss", "a.b", "m:KL", "adds a loss named `a.b`\n    use letters"),
            ("loss", "", "m:KL", "adds a loss named ``"),
            ("loss", None, "m:KL", "adds a loss named `None`"),
            (
                "loss",
                "kl",
                "m.KL",
                'loss `detection.kl` has the target `m.KL`\n    give a function, a class or the text "pa',
            ),
            ("loss", "kl", "m:KL:x", "has the target `m:KL:x`"),
            ("loss", "kl", ":KL", "has the target `:KL`"),
            ("loss", "kl", "m:KL.x", "has the target `m:KL.x`"),
            ("loss", "kl", 3, "has the target `3`"),
            ("loss", "kl", partial(int), "has the target `functools.partial"),
        ],
    )
    def test_refused(self, kind: Any, name: Any, target: Any, message: str) -> None:
        registry = Registry()

        with pytest.raises(PluginError) as caught:
            registry.add("detection", kind, name, target)

        assert message in str(caught.value)
        assert list(registry) == []

    def test_twice_is_refused_and_the_first_stays(self) -> None:
        registry = Registry()
        registry.add("local", "loss", "kl", "m:A")

        with pytest.raises(PluginError, match=r"plugin `local` adds the loss `local.kl` twice"):
            registry.add("local", "loss", "kl", "m:B")

        assert [item.target for item in registry] == ["m:A"]

    def test_one_name_may_be_of_several_kinds(self) -> None:
        registry = Registry()
        registry.add("kdcore", "metric", "divergence", "m:A")
        registry.add("kdcore", "loss", "divergence", "m:B")

        assert registry.kinds_of("divergence") == ["metric", "loss"]
        assert registry.kinds_of("kl") == []


def test_names_and_components_are_sorted() -> None:
    registry = Registry()
    for name in ("mse", "kl", "cosine"):
        registry.add("kdcore", "loss", name, "m:X")
    registry.add("kdcore", "metric", "accuracy", "m:X")

    assert registry.names("loss") == ["cosine", "kl", "mse"]
    assert registry.names("task") == []
    assert [item.name for item in registry] == ["cosine", "kl", "mse", "accuracy"]


def test_merge_takes_all_or_none() -> None:
    registry, other = Registry(), Registry()
    registry.add("local", "loss", "b", "m:A")
    other.add("local", "loss", "a", "m:A")
    other.add("local", "loss", "b", "m:A")

    with pytest.raises(PluginError, match=r"the loss `local.b` is added twice"):
        registry.merge(other)
    assert registry.names("loss") == ["local.b"]

    fresh = Registry()
    fresh.merge(other)
    assert fresh.names("loss") == ["local.a", "local.b"]


class TestSource:
    """What is read from a file without importing it: its package raises when imported."""

    def test_parameters_of_a_function(self, package: str) -> None:
        assert component(f"{package}.losses:model").parameters() == {
            "width": Parameter("width", "int", False, "8"),
            "depth": Parameter("depth", "int", True),
        }

    def test_parameters_are_inherited_from_a_base_in_the_same_file(self, package: str) -> None:
        assert component(f"{package}.losses:Focal").parameters() == {
            "alpha": Parameter("alpha", "float", False, "0.5"),
            "beta": Parameter("beta", "'int | None'", True),
        }

    def test_what_a_base_in_another_file_says_is_inherited(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "mine.py"
        file.write_text(
            "from kdcore.losses.cross_entropy import CrossEntropy as Base\n\n\n"
            "class Mine(Base):\n    pass\n\n\nclass Own(Base):\n    def __init__(self, *, alpha: int = 1): ...\n"
        )
        spec = importlib.util.spec_from_file_location("mine", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        mine, own = (Component("loss", name, getattr(module, name), "local") for name in ("Mine", "Own"))
        assert mine.literal("needs") == own.literal("needs") == frozenset({"student.logits"})
        assert list(mine.parameters()) == ["label_smoothing"]
        assert list(own.parameters()) == ["alpha"]

    def test_an_own_init_wins_and_positional_parameters_do_not_count(self, package: str) -> None:
        assert component(f"{package}.losses:Own").parameters() == {"gamma": Parameter("gamma", "", False, "(1, 2)")}

    def test_keywords_of_a_method(self, package: str) -> None:
        focal = component(f"{package}.losses:Focal")

        assert [(item.name, item.required) for item in focal.keywords_of("forward").values()] == [
            ("reference", True),
            ("assistant", False),
        ]
        assert focal.keywords_of("setup") == {}
        assert component(f"{package}.losses:model").keywords_of("forward") == {}

    @pytest.mark.parametrize(
        ("attribute", "value"),
        [
            ("needs", frozenset({"student.logits"})),
            ("empty", frozenset()),
            ("primary", ("accuracy", "max")),
            ("fact_names", ("classes", "channels")),
            ("signal", "tap"),
            ("absent", "default"),
        ],
    )
    def test_literals(self, package: str, attribute: str, value: object) -> None:
        assert component(f"{package}.losses:Focal").literal(attribute, "default") == value

    def test_a_function_has_no_attributes(self, package: str) -> None:
        assert component(f"{package}.losses:model").literal("needs", 0) == 0

    def test_a_class_that_seems_its_own_base_ends(self, package: str) -> None:
        assert component(f"{package}.losses:Loop").literal("needs", 0) == 0

    def test_documentation(self, package: str) -> None:
        assert component(f"{package}.losses:Focal").documentation() == "Focal loss.\n\nMore about it."
        assert component(f"{package}.losses:Own").documentation() == ""

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("{p}.losses:Missing", "`Missing` is not defined in the file its target `a_plugin.losses:Missing` names"),
            ("{p}.nowhere:X", "there is no module `a_plugin.nowhere`\n    its target is `a_plugin.nowhere:X`"),
            ("no_such_package:X", "there is no module `no_such_package`"),
            ("{p}.typo:f", "typo.py cannot be read: invalid syntax"),
        ],
    )
    def test_a_target_that_cannot_be_read_names_component_and_plugin(
        self, package: str, target: str, message: str
    ) -> None:
        with pytest.raises(PluginError) as caught:
            component(target.format(p=package)).parameters()

        assert message in str(caught.value)
        assert "loss `detection.focal` of plugin `detection`: " in str(caught.value)

    def test_a_computed_attribute_is_refused(self, package: str) -> None:
        with pytest.raises(PluginError, match=r"`size = SIZE` is not a literal\n    write out its value"):
            component(f"{package}.losses:Focal").literal("size")

    def test_a_callable_defined_inside_a_function_is_found(self) -> None:
        class Inner:
            """Inside."""

            needs: ClassVar[frozenset[str]] = frozenset({"student.x"})

            def __init__(self, *, gamma: float = 1.0) -> None: ...

        inner = component(Inner)

        assert inner.parameters() == {"gamma": Parameter("gamma", "float", False, "1.0")}
        assert inner.literal("needs") == frozenset({"student.x"})
        assert inner.documentation() == "Inside."


class TestLoad:
    def test_a_callable_is_itself(self) -> None:
        assert component(dict).load() is dict

    def test_a_lazy_target_is_imported(self) -> None:
        from fractions import Fraction

        assert component("fractions:Fraction").load() is Fraction

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("{p}.losses:Focal", "cannot be imported from `a_plugin.losses:Focal`: RuntimeError: imported"),
            ("fractions:Nothing", "AttributeError: module 'fractions' has no attribute 'Nothing'"),
            ("no_such_package.x:Y", "ModuleNotFoundError: No module named 'no_such_package'"),
        ],
    )
    def test_a_failing_import_names_component_plugin_and_target(self, package: str, target: str, message: str) -> None:
        with pytest.raises(PluginError) as caught:
            component(target.format(p=package)).load()

        assert message in str(caught.value)
        assert "loss `detection.focal` of plugin `detection`" in str(caught.value)


class TestLocate:
    def test_finds_files_without_importing(self, package: str, tmp_path: Path) -> None:
        assert locate(package) == tmp_path / "a_plugin" / "__init__.py"
        assert locate(f"{package}.losses") == tmp_path / "a_plugin" / "losses.py"
        assert package not in sys.modules

    @pytest.mark.parametrize("module", ["no_such_package", "a_plugin.nowhere", "sys.nothing"])
    def test_none_where_there_is_nothing(self, package: str, module: str) -> None:
        assert locate(module) is None

    def test_a_module_without_a_spec_is_not_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import types

        monkeypatch.setitem(sys.modules, "by_hand", types.ModuleType("by_hand"))

        assert locate("by_hand") is None


def test_reading_a_torch_component_imports_no_torch() -> None:
    code = (
        "import sys; from kdcore.registry import Component;"
        "found = Component('loss', 'x', 'kdcore.losses.base:Loss', 'kdcore').literal('needs');"
        "assert found == {'student.logits', 'teacher.logits'}, found;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )

    assert done.returncode == 0, done.stderr

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace

import pluggy
import pytest

from kdcore import builtin, hookspecs
from kdcore.hookspecs import KDCORE_API, KINDS

HOOKS = {
    "kdcore_register": ["add"],
    "kdcore_check_recipe": ["recipe"],
    "kdcore_check_environment": [],
    "kdcore_configure": ["run"],
}


def specs() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("kdcore")
    manager.add_hookspecs(hookspecs)
    return manager


def test_there_are_these_hooks_and_no_others() -> None:
    found = {name for name in vars(hookspecs) if name.startswith("kdcore_")}

    assert found == set(HOOKS)


@pytest.mark.parametrize(("name", "arguments"), HOOKS.items())
def test_a_hook_has_a_typed_documented_spec(name: str, arguments: list[str]) -> None:
    hook = getattr(hookspecs, name)
    caller = getattr(specs().hook, name)

    assert list(inspect.signature(hook).parameters) == arguments
    assert all(hook.__annotations__.get(argument) for argument in [*arguments, "return"])
    assert (hook.__doc__ or "").strip().endswith(".")
    assert caller.has_spec()
    assert not caller.spec.opts["firstresult"]
    assert not caller.spec.opts["historic"]


def test_kinds_are_closed_and_distinct() -> None:
    assert len(set(KINDS)) == len(KINDS) == 17
    assert all(kind.isidentifier() and kind.islower() for kind in KINDS)


def test_the_core_is_a_plugin_of_this_api() -> None:
    assert builtin.KDCORE_API == KDCORE_API == 1


def no_such_argument(adder: object) -> None: ...


def one_too_many(run: object, stage: object) -> None: ...


@pytest.mark.parametrize(
    ("hook", "function", "argument"),
    [("kdcore_register", no_such_argument, "adder"), ("kdcore_configure", one_too_many, "stage")],
)
def test_pluggy_refuses_an_implementation_that_asks_for_more(
    hook: str, function: Callable[..., None], argument: str
) -> None:
    plugin = SimpleNamespace(**{hook: hookspecs.hookimpl(function)})

    with pytest.raises(pluggy.PluginValidationError, match=argument):
        specs().register(plugin)

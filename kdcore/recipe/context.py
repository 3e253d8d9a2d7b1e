"""What every check of a recipe shares: where components are found, and where problems are collected."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from kdcore.errors import PluginError, Problem, did_you_mean
from kdcore.hookspecs import Kind
from kdcore.recipe.nodes import Node
from kdcore.recipe.schema import Nested, Slot
from kdcore.recipe.types import Converter, MismatchError
from kdcore.registry import Component, Parameter

NAME = re.compile(r"[^\W\d][\w-]*")
"""What models, stages, losses and everything else that a recipe names may be called."""

RESERVED = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches
    eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training type update values xpu zero_grad
    """.split()  # noqa: SIM905
)
"""What torch's own containers call their parts: a model, loss or metric of that name would hide one."""

FILLED: tuple[Kind, ...] = ("task", "model", "loss", "metric", "prepare")
"""Kinds whose parameters are filled in from the facts of task and data, where a recipe omits them."""

_T = TypeVar("_T")


class Finder(Protocol):
    """Finds components by name; says what to do about one that nobody provides, and about packages that are missing."""

    def find(self, kind: Kind, name: str) -> Component | Problem: ...

    def unmet(self, requirement: str) -> Problem | None: ...


@dataclass
class Context:
    """One check of one recipe.

    Attributes:
        facts: names that the tasks and data of the recipe fill in where a parameter has none.
        secrets: values from the environment -> how the recipe names them; only the latter is ever printed.
        problems: what was found wrong so far.
        warnings: what was dropped where a stage changes a component.
        converter: gives values the type that an annotation asks for.
    """

    finder: Finder
    facts: frozenset[str] = frozenset()
    secrets: Mapping[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    converter: Converter = field(default_factory=Converter)

    def __post_init__(self) -> None:
        self.converter.slot = self._nested

    def error(self, node: Node, message: str, hint: str = "", *, plugin: bool = False) -> None:
        """Something is wrong with the value of this node, or with the plugin it names."""
        mark = node.mark
        message, hint = self._printable(message), self._printable(hint)
        self.problems.append(Problem(message, hint, mark.path, mark.file, mark.line, plugin=plugin))

    def _printable(self, message: str) -> str:
        for value, name in self.secrets.items():
            # a short value such as `4` is replaced only where it is quoted, or it would be found in other words
            message = message.replace(value, name) if len(value) > 3 else message.replace(f"`{value}`", f"`{name}`")
        return message

    # ---- values

    def convert(self, node: Node | None, annotation: str, default: Any = None) -> Any:
        """The value as the annotation wants it, or the default where it is absent or wrong."""
        if node is None:
            return default
        try:
            return self.converter.convert(node, annotation)
        except MismatchError as error:
            hint = "" if error.node.value is not None else f"to leave it out, delete it: ~{error.node.mark.path}"
            self.error(error.node, f"is {error.node.show()}, but must be {error.wanted}", hint)
            return default

    def mapping(self, node: Node | None) -> dict[str, Node]:
        """The children of an optional mapping; empty where it is absent, null or something else."""
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.error(node, f"is {node.show()}, but must be a mapping")
        return node.items

    def named(self, node: Node | None) -> dict[str, Node]:
        """Like :meth:`mapping`, for a section whose keys are names that the recipe gives."""
        for key, child in self.mapping(node).items():
            if not NAME.fullmatch(key):
                self.error(child, f"`{key}` is no name", "use letters, digits, `_` and `-`, and start with a letter")
        return {key: child for key, child in self.mapping(node).items() if NAME.fullmatch(key)}

    def modules(self, node: Node | None) -> dict[str, Node]:
        """Like :meth:`named`, for what becomes a module among others."""
        named = self.named(node)
        for key in named.keys() & RESERVED:
            self.error(named[key], f"`{key}` is a word that torch keeps for itself", f"call it `{key}_`, or otherwise")
        return named

    def known_keys(self, node: Node, known: Collection[str], of: str) -> None:
        """Every other key of the mapping is an error."""
        for key, child in node.items.items():
            if key not in known:
                self.error(child, f"unknown key of {of}", did_you_mean(key, known))

    def words(self, node: Node | None) -> tuple[str, ...]:
        """A text, or a list of texts, as a tuple."""
        found = self.convert(node, "str | list[str]", ())
        return (found,) if isinstance(found, str) else tuple(found)

    def word_nodes(self, node: Node | None) -> list[Node]:
        """The nodes of a text or of a list of texts; what is no text is an error and left out."""
        if node is None or node.value is None:
            return []
        nodes = node.value if isinstance(node.value, list) else [node]
        texts = [(child, self.convert(child, "str")) for child in nodes]
        return [Node(text, child.mark) for child, text in texts if text is not None]

    # ---- components

    def component(self, kind: Kind, node: Node) -> Component | None:
        """The component that a slot's ``use`` names; what is wrong with the name is collected."""
        use = node.items.get("use")
        if not isinstance(node.value, dict):
            hint = f"write {{use: {node.value}}}" if isinstance(node.value, str) and not node.mark.interpolated else ""
            self.error(node, f"is {node.show()}, but must be a mapping such as {{use: NAME}}", hint)
        elif use is None:
            self.error(node, f"does not say which {kind}", "add `use: NAME`")
        elif (name := self.convert(use, "str")) is not None:
            found = self.finder.find(kind, name)
            if not isinstance(found, Problem):
                return found
            if use.mark.interpolated:  # the finder's message would print what the environment holds
                self.error(use, f"{use.show()} is no {kind} that is known here", "write its name")
            else:
                self.error(use, found.message, found.hint, plugin=found.plugin)
        return None

    def read_source(self, node: Node, read: Callable[[], _T], default: _T) -> _T:
        """What the source of a component says; a source that cannot be read is a problem of the slot that uses it."""
        try:
            return read()
        except PluginError as error:
            for problem in error.problems:
                self.error(node.items.get("use", node), problem.message, problem.hint, plugin=True)
            return default

    def literal(self, node: Node, component: Component, attribute: str, default: Any) -> Any:
        """A class attribute of a component, as its source has it."""
        return self.read_source(node, lambda: component.literal(attribute, default), default)

    def slot(self, kind: Kind, node: Node, path: str = "", core: Sequence[str] = ()) -> Slot | None:
        """A slot with its arguments checked against the component's signature.

        Args:
            path: dotted path of the slot; where it was written, by default.
            core: keys that the core owns; they are left to the caller.
        """
        component = self.component(kind, node)
        return None if component is None else self.arguments(kind, component, node, path, core)

    def arguments(
        self, kind: Kind, component: Component, node: Node, path: str = "", core: Sequence[str] = ()
    ) -> Slot | None:
        """As :meth:`slot`, for a component that was found already; ``None`` when anything is wrong."""
        nothing: dict[str, Parameter] = {}
        before = len(self.problems)
        parameters = self.read_source(node, component.parameters, nothing)
        if len(self.problems) > before:
            return None
        self.known_keys(node, ["use", *core, *parameters], f"{kind} `{component.name}`")
        args = {}
        for name, parameter in parameters.items():
            if name in core:
                continue
            if name in node.items:
                args[name] = self.convert(node.items[name], parameter.annotation)
            elif parameter.required and not (name in self.facts and kind in FILLED):
                use = node.items["use"].mark
                self.error(
                    Node(None, replace(use, path=node.mark.path or path)),
                    f"{kind} `{component.name}` needs `{name}`",
                    f"add `{name}: ...`",
                )
        return Slot(path or node.mark.path, component.name, args) if len(self.problems) == before else None

    def _nested(self, kind: Literal["schedule", "data"], node: Node) -> Nested | None:
        slot = self.slot(kind, node)
        return None if slot is None else Nested(slot.path, slot.use, slot.args, kind)

"""Writes a commented recipe for the user's own model and data, from what the components say about themselves."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from kdcore.discovery import core_version, recipe_folder
from kdcore.errors import Problem, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdcore.hookspecs import Kind
    from kdcore.plugins import Plugins
    from kdcore.registry import Component, Parameter

MAX_HEADER = 100 * 2**20
"""Bytes; the safetensors format allows no longer header."""

_RECIPE = Template("""\
# Distils a teacher into a smaller student: ${task}.
# Look it over, then:   python -m kdcore check THIS.yaml   and   python -m kdcore fit THIS.yaml
#
# When distilling pays: labels are few or noisy, the student is much smaller than the teacher, and the teacher is
# clearly better than the student trained alone. With plenty of clean labels and a teacher that is hardly better,
# expect no difference. The report compares the student with the same net trained alone, so you will know.
kdcore: 1
requires: [${requires}]
name: ${name}
seed: 0

${task_slot}

${data_slot}

models:                       # any names; the report compares `student` with the same net trained alone
${teacher_slot}
${student_slot}
${stages}
losses:                       # a mapping: the key is the name in logs; total = sum of weight * loss
${losses}

metrics:                      # the task's primary metric decides which weights are best
${metrics}

optimizer:
  use: adamw
  lr: 1.0e-3
  schedule: {use: cosine, warmup: 0.05}
trainer: {max_epochs: 30}     # any parameter of lightning.Trainer
logger: {use: wandb, project: kdcore, mode: offline}    # `logger: null` for none
""")

_STAGES_WITHOUT_TEACHER = Template("""\
  alone: $${models.student}    # the same net, trained without a teacher: the fair baseline

stages:                       # in order; a finished stage is not run again
  teach:  {train: teacher, losses: {${supervised}}, once: true}
  # Where some samples have no label: `data: {samples: labelled}` for `alone`, and `trainer.max_steps` for all stages.
  alone:  {train: alone, losses: {${supervised}}}
  distil: {train: student, teachers: [teacher]}
""")

_STAGES_WITH_TEACHER = """\

# Without `stages:` there are two: the student alone, then distilled from `teacher`.
"""


def new_recipe(
    task: str,
    *,
    teacher: str | None,
    data: str | None,
    plugins: Plugins,
    architecture_of: Callable[[Path], str | None] = lambda file: None,
) -> str:
    """The text of a commented recipe.

    Args:
        task: a task's full name. A plugin may ship its own ``recipes/new.yaml`` with ``{{teacher}}`` and ``{{data}}``,
            and with ``{{arch}}``, the net's name as the teacher's file gives it, or ``???``. Where whole models are
            given, it says ``{{teacher_path}}`` instead: any file or folder.
        teacher: a file with the teacher's weights; without one the recipe trains the teacher too.
        data: the path of the data.
        architecture_of: reads the name of a net from a file of weights, which takes torch; asked only where a template
            wants to know.

    Raises:
        RecipeError: there is no such task, or a file that is not there or not what it is called.
    """
    found = plugins.find("task", task)
    if isinstance(found, Problem):
        raise RecipeError([found])
    given = None if teacher is None else _existing("teacher", teacher)
    where = None if data is None else _existing("data", data)
    template = _own_template(found, plugins)
    described = [] if given is None or "{{teacher_path}}" in (template or "") else _describe_weights(given)
    if template is not None:
        weights = "null" if given is None else _quote(f"file://{given}")
        filled = {
            "teacher": weights,
            "teacher_path": _quote(str(given or "TEACHER")),
            "data": _quote(str(where or "DATA")),
        }
        if "{{arch}}" in template:
            name = None if given is None else architecture_of(given)
            filled["arch"] = "???" if name is None else _quote(name)
        for name, value in filled.items():
            template = template.replace("{{" + name + "}}", value)
        return template
    return _generic(found, given, described, where, plugins)


def _generic(task: Component, teacher: Path | None, described: list[str], data: Path | None, plugins: Plugins) -> str:
    pick = _Picker(task.plugin, plugins)
    supervised, distilling = pick.losses()
    models = pick.choices("model")
    teacher_given = {} if teacher is None else {"weights": _quote(f"file://{teacher}")}
    teacher_slot = _slot("teacher", pick.one("model", "convnet"), {"width": "64", **teacher_given}, "  ")
    student_slot = _slot("student", pick.one("model", "convnet"), {"width": "8"}, "  ")
    notes = [*described, "It must be the very net the weights belong to; a tensor that fits nothing is an error."]
    losses = [_slot("ce", supervised, {"weight": "0.1"}, "  ")] if supervised else []
    if distilling:
        losses.append(_slot("kd", distilling, {"weight": "0.9", "temperature": "2.0"}, "  "))
    owner = next((info for info in plugins.discover() if info.name == task.plugin), None)
    stages = Template(_STAGES_WITH_TEACHER) if teacher else _STAGES_WITHOUT_TEACHER
    return _RECIPE.substitute(
        task=f"{task.name} ({_first_line(task)})",
        requires=f"kdcore>={core_version()}" + (f", {owner.distribution}>={owner.version}" if owner else ""),
        name=f"my-{task.name.replace('.', '-')}",
        task_slot=_slot("task", task, {}, ""),
        data_slot=_slot("data", pick.one("data", "arrays"), {"path": _quote(str(data or "DATA.npz"))}, ""),
        teacher_slot="\n".join([*models, *(f"  # {note}" for note in (notes if teacher else [])), teacher_slot]),
        student_slot=student_slot,
        stages=stages.substitute(supervised=f"ce: {{use: {supervised.name}}}" if supervised else ""),
        losses="\n".join([*pick.choices("loss"), *losses]),
        metrics="\n".join(_slot(item.name.rpartition(".")[2], item, {}, "  ") for item in pick.metrics()),
    )


class _Picker:
    """Components for a task: those of its own plugin where it has some, else the core's."""

    def __init__(self, plugin: str, plugins: Plugins) -> None:
        self.plugin, self.plugins = plugin, plugins

    def of(self, kind: Kind, *, core: bool = False) -> list[Component]:
        owner = "kdcore" if core else self.plugin
        return [item for item in self.plugins.registry if item.kind == kind and item.plugin == owner]

    def one(self, kind: Kind, default: str) -> Component:
        own = self.of(kind) if self.plugin != "kdcore" else []
        found = own[0] if own else self.plugins.registry.get(kind, default)
        if found is None:
            raise RecipeError(f"there is no {kind} `{default}`: the installation is damaged, reinstall kdcore")
        return found

    def losses(self) -> tuple[Component | None, Component | None]:
        """One that learns from labels and one that learns from a teacher."""
        own = self.of("loss") if self.plugin != "kdcore" else []
        taught = [item for item in own if any(str(need).startswith("teacher.") for need in item.literal("needs", ()))]
        supervised = next((item for item in own if item not in taught), None)
        core = self.plugins.registry
        return supervised or core.get("loss", "cross_entropy"), taught[0] if taught else core.get("loss", "kl")

    def metrics(self) -> list[Component]:
        own = self.of("metric") if self.plugin != "kdcore" else []
        known = (self.plugins.registry.get("metric", name) for name in ("accuracy", "agreement", "calibration"))
        return own or [item for item in known if item]

    def choices(self, kind: Kind) -> list[str]:
        """A comment line for each component of a kind that could stand here."""
        own = self.of(kind) if self.plugin != "kdcore" else []
        return [f"  # {item.name}: {_first_line(item)}" for item in [*own, *self.of(kind, core=True)]]


def _slot(key: str, component: Component, given: dict[str, str], indent: str) -> str:
    """A slot in YAML: what is given, then the other parameters as comments."""
    parameters = component.parameters()
    owned = ("weight", "weights")
    lines = [f"{indent}{key}:", f"{indent}  use: {component.name}"]
    lines += [f"{indent}  {name}: {value}" for name, value in given.items() if name in parameters or name in owned]
    lines += [f"{indent}  # {_comment(item)}" for name, item in parameters.items() if name not in given]
    return "\n".join(lines)


def _comment(parameter: Parameter) -> str:
    if parameter.required:
        return f"{parameter.name}: {parameter.annotation}  (must be given, unless it is a fact of the data)"
    return f"{parameter.name}: {parameter.annotation} = {parameter.default}"


def _first_line(component: Component) -> str:
    return component.documentation().partition("\n")[0].replace("``", "`").rstrip(".")


def _own_template(task: Component, plugins: Plugins) -> str | None:
    """The plugin's ``new.yaml``, where it is for this task: a plugin may have several."""
    for info in plugins.discover():
        folder = recipe_folder(info) if info.name == task.plugin else None
        if folder is not None and (folder / "new.yaml").is_file():
            text = (folder / "new.yaml").read_text(encoding="utf-8")
            return text if re.search(rf"^task: .*\buse: {re.escape(task.name)}\b", text, re.MULTILINE) else None
    return None


def _existing(what: str, name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.exists():
        raise RecipeError([Problem(f"--{what} {name}: there is no such file", f"looked for {path}")])
    return path


def _describe_weights(path: Path) -> list[str]:
    """What a file of weights holds, told by its header alone."""
    if path.is_dir():
        raise RecipeError([Problem(f"--teacher {path}: this is a folder", "give the file that holds the weights")])
    if path.suffix == ".safetensors":
        shapes = _safetensors_header(path)
        first = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:3])
        return [f"{path.name} holds {len(shapes)} tensors: {first}{', ...' if len(shapes) > 3 else ''}"]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            count = sum(Path(name).parent.name == "data" for name in archive.namelist())
        if count:
            return [f"{path.name} holds {count} tensors"]
    with path.open("rb") as file:
        if file.read(1) == b"\x80":
            return [f"{path.name} is a pickle, from torch before 1.6 or from another program"]
    raise RecipeError(
        [Problem(f"--teacher {path}: these are no weights", "give a .safetensors file, or what torch.save wrote")]
    )


def _safetensors_header(path: Path) -> dict[str, list[int]]:
    """Tensor name -> shape: 8 bytes of length, then as much JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return {name: entry["shape"] for name, entry in sorted(header.items()) if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"--teacher {path}: its safetensors header cannot be read ({error})"
        raise RecipeError([Problem(what, "the file is damaged or is not safetensors: copy it again")]) from error


def _quote(text: str) -> str:
    """A YAML scalar in which nothing is an interpolation."""
    return json.dumps(text.replace("${", "\\${"), ensure_ascii=False)

"""The command line: verbs that import what they need, when they need it."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcore.errors import KdcoreError, Problem, RecipeError, RunError, did_you_mean
from kdcore.plugins import Plugins

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe
    from kdcore.registry import Component
    from kdcore.run.restore import Restored

RECIPES = (
    "recipe files, the name of a recipe that kdcore ships, or the folder of a run; "
    "then overrides such as `losses.kd.weight=0.5`"
)

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""What a disk answers that is full or failing."""


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line.

    Returns:
        0, or 1 where the run failed, 2 for the recipe or the usage, 3 for a plugin, 130 when interrupted.

    Raises:
        SystemExit: of ``argparse``, after ``--help`` (0) and usage that it does not understand (2).
    """
    verb: Callable[[argparse.Namespace], int] | None = None
    try:
        options = _parsed(arguments)
        verb = options.verb
        return verb(options)
    except KdcoreError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = ": the same command goes on where this one stopped" if verb is _fit else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in DISK:
            raise
        what = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
        print(f"{what}: {error.strerror}. What was finished is kept: the same command goes on from there, "
              "or choose another place with --runs DIR", file=sys.stderr)  # fmt: skip
        return RunError.exit_code


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with the words between and after them: argparse alone takes only those in one place."""
    parser = _parser(arguments[0] if arguments else "")
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "words")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if hasattr(options, "words"):
        options.words += rest
    return options


def _parser(first: str = "") -> argparse.ArgumentParser:
    """The parser of all verbs; those of plugins are looked up where ``first`` is none of the core's."""
    # no abbreviations: `--seed 5` would be `--seeds 5`, and is not what `seed=5` is
    parser = argparse.ArgumentParser(
        prog="kdcore", description="Knowledge-distillation recipes on Lightning.", allow_abbrev=False
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(
        name: str, verb: Callable[[argparse.Namespace], int], text: str, *, recipe: bool | Literal["optional"]
    ) -> argparse.ArgumentParser:
        own = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        own.set_defaults(verb=verb)
        own.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE",
                         help="load a file of your own; its components are named `local.*`")  # fmt: skip
        if recipe:
            own.add_argument("words", nargs="*" if recipe == "optional" else "+", metavar="RECIPE", help=RECIPES)
            own.add_argument(
                "--no-alone",
                action="store_true",
                help="skip the stage `alone`, which trains the student without a teacher; there is no verdict then",
            )
            own.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: runs)")
        return own

    fit = add("fit", _fit, "run a recipe and write a report", recipe=True)
    fit.add_argument("--seeds", type=_positive, metavar="N", help="run N seeds, from the recipe's on (default: 1)")
    fit.add_argument("--stage", metavar="NAME", help="run one stage only")
    fit.add_argument(
        "--no-probe", action="store_true", help="skip the checks of teachers and losses before the first step"
    )
    fit.add_argument("--fresh", action="store_true", help="reuse no finished stage and resume no run")
    fit.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="FORMAT",
        help="after the report, write the trained student as it is shipped into the run folder; may be repeated",
    )
    add("validate", _validate, "score the models of a finished recipe on the validation set", recipe=True)
    add("test", _test, "score the models of a finished recipe on the test set", recipe=True)
    add("check", _check, "say everything that is wrong with a recipe, without running it", recipe=True)
    inspect = add("inspect", _inspect, "show the nets of a stage side by side, with paths for taps", recipe=True)
    inspect.add_argument("--stage", metavar="NAME", help="which stage (default: the last)")
    export = add("export", _export, "write a trained student as it is shipped", recipe=True)
    export.add_argument("--model", help="which model (default: what the last stage trained)")
    export.add_argument(
        "--format",
        action="append",
        metavar="NAME",
        help="safetensors, onnx, torch or a plugin's (default: safetensors)",
    )
    export.add_argument("--to", type=Path, default=Path("export"), metavar="DIR", help="where to (default: export)")
    plugins = add("plugins", _plugins, "list plugins and their components", recipe=False)
    plugins.add_argument("--json", action="store_true", help="for machines")
    add("doctor", _doctor, "say what is wrong with this installation", recipe=False)
    new = add("new-recipe", _new_recipe, "write a commented recipe for your own model and data", recipe=False)
    new.add_argument("task", help="a task, for instance classify")
    new.add_argument("--teacher", metavar="FILE", help="weights of your teacher")
    new.add_argument("--data", metavar="PATH", help="your data")
    new.add_argument("--to", type=Path, metavar="FILE", help="write it here instead of printing it")
    author = add("new-plugin", _new_plugin, "write the package of a plugin, complete and tested", recipe=False)
    author.add_argument("name", help="the word before its components' names in recipes, for instance my_losses")
    author.add_argument("--to", type=Path, metavar="DIR", help="the new folder (default: kdcore-NAME)")
    if first not in verbs.choices:
        from kdcore import commands

        for name, component in commands.verbs(Plugins()).items():
            own = add(name, _command, commands.summary(component), recipe="optional")
            own.set_defaults(component=component)
            commands.add_options(own, component)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is no number from 1 on")
    return int(text)


def _present(options: argparse.Namespace) -> Plugins:
    plugins = Plugins()
    for file in options.plugin:
        plugins.load_file(file)
    return plugins


def _read(options: argparse.Namespace) -> tuple[Recipe, Plugins]:
    """The recipe, checked, and the plugins; prints warnings."""
    from kdcore.recipe.arguments import split_arguments
    from kdcore.recipe.check import read
    from kdcore.run.folder import FOLDER

    _open_run_folder(options)
    plugins = _present(options)
    sources, overrides = split_arguments(options.words, plugins.shipped_recipes())
    recipe = read(sources, overrides, plugins, alone=not options.no_alone)
    problems = plugins.check_recipe(recipe)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        raise RecipeError(errors)
    if FOLDER not in os.environ:  # the process on the first device has said it
        for warning in (*recipe.warnings, *problems):
            print(warning, file=sys.stderr)
    return recipe, plugins


def _open_run_folder(options: argparse.Namespace) -> None:
    """A word that is the folder of a run stands for what the run was started with."""
    from kdcore.run.folder import RECIPE_FILE, RUN_FILE, RunFolder

    for index, word in enumerate(options.words):
        path = Path(word)
        if not (path / RUN_FILE).is_file():
            continue
        record = RunFolder(path).read()
        options.words[index] = str(path / RECIPE_FILE)
        options.plugin += [path / file for file in record.get("plugin_files", ())]
        options.no_alone = options.no_alone or not record.get("alone", True)
        if getattr(options, "seeds", 0) is None:
            options.seeds = record.get("seeds")


def _stage(options: argparse.Namespace, recipe: Recipe) -> str | None:
    """The stage that was asked for.

    Raises:
        RecipeError: the recipe has no such stage.
    """
    stage: str | None = options.stage
    if stage is not None and stage not in recipe.stages:
        raise RecipeError([Problem(f"--stage {stage}: there is no such stage", did_you_mean(stage, recipe.stages))])
    return stage


def _check(options: argparse.Namespace) -> int:
    recipe, _ = _read(options)
    for stage in recipe.stages.values():
        taught = f" taught by {', '.join(stage.teachers)}" if stage.teachers else ""
        what = f"train {', '.join(stage.train)}{taught}" if stage.do is None else f"do {stage.do.use}"
        print(f"{stage.name}: {what}")
    print("the recipe is sound")
    return 0


def _fit(options: argparse.Namespace) -> int:
    recipe, plugins = _read(options)
    stage = _stage(options, recipe)
    found = ((name, plugins.find("exporter", name)) for name in options.export)
    problems = [
        replace(one, message=f"--export {name}: {one.message}") for name, one in found if isinstance(one, Problem)
    ]
    if problems:
        raise RecipeError(problems)
    from kdcore.run.fit import Fit
    from kdcore.run.quiet import hide_absent_gpus, quiet, say
    from kdcore.run.stages import Options, rank

    quiet()
    hide_absent_gpus()
    wanted = Options(options.runs, options.seeds or 1, stage, not options.no_probe, options.fresh)
    done = Fit(recipe, plugins, wanted, say, options.plugin, alone=not options.no_alone).run()
    if done.is_dir():
        say(f"run folder: {done}")
        return 0
    report = json.loads(done.with_suffix(".json").read_text(encoding="utf-8"))
    for comparison in report["comparisons"].values():
        say(comparison["answer"])
    say(f"report: {done}")
    if options.export and rank() == 0:
        from kdcore.run.export import export
        from kdcore.run.restore import restore

        restored = restore(recipe, plugins, options.runs, options.plugin, say)
        for file in export(restored, None, options.export, done.parent / "export"):
            say(f"export: {file}")
    return 0


def _restored(options: argparse.Namespace) -> Restored:
    recipe, plugins = _read(options)
    from kdcore.run.quiet import quiet, say
    from kdcore.run.restore import restore

    quiet()
    return restore(recipe, plugins, options.runs, options.plugin, say)


def _validate(options: argparse.Namespace) -> int:
    return _score(options, "val")


def _test(options: argparse.Namespace) -> int:
    return _score(options, "test")


def _score(options: argparse.Namespace, split: Literal["val", "test"]) -> int:
    restored = _restored(options)
    from kdcore.run.restore import score

    for line in score(restored, split):
        print(line)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    recipe, plugins = _read(options)
    stage = recipe.stages[_stage(options, recipe) or list(recipe.stages)[-1]]
    from kdcore.build import Builder
    from kdcore.run.inspect import inspect

    for line in inspect(stage, Builder(recipe, plugins, recipe.seed, options.runs)):
        print(line)
    return 0


def _export(options: argparse.Namespace) -> int:
    restored = _restored(options)
    from kdcore.run.export import export

    for file in export(restored, options.model, options.format or ["safetensors"], options.to):
        print(file)
    return 0


@dataclass(frozen=True)
class _Facade:
    """What a plugin's command works with: see :class:`kdcore.hookspecs.Facade`."""

    options: argparse.Namespace

    @property
    def words(self) -> Sequence[str]:
        return tuple(self.options.words)

    def restored(self) -> Restored:
        if not self.options.words:
            raise RecipeError([Problem("no recipe is named", "name the recipe of a finished run, or its folder")])
        return _restored(self.options)

    def say(self, line: str) -> None:
        print(line, flush=True)


def _command(options: argparse.Namespace) -> int:
    from kdcore import commands

    component: Component = options.component
    values = commands.given(options, component)
    code: int | None = component.load()(_Facade(options), **values)
    return code or 0


def _plugins(options: argparse.Namespace) -> int:
    described = _present(options).describe()
    if options.json:
        print(json.dumps(described, indent=2))
        return 0
    for plugin in described:
        reason = f": {plugin['reason']}" if plugin["reason"] else ""
        print(f"{plugin['name']}  {plugin['distribution']} {plugin['version']}  {plugin['status']}{reason}")
        for kind, names in plugin["components"].items():
            print(f"    {kind:<10} {', '.join(names)}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from kdcore.doctor import diagnose, show

    findings = diagnose(_present(options))
    return show(findings)


def _new_recipe(options: argparse.Namespace) -> int:
    from kdcore.new_recipe import new_recipe

    def architecture_of(file: Path) -> str | None:
        from kdcore.weights.about import architecture_of  # imports torch

        return architecture_of(file)

    text = new_recipe(
        options.task,
        teacher=options.teacher,
        data=options.data,
        plugins=_present(options),
        architecture_of=architecture_of,
    )
    if options.to is None:
        print(text, end="")
        return 0
    if options.to.exists():
        raise RecipeError([Problem(f"{options.to} exists already", "choose another name with --to")])
    options.to.write_text(text, encoding="utf-8")
    print(f"wrote {options.to}; next: python -m kdcore check {options.to}")
    return 0


def _new_plugin(options: argparse.Namespace) -> int:
    from kdcore.new_plugin import new_plugin

    folder = options.to or Path(f"kdcore-{options.name.replace('_', '-')}")
    for path in new_plugin(options.name, folder):
        print(path)
    print(f"next: cd {folder} && pip install -e '.[dev]' && pytest")
    return 0

"""The command line: verbs that import what they need, when they need it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdcore.errors import KdcoreError, PluginError, Problem, RecipeError
from kdcore.plugins import Plugins

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe
    from kdcore.run.restore import Restored

RECIPES = "recipe files (or the name of a recipe that kdcore ships), then overrides such as `losses.kd.weight=0.5`"


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line.

    Returns:
        0, or 1 where the run failed, 2 for the recipe or the usage, 3 for a plugin, 130 when interrupted.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "words")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if hasattr(options, "words"):
        options.words += rest
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except KdcoreError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kdcore", description="Knowledge-distillation recipes on Lightning.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(
        name: str, verb: Callable[[argparse.Namespace], int], text: str, *, recipe: bool
    ) -> argparse.ArgumentParser:
        own = verbs.add_parser(name, help=text, description=text)
        own.set_defaults(verb=verb)
        own.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE",
                         help="load a file of your own; its components are named `local.*`")  # fmt: skip
        if recipe:
            own.add_argument("words", nargs="+", metavar="RECIPE", help=RECIPES)
            own.add_argument(
                "--no-alone", action="store_true", help="skip the default stage that trains the student alone"
            )
            own.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: runs)")
        return own

    fit = add("fit", _fit, "run a recipe and write a report", recipe=True)
    fit.add_argument("--seeds", type=_positive, default=1, metavar="N", help="run N seeds, from the recipe's on")
    fit.add_argument("--stage", metavar="NAME", help="run one stage only")
    fit.add_argument(
        "--no-probe", action="store_true", help="skip the checks of teachers and losses before the first step"
    )
    fit.add_argument("--fresh", action="store_true", help="reuse no finished stage and resume no run")
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
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _present(options: argparse.Namespace) -> Plugins:
    plugins = Plugins()
    for file in options.plugin:
        plugins.load_file(file)
    return plugins


def _recipe(options: argparse.Namespace, plugins: Plugins) -> Recipe:
    from kdcore.recipe.arguments import split_arguments
    from kdcore.recipe.check import read

    sources, overrides = split_arguments(options.words, plugins.shipped_recipes())
    recipe = read(sources, overrides, plugins, alone=not options.no_alone)
    problems = [*plugins.check_requires(recipe.requires), *plugins.check_recipe(recipe)]
    for warning in [*recipe.warnings, *(problem for problem in problems if problem.level == "warning")]:
        print(warning, file=sys.stderr)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        raise RecipeError(errors)
    return recipe


def _check(options: argparse.Namespace) -> int:
    recipe = _recipe(options, _present(options))
    for stage in recipe.stages.values():
        taught = f" taught by {', '.join(stage.teachers)}" if stage.teachers else ""
        what = f"train {', '.join(stage.train)}{taught}" if stage.do is None else f"do {stage.do.use}"
        print(f"{stage.name}: {what}")
    print("the recipe is sound")
    return 0


def _fit(options: argparse.Namespace) -> int:
    plugins = _present(options)
    recipe = _recipe(options, plugins)
    if options.stage is not None and options.stage not in recipe.stages:
        raise RecipeError([Problem(f"--stage {options.stage}: the recipe has {', '.join(recipe.stages)}")])
    from kdcore.run.fit import Fit
    from kdcore.run.quiet import quiet, say
    from kdcore.run.stages import Options

    quiet()
    wanted = Options(options.runs, options.seeds, options.stage, not options.no_probe, options.fresh)
    done = Fit(recipe, plugins, wanted, say, options.plugin).run()
    if done.is_file():
        _print_answer(done)
    say(f"{'report' if done.is_file() else 'run folder'}: {done}")
    return 0


def _print_answer(page: Path) -> None:
    from kdcore.run.quiet import say

    text = page.read_text(encoding="utf-8").split("\n## ")[0]
    say("\n" + "\n".join(line for line in text.splitlines() if line and not line.startswith(("#", "!"))))


def _restored(options: argparse.Namespace) -> Restored:
    plugins = _present(options)
    recipe = _recipe(options, plugins)
    from kdcore.run.quiet import quiet, say
    from kdcore.run.restore import restore

    quiet()
    return restore(recipe, plugins, options.runs, options.plugin, say)


def _validate(options: argparse.Namespace) -> int:
    return _score(options, "val")


def _test(options: argparse.Namespace) -> int:
    return _score(options, "test")


def _score(options: argparse.Namespace, split: str) -> int:
    restored = _restored(options)
    from kdcore.run.restore import score

    for line in score(restored, split):
        print(line)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    plugins = _present(options)
    recipe = _recipe(options, plugins)
    if options.stage is not None and options.stage not in recipe.stages:
        raise RecipeError([Problem(f"--stage {options.stage}: the recipe has {', '.join(recipe.stages)}")])
    from kdcore.build import Builder
    from kdcore.run.inspect import inspect

    stage = recipe.stages[options.stage or list(recipe.stages)[-1]]
    for line in inspect(stage, Builder(recipe, plugins, recipe.seed, options.runs)):
        print(line)
    return 0


def _export(options: argparse.Namespace) -> int:
    restored = _restored(options)
    from kdcore.run.export import export

    for file in export(restored, options.model, options.format or ["safetensors"], options.to):
        print(file)
    return 0


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

    text = new_recipe(options.task, teacher=options.teacher, data=options.data, plugins=_present(options))
    if options.to is None:
        print(text, end="")
        return 0
    if options.to.exists():
        raise PluginError([Problem(f"{options.to} exists already", "choose another name with --to")])
    options.to.write_text(text, encoding="utf-8")
    print(f"wrote {options.to}; next: python -m kdcore check {options.to}")
    return 0

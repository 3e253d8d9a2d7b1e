"""``check_task``: what the core, metrics and exporters expect of a task."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import PluginError
from kdcore.registry import Component
from kdcore.signals import Batch, Signals
from kdcore.task import Task, evaluating
from kdcore.testing.calls import calls_around
from kdcore.testing.checks import Check, PromiseError, run_checks


@dataclass(frozen=True)
class TaskCase:
    """A task with one model and one batch.

    Attributes:
        metric: the primary one, built; of the core's own where it is one of those and none is given.
        others: the signals of teachers, for models that read them.
        models: what ``prepare`` may ask for.
    """

    task: Task
    model: nn.Module
    batch: Batch
    metric: Any
    others: Mapping[str, Signals]
    models: Mapping[str, nn.Module]

    def signals(self, batch: Batch | None = None, *, train: bool = False) -> Signals:
        """The signals of the model, in eval mode and without a graph unless it trains."""
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(train), evaluating([self.model]):
            torch.manual_seed(0)
            self.model.train(train)
            return self.task.signals(self.model, dict(self.batch if batch is None else batch), self.others)


def check_task(
    task: Task,
    model: nn.Module,
    batch: Batch,
    *,
    metric: Any = None,
    others: Mapping[str, Signals] | None = None,
    models: Mapping[str, nn.Module] | None = None,
    skip: Mapping[str, str] | None = None,
) -> None:
    """Check what a task promises, one promise after another.

    Args:
        task: with all its facts, as the data completes them.
        model: a small one, such as the task is made for.
        batch: a small one with labels, as the data gives it; two samples at least.
        metric: the primary metric, made; may be left out where it is ``accuracy``.
        others: the signals of teachers, for a model that reads them.
        models: what ``prepare`` may ask for by name; ``student`` and ``teacher`` are this model by default.
        skip: checks that do not apply, each with the reason: ``{"deploy": "a GNN needs its graph"}``.

    Raises:
        AssertionError: a promise is broken; the message says which one, and what to write instead.
        ValueError: an unknown name in ``skip``, or one without a reason.
    """
    known = models or {"student": model, "teacher": model}
    case = TaskCase(task, model, batch, _metric(task) if metric is None else metric, others or {}, known)
    run_checks(CHECKS, case, title=type(task).__name__, caller="check_task", skip=skip)


def _metric(task: Task) -> Any:
    from kdcore.metrics.accuracy import Accuracy

    return Accuracy(class_axis=task.class_axis) if task.primary[0] == "accuracy" else None


def _source(case: TaskCase) -> None:
    kind = type(case.task)
    try:
        read = Component("task", kind.__name__, kind, "local").literal("fact_names", ())
    except PluginError as error:
        raise PromiseError(f"{error.problems[0].message}: {error.problems[0].hint}") from error
    if read != kind.fact_names:
        raise PromiseError(
            f"`fact_names` is {kind.fact_names}, and `check`, which reads the file, finds {read}: write it as a "
            "literal tuple in the body of the class"
        )
    unknown = sorted(case.task.facts.keys() - set(read))
    if unknown:
        raise PromiseError(f'`facts` holds `{unknown[0]}`, which `fact_names` lacks: add "{unknown[0]}" to it')
    if len(kind.primary) != 2 or kind.primary[1] not in ("max", "min"):
        raise PromiseError(f'`primary` is {kind.primary}: write a metric and its direction, `("accuracy", "max")`')
    if kind.__doc__ is None:
        raise PromiseError("it has no docstring: say what a batch holds, and what a model returns")


def _signals(case: TaskCase) -> None:
    taught, scored = case.signals(train=True), case.signals()
    for signals in (taught, scored):
        if not isinstance(signals, dict) or not signals:
            raise PromiseError(
                f'`signals` returned a {type(signals).__name__}: return tensors by name, {{"logits": ...}}'
            )
        for name, x in signals.items():
            if not isinstance(x, Tensor):
                raise PromiseError(f"its signal `{name}` is a {type(x).__name__}: signals are tensors")
    if taught.keys() != scored.keys():
        raise PromiseError(
            f"it gives {', '.join(sorted(taught))} in train mode and {', '.join(sorted(scored))} in eval mode: give "
            "the same in both"
        )
    if not any(x.requires_grad for x in taught.values()):
        raise PromiseError("no signal has a graph to the model in train mode: leave no_grad and detach to the core")


def _call(case: TaskCase) -> None:
    with calls_around(case.model) as seen:
        case.signals()
    if seen.outside:
        raise PromiseError(
            f"`signals` runs `{seen.outside[0]}` of the model by itself: call `model(...)` as a whole, which taps and "
            "compiled nets need; what you want from inside is a tap"
        )
    if not seen.calls:
        raise PromiseError("`signals` does not call the model: write `model(...)`, not `model.forward(...)`")


def _aligned(case: TaskCase) -> None:
    _check_aligned(case, case.batch, case.signals())


def _check_aligned(case: TaskCase, batch: Batch, signals: Signals) -> None:
    ids = batch.get("id")
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        raise PromiseError("the batch has no `id`, int64 (N,): give every sample a number that stays the same for ever")
    if "logits" not in signals:
        return
    logits, axis = signals["logits"], case.task.class_axis
    positions = list(logits.shape)
    classes = positions.pop(axis)
    wanted = case.task.facts.get("classes", case.task.facts.get("vocabulary"))
    if wanted is not None and classes != wanted:
        raise PromiseError(
            f"`logits` have the shape {tuple(logits.shape)}, with {classes} at the class axis {axis}, and the facts "
            f"tell {wanted} classes: set `class_axis`, or move the classes there"
        )
    for name in ("labels", "mask", "weight"):
        x = batch.get(name)
        if x is None or (name == "labels" and x.shape == logits.shape):  # soft labels
            continue
        if list(x.shape) != positions:
            raise PromiseError(
                f"the batch's `{name}` has the shape {tuple(x.shape)}, and `logits` of {tuple(logits.shape)} take "
                f"{tuple(positions)}: one for each position"
            )


def _observe(case: TaskCase) -> None:
    name = case.task.primary[0]
    if case.metric is None:
        raise PromiseError(f"its primary metric is `{name}`, which the check was not given: pass metric=...")
    takes = getattr(case.metric, "takes", None)
    signals = case.signals()
    for teachers in ({}, {"teacher": signals}):
        observed = case.task.observe(signals, teachers, case.batch)
        if takes not in observed:
            raise PromiseError(
                f"`observe` gives {', '.join(sorted(observed)) or 'nothing'}, and the primary metric `{name}` takes "
                f"`{takes}`: add it, from the student's signals and the batch"
            )
        case.metric.reset()
        case.metric.update(*observed[takes])
        value = float(case.metric.compute())
        if math.isnan(value):
            raise PromiseError(f"`{name}` is NaN on this batch: give the check labels, or make `observe` give them")
    chance = case.task.chance()
    if chance is not None and not isinstance(chance, float):
        raise PromiseError(f"`chance()` is a {type(chance).__name__}: give a float, or None where it is not known")


def _example(case: TaskCase) -> None:
    state = torch.get_rng_state()
    example, again = case.task.example(2), case.task.example(2)
    if not torch.equal(torch.get_rng_state(), state):
        raise PromiseError("`example` draws from torch's own generator: use one of its own, `torch.Generator()`")
    for name, x in example.items():
        if isinstance(x, Tensor) and not torch.equal(x, again[name]):
            raise PromiseError(f"`example(2)` gives another `{name}` each time: seed a generator of its own")
    ours, real = case.signals(example), case.signals()
    if ours.keys() != real.keys():
        raise PromiseError(
            f"from `example(2)` the model gives {', '.join(sorted(ours))}, from a batch {', '.join(sorted(real))}: "
            "losses are set up with the one and run with the other"
        )
    _check_aligned(case, example, ours)
    if len(case.task.example(3)["id"]) != 3:
        raise PromiseError(f"`example(3)` has {len(case.task.example(3)['id'])} samples: make as many as asked for")


def _prepare(case: TaskCase) -> None:
    before = copy.deepcopy(case.batch)
    prepared = case.task.prepare(case.batch, lambda name: case.models[name])
    if not isinstance(prepared, dict):
        raise PromiseError(f"`prepare` returned a {type(prepared).__name__}: return the batch, `return batch`")
    changed = sorted(case.batch.keys() ^ before.keys())
    if changed:
        raise PromiseError(
            f"`prepare` put `{changed[0]}` into the batch it was given: return a new one, `{{**batch, ...}}`"
        )
    for name, x in before.items():
        if isinstance(x, Tensor) and not torch.equal(x, case.batch[name]):
            raise PromiseError(
                f"`prepare` changed the batch's `{name}` in place: return a new batch, `{{**batch, ...}}`"
            )
    _check_aligned(case, prepared, case.signals(prepared))


def _deploy(case: TaskCase) -> None:
    example = case.task.example(2)
    deployed = case.task.deploy(copy.deepcopy(case.model))
    if not isinstance(deployed, nn.Module) or deployed.training:
        raise PromiseError("`deploy` gives no module in eval mode: `return Deployed(model).eval()`")
    names = list(inspect.signature(deployed.forward).parameters)
    missing = [name for name in names if name not in example]
    if missing:
        raise PromiseError(
            f"the deployed net takes `{missing[0]}`, and `example` holds {', '.join(sorted(example))}: name the "
            "parameters of its forward as the batch does"
        )
    with torch.no_grad():
        answer = deployed(**{name: example[name] for name in names})
    logits = case.signals(example).get("logits")
    if not isinstance(answer, Tensor) or logits is None or answer.shape != logits.shape:
        return  # boxes, sequences: what they are is the plugin's own to test
    if answer.dtype != torch.float32:
        raise PromiseError(f"the deployed net answers in {answer.dtype}: end with `.float()`")
    axis = case.task.class_axis
    if not torch.equal(answer.argmax(axis), logits.argmax(axis)):
        raise PromiseError(
            "the deployed net chooses other classes than the signals it was trained with: do in `deploy` what "
            "`signals` does, normalisation included"
        )


CHECKS: tuple[Check[TaskCase], ...] = (
    Check("source", "what `check` reads in its file is what holds", _source, "define the class in a file"),
    Check("signals", "it gives tensors by name, the same in train and eval mode", _signals, "read the batch by name"),
    Check("call", "the model is called as a whole", _call, "write `model(...)`"),
    Check("aligned", "labels, mask and weight have one entry for each position of `logits`", _aligned,
          "set `class_axis`"),
    Check("observe", "the primary metric gets what it takes", _observe, "give `preds_target`: (logits, labels)"),
    Check("prepare", "what `prepare` returns is a batch as the data gives it", _prepare, "return `{**batch, ...}`"),
    Check("example", "`example(n)` stands for a batch", _example, "make the inputs from `self.facts`"),
    Check("deploy", "`deploy` answers from raw inputs, as the signals do", _deploy,
          "wrap the model: input as in the batch -> answer"),
)  # fmt: skip

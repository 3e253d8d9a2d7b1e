"""``check_task`` on sound tasks, and on tasks that break one promise."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kdcore.metrics.accuracy import Accuracy
from kdcore.task import Task
from kdcore.tasks.classify import Classify
from kdcore.testing import check_task, samples
from kdcore.testing.tasks import CHECKS

from .refusal import inside

BATCH = samples.vectors()["batch"]


class Vectors(Classify):
    """As the core's, with the facts of the samples."""

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "features")

    def __init__(self) -> None:
        super().__init__(classes=samples.CLASSES)
        self.facts["features"] = samples.WIDTH


def refusal(task: Task, check: str, *, exactly: bool = True, **given: Any) -> str:
    """What ``check_task`` says, without the head and the last line; every other check passes."""
    inputs = {"model": samples.vector_net(), "batch": BATCH, **given}
    with pytest.raises(AssertionError) as caught:
        check_task(task, **inputs)
    if exactly:
        check_task(task, **inputs, skip={check: "everything else is as it should be"})
    return inside(str(caught.value), f"{type(task).__name__} [{check}]: ", "check_task", check)


def test_the_core_s_task_keeps_its_promises():
    task = Classify(classes=samples.CLASSES)
    task.facts["features"] = samples.WIDTH
    check_task(task, samples.vector_net(), BATCH)


def test_a_task_over_maps():
    class Maps(Task):
        """``image`` (N, 3, H, W); the model gives logits (N, C, H, W)."""

        class_axis: ClassVar[int] = 1
        fact_names: ClassVar[tuple[str, ...]] = ("classes",)

        def __init__(self) -> None:
            self.facts = {"classes": samples.CLASSES}

        def signals(self, model: nn.Module, batch: Any, others: Any) -> Any:
            return {"logits": model(batch["image"])}

        def observe(self, student: Any, teachers: Any, batch: Any) -> Any:
            return {"preds_target": (student["logits"], batch["labels"])}

        def example(self, n: int) -> Any:
            image = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
            return {"id": torch.arange(n), "image": image, "labels": torch.zeros(n, 4, 4, dtype=torch.int64)}

        def deploy(self, model: nn.Module) -> nn.Module:
            return Answers(model).eval()

    check_task(Maps(), samples.map_net(), samples.maps()["batch"])


class Answers(nn.Module):
    """What is shipped: image -> logits as they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.model(image)
        return found


def test_what_is_checked_has_these_names():
    names = ["source", "signals", "call", "aligned", "observe", "prepare", "example", "deploy"]
    assert [check.name for check in CHECKS] == names


# ---- source


def test_a_fact_that_is_not_named():
    task = Vectors()
    task.facts["colour"] = 3
    assert refusal(task, "source") == '`facts` holds `colour`, which `fact_names` lacks: add "colour" to it'


def test_fact_names_that_are_computed():
    class Computed(Vectors):
        """Has names that cannot be read."""

        fact_names: ClassVar[tuple[str, ...]] = (*Vectors.fact_names, "colour")

    said = refusal(Computed(), "source")
    assert said.endswith(
        "`fact_names = (*Vectors.fact_names, 'colour')` is not a literal: write out its value: it is read without "
        "importing the file"
    )


def test_fact_names_that_are_set_afterwards():
    class Late(Vectors):
        """Has other names than its file says."""

        fact_names: ClassVar[tuple[str, ...]] = ("classes",)

    Late.fact_names = ("classes", "features")
    assert refusal(Late(), "source") == (
        "`fact_names` is ('classes', 'features'), and `check`, which reads the file, finds ('classes',): write it as a "
        "literal tuple in the body of the class"
    )


def test_a_primary_metric_without_a_direction():
    class Upwards(Vectors):
        """Does not say what is better."""

        primary: ClassVar[Any] = ("accuracy", "up")

    assert refusal(Upwards(), "source") == (
        "`primary` is ('accuracy', 'up'): write a metric and its direction, `(\"accuracy\", \"max\")`"
    )


def test_a_task_that_says_nothing():
    class Silent(Vectors):
        pass

    assert refusal(Silent(), "source") == "it has no docstring: say what a batch holds, and what a model returns"


# ---- signals


class Changed(Vectors):
    """Gives what a test wants."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def signals(self, model: nn.Module, batch: Any, others: Any) -> Any:
        return self.change(model, super().signals(model, batch, others))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda model, s: s["logits"],
            '`signals` returned a Tensor: return tensors by name, {"logits": ...}',
        ),
        (lambda model, s: {}, '`signals` returned a dict: return tensors by name, {"logits": ...}'),
        (lambda model, s: {**s, "names": ["a"]}, "its signal `names` is a list: signals are tensors"),
        (
            lambda model, s: {**s, "loss": s["logits"]} if model.training else s,
            "it gives logits, loss in train mode and logits in eval mode: give the same in both",
        ),
        (
            lambda model, s: {"logits": s["logits"].detach()},
            "no signal has a graph to the model in train mode: leave no_grad and detach to the core",
        ),
    ],
)
def test_signals_that_are_none(change: Any, said: str):
    assert refusal(Changed(change), "signals", exactly=False) == said


def test_a_part_that_is_called_by_itself():
    class Around(Vectors):
        """Calls the parts one by one."""

        def signals(self, model: nn.Module, batch: Any, others: Any) -> Any:
            x = batch["image"]
            for part in model.children():
                x = part(x)
            return {"logits": x}

    assert refusal(Around(), "call") == (
        "`signals` runs `0` of the model by itself: call `model(...)` as a whole, which taps and compiled nets need; "
        "what you want from inside is a tap"
    )


def test_a_model_that_is_not_called():
    class Weights(Vectors):
        """Uses the weights without the net."""

        def signals(self, model: nn.Module, batch: Any, others: Any) -> Any:
            return {"logits": batch["image"] @ model.get_parameter("weight").T}

        def deploy(self, model: nn.Module) -> nn.Module:
            return Answers(model).eval()

    torch.manual_seed(0)
    said = refusal(Weights(), "call", model=nn.Linear(samples.WIDTH, samples.CLASSES, bias=False))
    assert said == "`signals` does not call the model: write `model(...)`, not `model.forward(...)`"


# ---- aligned


@pytest.mark.parametrize("wrong", [None, torch.arange(4.0), torch.zeros(4, 1, dtype=torch.int64)])
def test_ids_that_are_none(wrong: Any):
    batch = {**BATCH, "id": wrong}
    assert refusal(Vectors(), "aligned", exactly=False, batch=batch) == (
        "the batch has no `id`, int64 (N,): give every sample a number that stays the same for ever"
    )


@pytest.mark.parametrize("name", ["labels", "mask", "weight"])
def test_what_does_not_fit_the_logits(name: str):
    batch = {**BATCH, name: torch.zeros(4, 2, dtype=torch.int64)}
    assert refusal(Vectors(), "aligned", exactly=False, batch=batch) == (
        f"the batch's `{name}` has the shape (4, 2), and `logits` of (4, 5) take (4,): one for each position"
    )


def test_soft_labels_fit():
    batch = {**BATCH, "labels": torch.rand(4, 5)}
    check_task(Vectors(), samples.vector_net(), batch, skip={"observe": "accuracy takes hard labels"})


def test_a_class_axis_that_is_wrong():
    class Turned(Vectors):
        """Says that samples are classes."""

        class_axis: ClassVar[int] = 0

    assert refusal(Turned(), "aligned", exactly=False) == (
        "`logits` have the shape (4, 5), with 4 at the class axis 0, and the facts tell 5 classes: set `class_axis`, "
        "or move the classes there"
    )


# ---- observe


class Observes(Vectors):
    """Observes what a test wants."""

    def __init__(self, observed: Any) -> None:
        super().__init__()
        self.observed = observed

    def observe(self, student: Any, teachers: Any, batch: Any) -> Any:
        return self.observed


def test_a_metric_that_gets_nothing():
    assert refusal(Observes({}), "observe") == (
        "`observe` gives nothing, and the primary metric `accuracy` takes `preds_target`: add it, from the student's "
        "signals and the batch"
    )
    assert "`observe` gives other, and" in refusal(Observes({"other": ()}), "observe")


def test_a_metric_that_is_not_known():
    class Other(Vectors):
        """Has a metric of its own."""

        primary: ClassVar[tuple[str, str]] = ("miou", "max")

    assert refusal(Other(), "observe") == (
        "its primary metric is `miou`, which the check was not given: pass metric=..."
    )
    check_task(Other(), samples.vector_net(), BATCH, metric=Accuracy())


def test_a_batch_without_any_label():
    batch = {**BATCH, "labels": torch.full_like(BATCH["labels"], -100)}
    assert refusal(Vectors(), "observe", batch=batch) == (
        "`accuracy` is NaN on this batch: give the check labels, or make `observe` give them"
    )


def test_a_chance_that_is_no_number():
    class Chance(Vectors):
        """Says one in five."""

        def chance(self) -> Any:
            return "1/5"

    assert refusal(Chance(), "observe") == "`chance()` is a str: give a float, or None where it is not known"


# ---- prepare


class Prepares(Vectors):
    """Prepares as a test wants."""

    def __init__(self, prepare: Any) -> None:
        super().__init__()
        self._prepare = prepare

    def prepare(self, batch: Any, models: Any) -> Any:
        return self._prepare(batch, models)


def put(batch: Any, models: Any) -> Any:
    batch["seen"] = True
    return batch


def brighten(batch: Any, models: Any) -> Any:
    batch["image"].add_(0.0).mul_(1.5)
    return batch


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda batch, models: None, "`prepare` returned a NoneType: return the batch, `return batch`"),
        (put, "`prepare` put `seen` into the batch it was given: return a new one, `{**batch, ...}`"),
        (brighten, "`prepare` changed the batch's `image` in place: return a new batch, `{**batch, ...}`"),
        (
            lambda batch, models: {**batch, "image": batch["image"][:2]},
            "the batch's `labels` has the shape (4,), and `logits` of (2, 5) take (2,): one for each position",
        ),
    ],
)
def test_batches_that_are_none(prepare: Any, said: str):
    batch = {key: value.clone() for key, value in BATCH.items()}
    assert refusal(Prepares(prepare), "prepare", exactly=False, batch=batch) == said


def test_prepare_may_ask_for_models():
    asked = []
    check_task(Prepares(lambda batch, models: asked.append(models("student")) or batch), samples.vector_net(), BATCH)
    assert isinstance(asked[0], nn.Module)
    said = refusal(Prepares(lambda batch, models: models("judge") or batch), "prepare")
    assert said.startswith("it raises KeyError: judge; promised is that what `prepare` returns is a batch")


# ---- example


class Shows(Vectors):
    """Shows what a test wants."""

    def __init__(self, show: Any) -> None:
        super().__init__()
        self.show = show

    def example(self, n: int) -> Any:
        return self.show(n, super().example(n))


COUNTER = iter(range(1000))


@pytest.mark.parametrize(
    ("show", "said"),
    [
        (
            lambda n, e: {**e, "image": torch.rand(n, samples.WIDTH)},
            "`example` draws from torch's own generator: use one of its own, `torch.Generator()`",
        ),
        (
            lambda n, e: {**e, "image": e["image"] + next(COUNTER)},
            "`example(2)` gives another `image` each time: seed a generator of its own",
        ),
        (
            lambda n, e: {key: value[:2] for key, value in e.items()},
            "`example(3)` has 2 samples: make as many as asked for",
        ),
        (
            lambda n, e: {**e, "labels": torch.zeros(n, 3)},
            "the batch's `labels` has the shape (2, 3), and `logits` of (2, 5) take (2,): one for each position",
        ),
    ],
)
def test_examples_that_are_none(show: Any, said: str):
    assert refusal(Shows(show), "example", exactly=False) == said


def test_an_example_that_gives_other_signals():
    class Whole(Vectors):
        """Gives a signal for whole graphs only."""

        def signals(self, model: nn.Module, batch: Any, others: Any) -> Any:
            signals = super().signals(model, batch, others)
            return {**signals, "near": signals["logits"]} if "graph" in batch else signals

    assert refusal(Whole(), "example", batch={**BATCH, "graph": 1}) == (
        "from `example(2)` the model gives logits, from a batch logits, near: losses are set up with the one and run "
        "with the other"
    )


# ---- deploy


class Ships(Vectors):
    """Ships what a test wants."""

    def __init__(self, ship: Any) -> None:
        super().__init__()
        self.ship = ship

    def deploy(self, model: nn.Module) -> Any:
        return self.ship(model)


class Pixels(Answers):
    def forward(self, pixels: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(pixels)


class Halves(Answers):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).bfloat16()


class Negates(Answers):
    def forward(self, image: Tensor) -> Tensor:
        return -super().forward(image)


class Counts(Answers):
    """Answers something else than a number for each class."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).argmax(1)


@pytest.mark.parametrize(
    ("ship", "said"),
    [
        (lambda model: model.train(), "`deploy` gives no module in eval mode: `return Deployed(model).eval()`"),
        (lambda model: model.forward, "`deploy` gives no module in eval mode: `return Deployed(model).eval()`"),
        (
            lambda model: Pixels(model).eval(),
            "the deployed net takes `pixels`, and `example` holds id, image, labels: name the parameters of its "
            "forward as the batch does",
        ),
        (lambda model: Halves(model).eval(), "the deployed net answers in torch.bfloat16: end with `.float()`"),
        (
            lambda model: Negates(model).eval(),
            "the deployed net chooses other classes than the signals it was trained with: do in `deploy` what "
            "`signals` does, normalisation included",
        ),
    ],
)
def test_what_cannot_be_shipped(ship: Any, said: str):
    assert refusal(Ships(ship), "deploy") == said


def test_other_answers_are_the_plugin_s_own_to_test():
    check_task(Ships(lambda model: Counts(model).eval()), samples.vector_net(), BATCH)


def test_the_model_is_left_as_it_was():
    model = samples.vector_net().train()
    check_task(Vectors(), model, BATCH)
    assert model.training
    assert not any(part._forward_pre_hooks for part in model.modules())
    model.eval()
    check_task(Vectors(), model, BATCH)
    assert not model.training


def test_a_task_that_raises_is_said():
    batch = {key: value for key, value in BATCH.items() if key != "image"}
    said = refusal(Vectors(), "signals", exactly=False, batch=batch)
    assert said == (
        "it raises KeyError: the task `classify` reads `image`, the batch holds: id, labels; promised is that it gives "
        "tensors by name, the same in train and eval mode: read the batch by name"
    )

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from kdcore.assemble import BuiltStage, assemble
from kdcore.build import Builder
from kdcore.cache.source import CACHE
from kdcore.cache.stage import fill, teacher_digest
from kdcore.data.arrays import Columns
from kdcore.data.base import Split
from kdcore.data.digits import Digits
from kdcore.errors import RecipeError, RunError
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.recipe.schema import Ref, Slot, Stage
from kdcore.tasks.classify import Classify

RECIPE = """
kdcore: 1
name: cached
task: {use: classify, classes: 10}
data: {use: digits, batch_size: 100}
models:
  teacher: {use: mlp, hidden: [32]}
  second: {use: mlp, hidden: [24]}
  both: {use: ensemble, of: [teacher, second]}
  mixed: {use: ensemble, of: [teacher, follows]}
  follows: {use: ema, of: student}
  student: {use: mlp, hidden: [16]}
stages:                                   # the tests run the last one only
  first: {train: teacher, losses: {ce: {use: cross_entropy}}}
  also: {train: second, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses:
  ce: {use: cross_entropy, weight: 0.1}
  kd: {use: kl, temperature: 2.0}
metrics: {agreement: {use: agreement}}
trainer: {max_epochs: 2}
"""
CACHED = "cache={of: teacher, dtype: float32}"
BOTH = "stages.distil.teachers=[both]"
DEEP = [
    "losses.deep={use: mse, at: deep}",
    "taps.deep={student: hidden.0, teacher: hidden.0, project: linear}",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


class Playing:
    """A stage, put together and, on request, trained; it counts how often each teacher is run."""

    def __init__(self, file: Path, *overrides: str, seed: int = 0, plugin: Path | None = None) -> None:
        plugins = Plugins()
        if plugin is not None:
            plugins.load_file(plugin)
        recipe = read([file], list(overrides), plugins)
        self.folder = file.parent / "cache"
        self.stage: Stage = recipe.stages["distil"]
        self.builder = Builder(recipe, plugins, seed, file.parent, print)
        self.lines: list[str] = []
        self.calls: dict[str, int] = {}

    def assemble(self) -> BuiltStage:
        self.built = assemble(self.builder, self.stage)
        for name, holder in self.built.cast.frozen.items():
            holder.module.register_forward_hook(self._count(name))
        self.calls.clear()
        return self.built

    def _count(self, name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1

        return count

    def fill(self) -> None:
        assert self.built.cast.cache is not None
        fill(
            self.built.cast.cache,
            self.stage,
            self.built.cast,
            self.builder.data(self.stage.data),
            slots=self.builder.recipe.models,
            folder=self.folder,
            device=torch.device("cpu"),
            say=self.lines.append,
        )

    def train(self) -> dict[str, Tensor]:
        self.assemble()
        if self.built.cast.cache is not None:
            self.fill()
            self.calls.clear()
        pl.seed_everything(0, verbose=False)
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(self.built.distiller, datamodule=self.built.data)
        return {key: value.clone() for key, value in self.built.cast.trained["student"].state_dict().items()}


def distance(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((mine[key] - theirs[key]).abs().max()) for key in theirs)


@pytest.mark.parametrize("overrides", [[], [BOTH], DEEP], ids=["one teacher", "an ensemble", "a tap"])
def test_a_dense_float32_cache_trains_the_very_same_student(file: Path, overrides: list[str]) -> None:
    live = Playing(file, *overrides)
    expected = live.train()
    of, keep = ("both", "logits") if BOTH in overrides else ("teacher", "logits, tap.deep" if overrides else "logits")
    cached = Playing(file, *overrides, f"cache={{of: {of}, keep: [{keep}], dtype: float32}}")
    assert distance(cached.train(), expected) == 0.0
    # 10 steps and 3 batches of validation an epoch; validation runs the teacher still
    assert live.calls["teacher"] == 2 * (10 + 3)
    assert cached.calls == dict.fromkeys(live.calls, 2 * 3)


@pytest.mark.parametrize(("how", "most"), [("dtype: float16", 1e-3), ("dtype: bfloat16", 1e-2), ("topk: 8", 2e-2)])
def test_smaller_caches_train_nearly_the_same_student(file: Path, how: str, most: float) -> None:
    expected = Playing(file).train()
    found = distance(Playing(file, f"cache={{of: teacher, {how}}}").train(), expected)
    assert 0.0 < found < most


def test_no_teacher_runs_without_validation_of_it(file: Path) -> None:
    playing = Playing(file, CACHED, "~metrics.agreement")
    playing.train()
    assert playing.calls == {}


def test_a_batch_of_anyone_else_runs_the_teacher(file: Path) -> None:
    playing = Playing(file, "cache={of: both}", BOTH)
    cast = playing.assemble().cast
    data = playing.builder.data(playing.stage.data)
    batch = next(iter(data.val_dataloader()))
    order = cast.order({Ref("both"), Ref("student")})
    assert order == (Ref("both"), Ref("student"))
    cast.run(order, batch)
    assert playing.calls == {"teacher": 1, "second": 1}
    playing.fill()
    training = cast.cache.attach(next(iter(data.train_dataloader()))) if cast.cache else {}
    playing.calls.clear()
    assert CACHE in training
    assert cast.run(order, training)[Ref("both")]["logits"].shape == (100, 10)
    assert playing.calls == {}


def test_a_later_run_reads_what_an_earlier_one_wrote(file: Path) -> None:
    first = Playing(file, CACHED)
    first.assemble()
    first.fill()
    assert first.calls["teacher"] == 1 + 10
    again = Playing(file, CACHED, "losses.kd.temperature=4", "trainer.max_epochs=7")
    again.assemble()
    again.fill()
    assert again.calls == {}
    assert again.lines == []
    assert len(list(first.folder.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        ["models.teacher.hidden=[33]"],
        ["models.teacher.mean=[0.5]"],
        ["data.batch_size=50"],
        ["data.labels=100"],
        ["cache.topk=3"],
        ["cache.dtype=float16"],
    ],
)
def test_what_depends_on_something_else_lies_somewhere_else(file: Path, change: list[str]) -> None:
    for overrides in ([], change):
        playing = Playing(file, CACHED, *overrides)
        playing.assemble()
        playing.fill()
    assert len(list(playing.folder.iterdir())) == 2


def test_another_seed_of_the_teacher_lies_somewhere_else(file: Path) -> None:
    for seed in (0, 1):
        playing = Playing(file, CACHED, seed=seed)
        playing.assemble()
        playing.fill()
    assert len(list(playing.folder.iterdir())) == 2


def test_a_cache_put_in_the_place_of_another_is_refused(file: Path) -> None:
    mine, other = Playing(file, CACHED), Playing(file, CACHED, "models.teacher.hidden=[33]")
    other.folder = mine.folder.with_name("other")
    for playing in (mine, other):
        playing.assemble()
        playing.fill()
    [place], [wrong] = mine.folder.iterdir(), other.folder.iterdir()
    for path in wrong.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    with pytest.raises(RunError, match=r"was written with teacher = '.*', and this stage has '.*': it is not used"):
        mine.fill()


def digest_of(
    file: Path, *overrides: str, of: str = "teacher", change: Callable[[nn.Module], Any] | None = None
) -> str:
    playing = Playing(file, BOTH, *overrides)
    cast = playing.assemble().cast
    if change is not None:
        with torch.no_grad():
            change(cast.module("teacher"))
    return teacher_digest(cast, of, playing.builder.recipe.models)


@pytest.mark.parametrize("of", ["teacher", "both"])
@pytest.mark.parametrize(
    ("overrides", "change", "same"),
    [
        ([], None, True),
        (["models.teacher.compile=true"], None, True),
        (["models.teacher.mean=[0.5]"], None, False),
        (["models.teacher.dtype=bfloat16"], None, False),
        ([], lambda net: next(net.parameters()).view(-1)[0].add_(1e-6), False),
        ([], lambda net: net.register_buffer("new", torch.ones(1), persistent=False), False),
    ],
)
def test_the_digest_of_a_teacher_knows_all_that_it_says_depends_on(
    file: Path, of: str, overrides: list[str], change: Callable[[nn.Module], Any] | None, same: bool
) -> None:
    assert (digest_of(file, *overrides, of=of, change=change) == digest_of(file, of=of)) is same


def test_how_an_ensemble_averages_is_part_of_its_digest(file: Path) -> None:
    assert digest_of(file, "models.both.average=logits", of="both") != digest_of(file, of="both")


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (DEEP, "loss `deep` reads `tap.deep` of `teacher`, which is not kept", "write `keep: [logits, tap.deep]`"),
        (
            ["cache.topk=3", "cache.keep=[tap.deep]", *DEEP],
            "`topk: 3` ranks `logits`, and `keep` names tap.deep",
            "topk",
        ),
        (
            ["cache={of: mixed}", "stages.distil.teachers=[mixed]"],
            "`follows`, of which `mixed` is made, changes while stage `distil` runs",
            "take `cache` out",
        ),
        (
            ["cache.of=teacher", "stages.distil.teachers=[both, teacher]", "cache.keep=[tap.x]"],
            "loss `kd` reads `logits` of `teacher`, which is not kept",
            "write `keep: [tap.x, logits]`",
        ),
    ],
)
def test_what_a_cache_cannot_give_is_refused_at_build(
    file: Path, overrides: list[str], message: str, hint: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Playing(file, CACHED, *overrides).assemble()
    assert {problem.path for problem in caught.value.problems} == {"stages.distil.cache"}
    assert any(hint in problem.hint for problem in caught.value.problems)


def test_mixing_after_a_cache_is_refused(file: Path) -> None:
    playing = Playing(file, CACHED)
    object.__setattr__(playing.stage, "prepare", {"mix": Slot("prepare.mix", "cutmix")})
    with pytest.raises(RecipeError, match=r"`prepare: mix` changes the batches of stage `distil`, .* of the unchanged"):
        playing.assemble()


def test_a_task_that_prepares_batches_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classify, "prepare", lambda self, batch, models: batch)
    with pytest.raises(RecipeError, match="the task `classify` prepares every batch anew"):
        Playing(file, CACHED).assemble()


def test_a_loss_that_sends_gradients_through_the_teacher_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcore.losses.kl.KL.live", True)
    with pytest.raises(RecipeError, match="loss `kd` sends gradients through `teacher`, which must be run for that"):
        Playing(file, CACHED).assemble()


class Jittered(Columns):
    """Noise of its own at every reading."""

    def __getitems__(self, index: Any) -> dict[str, Tensor]:
        batch = super().__getitems__(index)
        return {**batch, "image": batch["image"] + 0.01 * torch.rand_like(batch["image"])}


class Seeded(Columns):
    """Noise that is a pure function of a seed, which the batch tells."""

    epoch = 0

    def __getitems__(self, index: Any) -> dict[str, Tensor]:
        batch = super().__getitems__(index)
        seeds = batch["id"] * 1000 + 17 + self.epoch
        noise = torch.frac(seeds.double().sin().abs() * 1e4).float().view(-1, 1, 1, 1)
        return {**batch, "image": batch["image"] * noise, "seed": seeds}


def augmented(monkeypatch: pytest.MonkeyPatch, kind: type[Columns]) -> None:
    plain = Digits.split

    def split(self: Digits, name: Split) -> Columns:
        columns = plain(self, name)
        return kind(columns.columns) if name == "train" else columns

    monkeypatch.setattr(Digits, "split", split)


def test_random_transforms_without_a_seed_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented(monkeypatch, Jittered)
    playing = Playing(file, CACHED)
    playing.assemble()
    with pytest.raises(RecipeError, match="the data `digits` gives the same training samples in another way each time"):
        playing.fill()
    assert not playing.folder.exists()


def test_transforms_with_a_seed_replay(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented(monkeypatch, Seeded)
    assert distance(Playing(file, CACHED).train(), Playing(file).train()) == 0.0


def test_a_seed_that_was_not_stored_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented(monkeypatch, Seeded)
    playing = Playing(file, CACHED)
    cast = playing.assemble().cast
    playing.fill()
    monkeypatch.setattr(Seeded, "epoch", 1)
    assert cast.cache is not None
    with pytest.raises(RunError, match=r"no sample with id \d+ and augmentation seed \d+"):
        cast.cache.attach(next(iter(playing.builder.data(playing.stage.data).train_dataloader())))


AUGMENTED = "data.transform={noise: {use: local.noise}}"


@pytest.fixture
def noisy(file: Path) -> Path:
    """A file with a random transform."""
    path = file.parent / "noisy.py"
    path.write_text(NOISE)
    return path


NOISE = """
import torch
from kdcore.hookspecs import hookimpl


class Noise:
    def __init__(self, *, by: float = 0.1) -> None:
        self.by = by

    def __call__(self, sample, seed):
        drawn = torch.randn(sample["image"].shape, generator=torch.Generator().manual_seed(seed))
        return {**sample, "image": sample["image"] + self.by * drawn}


@hookimpl
def kdcore_register(add):
    add("transform", "noise", Noise)
"""


@pytest.mark.parametrize("variants", [1, 2])
def test_every_draw_of_a_sample_is_cached(file: Path, noisy: Path, variants: int) -> None:
    overrides = [AUGMENTED, f"data.variants={variants}"]
    cached = Playing(file, CACHED, *overrides, plugin=noisy)
    assert distance(cached.train(), Playing(file, *overrides, plugin=noisy).train()) == 0.0
    assert cached.calls == {"teacher": 2 * 3}  # validation, after each of the two epochs
    assert f"{1000 * variants} samples x 1 view" in cached.lines[0]


def test_a_broken_cache_of_several_draws_is_completed(file: Path, noisy: Path) -> None:
    overrides = [CACHED, AUGMENTED, "data.variants=2", "data.batch_size=300"]
    whole = Playing(file, *overrides, plugin=noisy).train()
    (place,) = [path for path in (file.parent / "cache").iterdir() if path.is_dir()]
    manifest = place / "manifest.json"
    assert manifest.is_file()
    again = Playing(file, *overrides, plugin=noisy)
    assert distance(again.train(), whole) == 0.0


def test_draws_without_end_cannot_be_cached(file: Path, noisy: Path) -> None:
    with pytest.raises(RecipeError, match="show every sample in a new way in every epoch") as found:
        Playing(file, CACHED, AUGMENTED, plugin=noisy).assemble()
    assert "set `data.variants` to how many ways each sample is shown in" in str(found.value)


def test_the_order_of_transforms_is_part_of_what_a_cache_depends_on(file: Path, noisy: Path) -> None:
    first = "data.transform={a: {use: local.noise}, b: {use: local.noise, by: 0.2}}"
    second = "data.transform={b: {use: local.noise, by: 0.2}, a: {use: local.noise}}"
    for override in (first, second):
        playing = Playing(file, CACHED, override, "data.variants=1", plugin=noisy)
        playing.assemble()
        playing.fill()
    assert len([path for path in playing.folder.iterdir() if path.is_dir()]) == 2


def test_without_a_cache_nothing_is_planned(file: Path) -> None:
    assert Playing(file).assemble().cast.cache is None


def test_a_cache_that_no_loss_reads_is_not_written(file: Path) -> None:
    assert Playing(file, CACHED, "losses.kd.weight=0").assemble().cast.cache is None

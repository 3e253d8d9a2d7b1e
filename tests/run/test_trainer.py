from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Timer, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from kdcore.callbacks.checkpoint import AtomicIO, Best, Last
from kdcore.callbacks.progress import Progress
from kdcore.data.loader import Loader
from kdcore.errors import PluginError, RecipeError
from kdcore.recipe.schema import DataSlot, Recipe, Slot, Stage
from kdcore.run.history import History
from kdcore.run.quiet import quiet
from kdcore.run.trainer import Configuration, make_trainer

torch.set_num_threads(1)

Make = Callable[..., pl.Trainer]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def configure(said: list[str]) -> Callable[..., Configuration]:
    """What plugins get, for a stage with these settings in the recipe."""

    def make(**settings: Any) -> Configuration:
        slot = Slot("task", "classify")
        stage = Stage("distil", "stages.distil", slot, DataSlot("data", "digits"), trainer=settings)
        return Configuration(Recipe("r", 0, slot, stage.data, {}, {"distil": stage}), "distil", said.append)

    return make


@pytest.fixture
def make(tmp_path: Path, configure: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch) -> Make:
    """A trainer of a stage with these settings; it may write in ``stage`` only."""
    (tmp_path / "stage").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def trainer(
        configuration: Configuration | None = None,
        callbacks: tuple[Callback, ...] = (),
        loggers: tuple[Logger, ...] = (),
        **settings: Any,
    ) -> pl.Trainer:
        used = configuration or configure(**settings)
        return make_trainer(
            used.recipe.stages["distil"], tmp_path / "stage", used, callbacks=list(callbacks), loggers=list(loggers),
            monitor="distil/val/accuracy", mode="max",
        )  # fmt: skip

    return trainer


def kinds(trainer: pl.Trainer) -> list[type]:
    return [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# ---- what plugins change


def test_what_a_plugin_sets_takes_effect_is_said_and_kept(
    configure: Callable[..., Configuration], make: Make, said: list[str]
) -> None:
    configuration = configure(max_epochs=1)
    timer = Timer()
    configuration.set_trainer("gradient_clip_val", 1.0, why="boxes explode")
    configuration.add_callback(timer, why="time is short")
    assert configuration.changes == [
        "set trainer.gradient_clip_val = 1.0: boxes explode",
        "added callback Timer: time is short",
    ]
    assert said == [f"stage `distil`: a plugin {line}" for line in configuration.changes]
    trainer = make(configuration)
    assert trainer.gradient_clip_val == 1.0
    assert timer in trainer.callbacks  # type: ignore[attr-defined]


def test_the_recipe_wins_over_plugins_and_that_is_said(
    configure: Callable[..., Configuration], make: Make, said: list[str]
) -> None:
    configuration = configure(max_epochs=1, gradient_clip_val=0.5)
    configuration.set_trainer("gradient_clip_val", 1.0, why="boxes explode")
    assert make(configuration).gradient_clip_val == 0.5
    assert configuration.changes == ["wanted trainer.gradient_clip_val = 1.0 (boxes explode); the recipe's 0.5 stays"]
    assert len(said) == 1


def test_a_plugin_that_overrules_another_is_said(configure: Callable[..., Configuration], make: Make) -> None:
    configuration = configure(max_epochs=1)
    configuration.set_trainer("gradient_clip_val", 1.0, why="one")
    configuration.set_trainer("gradient_clip_val", 2.0, why="other")
    assert make(configuration).gradient_clip_val == 2.0
    assert configuration.changes[1] == "set trainer.gradient_clip_val = 2.0 over another's 1.0: other"


def test_a_plugin_may_overrule_our_defaults(configure: Callable[..., Configuration], make: Make) -> None:
    configuration = configure(max_epochs=1)
    configuration.set_trainer("log_every_n_steps", 7, why="short epochs")
    assert make(configuration).log_every_n_steps == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("callbacks", "run.add_callback"),
        ("logger", "the recipe says `logger:`"),
        ("plugins", "trainer.precision"),
        ("default_root_dir", "the run folder"),
    ],
)
def test_what_a_plugin_may_not_set(configure: Callable[..., Configuration], key: str, hint: str) -> None:
    configuration = configure(max_epochs=1)
    with pytest.raises(PluginError, match=rf"a plugin may not set trainer\.{key}\n.*{hint}"):
        configuration.set_trainer(key, None, why="")
    assert configuration.changes == []
    assert configuration.settings == {}


def test_what_is_no_callback_is_refused(configure: Callable[..., Configuration]) -> None:
    with pytest.raises(
        PluginError, match=r"given <class .*Timer'>, which is no lightning.pytorch.Callback\n.*instance"
    ):
        configure().add_callback(Timer, why="forgot the brackets")  # type: ignore[arg-type]


# ---- how long


@pytest.mark.parametrize(
    ("settings", "epochs", "steps"),
    [
        ({"max_epochs": 3}, 3, -1),
        ({"max_steps": 5}, -1, 5),
        ({"max_epochs": None, "max_steps": 5}, -1, 5),
        ({"max_epochs": 3, "max_steps": 5}, 3, 5),
        ({"max_epochs": 3, "max_time": "00:01:00:00"}, 3, -1),
        ({"max_epochs": -1, "max_steps": 5}, -1, 5),
    ],
)
def test_how_long_a_stage_trains(make: Make, settings: dict[str, Any], epochs: int, steps: int) -> None:
    trainer = make(**settings)
    assert (trainer.max_epochs, trainer.max_steps) == (epochs, steps)


@pytest.mark.parametrize(
    "settings", [{}, {"max_epochs": None}, {"max_epochs": -1}, {"max_steps": -1}, {"max_time": "00:01:00:00"}]
)
def test_a_stage_without_an_end_is_refused(make: Make, settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="nothing says how long stage `distil` trains") as caught:
        make(**settings)
    assert caught.value.problems[0].path == "stages.distil.trainer"
    assert "set `trainer.max_epochs` or `trainer.max_steps`; `trainer.max_time` may only" in str(caught.value)


def test_a_plugin_may_say_how_long(configure: Callable[..., Configuration], make: Make) -> None:
    configuration = configure()
    configuration.set_trainer("max_epochs", 2, why="a plugin's own")
    assert make(configuration).max_epochs == 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"barebones": True}, "barebones"),
        ({"gradient_clip_algorithm": "x"}, "gradient_clip_algorithm"),
        ({"devices": 0, "accelerator": "cpu"}, "devices"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_what_lightning_refuses_is_said(make: Make, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"stages.distil.trainer: lightning.Trainer refuses \{{max_epochs: 1, .*{reason}"
    ):
        make(max_epochs=1, **settings)


# ---- what is in it


def test_ours_come_around_the_recipes(make: Make) -> None:
    trainer = make(callbacks=(Timer(),), max_epochs=1)
    assert kinds(trainer) == [Progress, Timer, Best, Last]
    assert isinstance(trainer.strategy.checkpoint_io, AtomicIO)


def test_best_is_saved_before_last_which_holds_its_state(make: Make, configure: Callable[..., Configuration]) -> None:
    configuration = configure(max_epochs=1)
    configuration.add_callback(Timer(), why="comes after the recipe's")
    assert kinds(make(configuration))[-2:] == [Best, Last]


def test_the_settings_of_best_and_last(make: Make, tmp_path: Path) -> None:
    trainer = make(max_epochs=1)
    best, last = trainer.checkpoint_callbacks
    assert isinstance(best, Best)
    assert (best.monitor, best.mode, str(best.dirpath)) == ("distil/val/accuracy", "max", str(tmp_path / "stage"))
    assert isinstance(last, Last)
    assert str(last.dirpath) == str(tmp_path / "stage")


def test_without_a_bar(make: Make) -> None:
    assert kinds(make(max_epochs=1, enable_progress_bar=False)) == [Best, Last]


def test_a_bar_of_the_recipes_own_takes_the_place_of_ours(make: Make) -> None:
    assert kinds(make(callbacks=(TQDMProgressBar(),), max_epochs=1)) == [TQDMProgressBar, Best, Last]


@pytest.mark.parametrize(
    ("settings", "attribute", "value"),
    [
        ({}, "log_every_n_steps", 50),
        ({"log_every_n_steps": 1}, "log_every_n_steps", 1),
        ({}, "num_sanity_val_steps", 0),
        ({"num_sanity_val_steps": 2}, "num_sanity_val_steps", 2),
        ({"accumulate_grad_batches": 3}, "accumulate_grad_batches", 3),
    ],
)
def test_the_recipe_says_more_than_our_defaults(
    make: Make, settings: dict[str, Any], attribute: str, value: Any
) -> None:
    assert getattr(make(max_epochs=1, **settings), attribute) == value


# ---- what it writes


class Net(pl.LightningModule):
    stage_name, monitored = "distil", "distil/val/accuracy"

    class task:  # noqa: N801 - stands for the task
        primary = ("accuracy", "max")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def running_loss(self) -> float:
        return 0.5

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch["x"]).mean()
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("distil/val/accuracy", 0.5, batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Samples:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"id": torch.tensor(index), "x": torch.ones(1)}


def test_all_that_it_writes_lies_in_the_folder(make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet()
    history = History(tmp_path / "stage" / "metrics.csv")
    trainer = make(loggers=(history,), max_epochs=2, accelerator="cpu")
    trainer.fit(Net(), Loader(Samples(), batch_size=2), Loader(Samples(), batch_size=4))
    assert names(tmp_path) == ["cwd", "stage"]
    assert names(tmp_path / "stage") == ["best.ckpt", "last.ckpt", "metrics.csv"]
    assert names(tmp_path / "cwd") == []
    assert (tmp_path / "stage" / "metrics.csv").read_text().splitlines()[1:] == [
        "1,distil/val/accuracy,0.5",
        "3,distil/val/accuracy,0.5",
    ]
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2  # the bar, a line for each validation: no table of the model, no tips
    assert all(line.startswith("distil  epoch") for line in lines)

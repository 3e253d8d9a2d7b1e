from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from kdcore.callbacks.checkpoint import LOOK, AtomicIO, Best, Last
from kdcore.callbacks.gpu import GPU
from kdcore.data.loader import Loader

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:.*LeafSpec")


class Samples:
    """Seven, fetched a batch at a time."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, index: Any) -> dict[str, Tensor]:
        ids = torch.as_tensor(index)
        return {"id": ids, "x": ids.reshape(-1, 1) / 7}


class Net(pl.LightningModule):
    """Its validation score follows a script, an entry for each epoch."""

    def __init__(self, scores: list[float], stop_after: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.scores = scores
        self.stop_after = stop_after

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = (self.layer(batch["x"]) - 1).square().mean()
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        self.log("s/val/accuracy", torch.tensor(self.scores[self.current_epoch]))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == self.stop_after:
            raise KeyError("crash")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(net: Net, *callbacks: pl.Callback, resume: Path | None = None, **settings: Any) -> pl.Trainer:
    train, val = Loader(Samples(), batch_size=1, shuffle=True), Loader(Samples(), batch_size=7)
    trainer = pl.Trainer(
        **{"max_epochs": len(net.scores), **settings}, accelerator="cpu", logger=False, callbacks=list(callbacks),
        plugins=[AtomicIO()], enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(net, train, val, ckpt_path=resume, weights_only=True)
    return trainer


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class Steps(pl.Callback):
    """The steps at which a file was there anew."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seen: list[int] = []
        self.last: int | None = None

    def _look(self) -> None:
        if self.file.is_file() and self.file.stat().st_ino != self.last:
            self.last = self.file.stat().st_ino
            self.seen.append(int(load(self.file)["global_step"]))

    def on_train_batch_start(self, *args: Any) -> None:
        self._look()

    def on_train_end(self, *args: Any) -> None:
        self._look()


# ---- files


def test_a_file_is_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    AtomicIO().save_checkpoint({"a": torch.ones(3), "b": [1, "x", None]}, path)
    AtomicIO().save_checkpoint({"a": torch.zeros(3)}, str(path))
    assert torch.equal(load(path)["a"], torch.zeros(3))
    assert names(path.parent) == ["last.ckpt"]
    assert torch.equal(AtomicIO().load_checkpoint(path, weights_only=True)["a"], torch.zeros(3))


class Dies:
    """Kills its process when it is saved."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_kill_in_the_middle_of_saving_leaves_the_old_file(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, temporary = tmp_path / "stage" / "last.ckpt", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    AtomicIO().save_checkpoint({"old": torch.ones(3)}, path)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "replace", lambda self, target: os.kill(os.getpid(), signal.SIGKILL))
        AtomicIO().save_checkpoint({"new": torch.ones(1000)} | ({"dies": Dies()} if moment == "write" else {}), path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert set(load(path)) == {"old"}
    assert names(path.parent) == [".last.ckpt.part", "last.ckpt"]
    assert names(temporary) == []
    AtomicIO().save_checkpoint({"newer": 1}, path)  # takes the place of what the crash left
    assert names(path.parent) == ["last.ckpt"]


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicIO().save_checkpoint({"old": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicIO().save_checkpoint({"new": lambda: None}, path)
    assert load(path) == {"old": 1}
    assert names(tmp_path) == ["last.ckpt"]


def test_the_content_is_flushed_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(file: int) -> None:
        order.append("flush")
        fsync(file)

    def rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    AtomicIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert order == ["flush", "rename", "flush"]  # the file, its name, the folder that holds the name


def test_what_training_saves_loads_without_running_code(tmp_path: Path) -> None:
    fit(Net([0.1, 0.3, 0.2]), GPU(), Best(tmp_path, "s/val/accuracy", "max"), Last(tmp_path))
    assert names(tmp_path) == ["best.ckpt", "last.ckpt"]
    saved = load(tmp_path / "last.ckpt")
    assert saved["global_step"] == 21
    best = next(state for key, state in saved["callbacks"].items() if key.startswith("Best"))
    assert best["best_model_score"] == pytest.approx(0.3)
    assert best["best_model_path"] == str(tmp_path / "best.ckpt")


# ---- best


@pytest.mark.parametrize(
    ("mode", "scores", "epoch"),
    [
        ("max", [0.1, 0.3, 0.2], 1),
        ("min", [0.1, 0.3, 0.2], 0),
        ("min", [0.3, 0.2, 0.1], 2),
        ("max", [0.3, 0.3, 0.1], 0),  # the first of equal ones
        ("max", [float("nan"), 0.1, float("nan")], 1),
    ],
)
def test_the_better_is_kept(tmp_path: Path, mode: str, scores: list[float], epoch: int) -> None:
    fit(Net(scores), Best(tmp_path, "s/val/accuracy", mode), Last(tmp_path))
    assert load(tmp_path / "best.ckpt")["epoch"] == epoch
    assert load(tmp_path / "last.ckpt")["epoch"] == 2


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    ("mode", "scores", "epoch"),
    [
        ("max", [0.5, 0.1, 0.4], 0),
        ("max", [0.5, 0.1, 0.6], 2),
        ("min", [0.5, 0.9, 0.8], 0),
        ("min", [0.5, 0.9, 0.4], 2),
    ],
)
def test_the_better_is_kept_over_a_crash(
    tmp_path: Path, mode: str, scores: list[float], epoch: int, moved: bool
) -> None:
    folder = tmp_path / "stage"
    with pytest.raises(KeyError, match="crash"):
        fit(Net(scores, stop_after=2), Best(folder, "s/val/accuracy", mode), Last(folder))
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    best, last = Best(folder, "s/val/accuracy", mode), Last(folder)
    fit(Net(scores), best, last, resume=folder / "last.ckpt")
    assert load(folder / "best.ckpt")["epoch"] == epoch
    assert float(best.best_model_score or 0) == pytest.approx(scores[epoch])
    assert best.best_model_path == str(folder / "best.ckpt")
    assert names(folder) == ["best.ckpt", "last.ckpt"]
    assert not (tmp_path / "stage").exists() or not moved


def test_a_resume_before_the_first_validation_has_no_best_yet(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="crash"):
        fit(Net([0.1] * 4, stop_after=1), Best(tmp_path, "s/val/accuracy", "max"), Last(tmp_path),
            check_val_every_n_epoch=2)  # fmt: skip
    assert names(tmp_path) == ["last.ckpt"]
    fit(Net([0.1] * 4), Best(tmp_path, "s/val/accuracy", "max"), Last(tmp_path), check_val_every_n_epoch=2,
        resume=tmp_path / "last.ckpt")  # fmt: skip
    assert load(tmp_path / "best.ckpt")["epoch"] == 1


# ---- last


@pytest.mark.parametrize(
    ("accumulate", "minutes", "steps"),
    [
        (1, 10.0, [7, 14]),  # at the end of each epoch only
        (1, 0.0, [*range(1, 15)]),
        (3, 0.0, [1, 2, 3, 4, 5, 6]),  # windows of 3, 3 and 1
        (3, 10.0, [3, 6]),
    ],
)
def test_when_it_is_saved(tmp_path: Path, accumulate: int, minutes: float, steps: list[int]) -> None:
    seen = Steps(tmp_path / "last.ckpt")
    fit(Net([0.1, 0.2]), seen, Last(tmp_path, minutes=minutes), accumulate_grad_batches=accumulate)
    assert seen.seen == steps


def test_it_is_saved_at_the_edges_of_windows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    save = Last._save_checkpoint

    def note(self: Last, trainer: pl.Trainer, path: str) -> None:
        batches.append(trainer.fit_loop.epoch_loop.batch_idx + 1)
        save(self, trainer, path)

    monkeypatch.setattr(Last, "_save_checkpoint", note)
    fit(Net([0.1]), Last(tmp_path, minutes=0), accumulate_grad_batches=3)
    assert batches == [3, 6, 7]


def test_a_save_of_either_kind_starts_the_time_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    class Clock(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            nonlocal now
            now += 60.0

    seen = Steps(tmp_path / "last.ckpt")
    fit(Net([0.1, 0.2]), seen, Clock(), Last(tmp_path, minutes=4))
    assert seen.seen == [4, 7, 11, 14]


def test_a_stage_goes_on_from_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """The same weights as without the interruption, from a checkpoint taken inside an epoch."""

    class Interrupt(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 10:
                raise KeyError("crash")

    torch.manual_seed(0)
    start = {name: value.clone() for name, value in Net([0.1] * 3).state_dict().items()}

    def net() -> Net:
        made = Net([0.1] * 3)
        made.load_state_dict(start)
        return made

    whole, resumed = net(), net()
    fit(whole, Last(tmp_path / "whole"))
    with pytest.raises(KeyError, match="crash"):
        fit(net(), Last(tmp_path / "cut", minutes=0), Interrupt())
    assert load(tmp_path / "cut" / "last.ckpt")["global_step"] == 10
    trainer = fit(resumed, Last(tmp_path / "cut"), resume=tmp_path / "cut" / "last.ckpt")
    assert trainer.global_step == 21
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)
        assert not torch.equal(start[name], value)


def test_nothing_is_saved_in_a_trial_run(tmp_path: Path) -> None:
    fit(Net([0.1]), Last(tmp_path, minutes=0), fast_dev_run=3)
    assert names(tmp_path) == []


def test_ranks_agree_before_they_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the first rank decides, and is asked for only every so many steps."""
    asked = []

    class Strategy:
        def broadcast(self, due: bool) -> bool:
            asked.append(due)
            return True

    class Trainer:
        world_size, accumulate_grad_batches, is_last_batch = 2, 1, False
        strategy = Strategy()
        global_step = 0

    saved = []
    monkeypatch.setattr(Last, "_should_skip_saving_checkpoint", lambda self, trainer: False)
    monkeypatch.setattr(Last, "_monitor_candidates", lambda self, trainer: {})
    monkeypatch.setattr(
        Last, "_save_none_monitor_checkpoint", lambda self, trainer, _: saved.append(trainer.global_step)
    )
    last, trainer = Last(tmp_path, minutes=10), Trainer()
    for step in range(1, 2 * LOOK + 1):
        trainer.global_step = step
        last.on_train_batch_end(trainer, None, None, None, step - 1)  # type: ignore[arg-type]
    assert asked == [False, False]
    assert saved == [LOOK, 2 * LOOK]

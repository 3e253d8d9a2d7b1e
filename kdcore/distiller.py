"""The one LightningModule: it runs the stage's models, adds up the losses and keeps score, for every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from kdcore.binding import BoundLoss
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.losses.base import Total
from kdcore.recipe.schema import Ref
from kdcore.rng import get_state, set_state
from kdcore.running import Running, not_finite
from kdcore.schedules import Progress, Schedule, value_at
from kdcore.scores import Scores
from kdcore.signals import Batch, Signals
from kdcore.window import WINDOW

NEVER = 2**62

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class Distiller(pl.LightningModule):
    """Trains the models of one stage.

    Args:
        stage: its name, which prefixes everything that is logged.
        cast: the models and the task.
        losses: the bound losses.
        scores: the metrics of each trained model, computed on the validation set.
        teachers: the stage's teachers by name; metrics compare a student with the first.
        prepare: components ``(batch, models) -> batch`` run on the device before the task's own ``prepare``.
        optimizer: makes the optimizer from parameter groups.
        parameter_groups: gives the parameters that learn, in groups.
        schedule: multiplies the learning rate.
        always_eval: modules of trained models that stay in eval mode (frozen parts).
    """

    def __init__(
        self,
        stage: str,
        cast: Cast,
        *,
        losses: list[BoundLoss],
        scores: Mapping[str, Scores],
        teachers: tuple[str, ...],
        optimizer: MakeOptimizer,
        parameter_groups: Callable[[], list[dict[str, Any]]],
        prepare: list[nn.Module] | None = None,
        schedule: Schedule | None = None,
        always_eval: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stage_name = stage
        self.cast = cast
        self.task = cast.task
        self.students = nn.ModuleDict(cast.trained)
        self.losses = nn.ModuleDict({loss.name.replace(".", "/"): loss for loss in losses})
        self.scores = nn.ModuleDict(dict(scores))
        self.prepare = nn.ModuleList(prepare or [])
        self.teachers = teachers
        self._bound = losses
        self._make_optimizer = optimizer
        self._parameter_groups = parameter_groups
        self._schedule = schedule
        self._always_eval = always_eval or []
        self._train_order = cast.order({ref for loss in losses for ref in loss.refs})
        watched = teachers[:1] if any(s.need_teacher for s in scores.values()) else ()
        self._val_order = cast.order({Ref(name) for name in (*cast.trained, *watched)})
        self._scheduled = any(loss.scheduled for loss in losses)
        self._running = Running()
        self._is_gated = False
        self._batch: Batch = {}
        self._learning: list[nn.Parameter] = []
        self._weights: tuple[list[Any], Tensor] = ([], torch.empty(0))
        self._total_steps = 1
        self._log_every = 1
        self._resumed: dict[str, Any] | None = None
        self.latest: dict[str, dict[str, float]] = {}
        self.teacher_timer: Any = None
        # Lightning leaves the modes alone, and a model may have been a teacher in the stage before
        self.train()

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this twice for every hook of every step, and nn.Module's own way takes 3 us each time
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # ---- where everything lives

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.cast.apply(fn)
        return self

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        for module in self._always_eval:
            module.eval()
        return self

    # ---- a step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        window = batch.pop(WINDOW, None)
        self._batch = batch
        return self._loss(batch, window)

    def _loss(self, batch: Batch, window: dict[str, Tensor] | None) -> Tensor:
        batch = self.prepared(batch)
        if self._scheduled:
            self._set_progress()
        totals = self.totals(self.cast.run(self._train_order, batch, self.teacher_timer), batch)
        return self._add_up(totals, window)

    @torch.enable_grad()
    def _again(self) -> Tensor:
        """The loss and its gradient once more on the batch of this step, without the trainer's hooks around it."""
        for parameter in self._learning:
            parameter.grad = None
        loss = self._loss(self._batch, None)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def totals(self, signals: Mapping[Ref, Signals], batch: Batch) -> list[tuple[BoundLoss, dict[str, Total]]]:
        """Every loss's sum and count on one batch; autocast is off inside."""
        if torch.is_autocast_enabled(self.device.type):
            with torch.autocast(self.device.type, enabled=False):
                return [(loss, loss(signals, batch)) for loss in self._bound]
        return [(loss, loss(signals, batch)) for loss in self._bound]

    def prepared(self, batch: Batch) -> Batch:
        """The batch as the models see it: after the recipe's ``prepare`` and the task's own."""
        for component in self.prepare:
            batch = component(batch, self.cast.module)
        return self.task.prepare(batch, self.cast.module)

    def _add_up(self, totals: list[tuple[BoundLoss, dict[str, Total]]], window: dict[str, Tensor] | None) -> Tensor:
        parts = [(loss, name, part) for loss, found in totals for name, part in found.items()]
        losses = [loss for loss, *_ in parts]
        sums, counts = _stacked([part.sum for *_, part in parts]), _stacked([part.count for *_, part in parts])
        world, accumulate = self.trainer.world_size, self.trainer.accumulate_grad_batches
        self._running.add([name for _, name, _ in parts], sums.detach(), counts, world)
        factors = [1] * len(parts)
        if window or world > 1:
            known = [(window or {}).get(loss.name) for loss in losses]
            counts = _over_ranks(counts, known, world)
            # undoes DDP's mean and, where the count is the window's, Lightning's division by its micro-batches
            factors = [world if count is None else world * accumulate for count in known]
        # divides the weights, not the sums: one step less for the gradient to go through
        return torch.dot(sums, self._weigh(losses, factors, sums) / counts.clamp(min=1))

    def _weigh(self, losses: list[BoundLoss], factors: list[int], like: Tensor) -> Tensor:
        pairs = zip(losses, factors, strict=True)
        values = [value_at(loss.weight, loss.loss.progress) * factor for loss, factor in pairs]
        if any(isinstance(value, Tensor) for value in values):
            return torch.stack([torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in values])
        if values != self._weights[0]:
            self._weights = values, torch.tensor(values, dtype=like.dtype, device=like.device)
        return self._weights[1]

    def on_train_epoch_end(self) -> None:
        if self._running.steps:
            self._emit(self._flush(self.global_step), self.global_step)
        for follower in self.cast.followers.values():
            follower.after_epoch(self.cast.module(follower.of))

    def running_loss(self) -> float:
        """Mean of the losses since the last log point, summed (reads the device)."""
        return self._running.total()

    def _emit(self, values: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, step=step)

    def _set_progress(self) -> None:
        progress = Progress(self.global_step / self._total_steps, self._running.means())
        for loss in self._bound:
            loss.loss.progress = progress

    def _flush(self, step: int) -> dict[str, float]:
        """Mean of each loss since the last log point (reads the device).

        Raises:
            RunError: one of them is not a number; the optimizer has skipped every update since then. Or the weights
                are none, which made the losses so.
        """
        found = self._running.flush(self.trainer.world_size)
        wrong = not_finite(found)
        if wrong:
            self._check_weights(step)
            names = " and ".join(f"`{name}`" for name in wrong)
            raise RunError(
                f"stage `{self.stage_name}`: the loss {names} became {found[wrong[0]]} by step {step}. "
                "No update was made with it, and the last checkpoint is good. Look at what it reads: a teacher that "
                "gives NaN or inf, a masked row without any class, a learning rate that is too high"
            )
        return {f"{self.stage_name}/train/{name}": value for name, value in found.items()}

    def _check_weights(self, step: int) -> None:
        """A gradient may be NaN where the loss is a number, and no loss then gates the update (reads the device).

        Raises:
            RunError: weights that learn are not finite.
        """
        learning = [(name, weights) for name, weights in self.named_parameters() if weights.requires_grad]
        finite = torch.stack([weights.detach().isfinite().all() for _, weights in learning]).tolist()
        wrong = [name for (name, _), is_finite in zip(learning, finite, strict=True) if not is_finite]
        if wrong:
            more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
            raise RunError(
                f"stage `{self.stage_name}`: the weights `{wrong[0]}`{more} became NaN or infinite by step {step}, "
                "though every loss before them was a number: a gradient was none. Look at what has none at 0 or at "
                "infinity (a root, a norm, a logarithm, also behind `torch.where`; `trainer.detect_anomaly: true` "
                "names it) and at the learning rate. No checkpoint has these weights: the last one is good"
            )

    # ---- keeping score

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        signals = self.cast.run(self._val_order, batch)
        for name, scores in self._students_scores():
            # models that teach each other are each compared with another one
            teachers = {t: signals[Ref(t)] for t in self.teachers if Ref(t) in signals and t != name}
            scores.update(self.task, signals[Ref(name)], teachers, batch)

    def on_validation_epoch_start(self) -> None:
        for _, scores in self._students_scores():
            scores.reset()

    def on_validation_epoch_end(self) -> None:
        found = {name: scores.compute() for name, scores in self._students_scores()}
        primary = self.task.primary[0]
        logged = {self.monitored: sum(values[primary] for values in found.values()) / len(found)}
        for name, values in found.items():
            prefix = f"{self.stage_name}/val/{name}" if len(found) > 1 else f"{self.stage_name}/val"
            logged.update({f"{prefix}/{metric}": value for metric, value in values.items()})
        # every rank holds the same values; without this Lightning warns that they may differ
        self.log_dict(logged, sync_dist=self.trainer.world_size > 1)
        self.latest = found

    @property
    def monitored(self) -> str:
        """The value that chooses the best weights: the primary metric, the mean over the models being trained."""
        return f"{self.stage_name}/val/{self.task.primary[0]}"

    def _students_scores(self) -> list[tuple[str, Scores]]:
        return [(name, module) for name, module in self.scores.items() if isinstance(module, Scores)]

    # ---- optimizer, start, checkpoint

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        self._log_every = self.trainer.log_every_n_steps or NEVER  # type: ignore[attr-defined]
        optimizer = self._make_optimizer(self._parameter_groups())
        if self._schedule is None:
            return {"optimizer": optimizer}  # type: ignore[typeddict-item]
        schedule = self._schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: float(schedule(Progress(min(1.0, step / self._total_steps))))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise RunError(
                f"stage `{self.stage_name}`: the data does not say how many batches it has, so schedules do not know "
                "how far the stage is: set `trainer.max_steps`"
            )
        self._total_steps = max(1, int(steps))
        self._running.start(self.device)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        scales = self.trainer.scaler is not None  # a gradient scaler skips such updates itself
        if getattr(optimizer, "_step_supports_amp_scaling", False) and not scales:
            # fused optimizers skip the update on the device where this is 1: no read, no wait
            optimizer.found_inf = self._running.bad
            self._is_gated = True
        self._is_gated |= scales
        if hasattr(optimizer, "again") and self._needs_no_trainer():
            self._learning = [one for group in optimizer.param_groups for one in group["params"]]
            optimizer.again = self._again
        if self._resumed is not None:
            # Lightning restores a loader while it sets it up, and forgets to where anyone asked for the number of
            # steps before it read the checkpoint
            loader: Any = self.trainer.train_dataloader
            if self._resumed["loader"]:
                loader.load_state_dict(self._resumed["loader"])
            saved = self._resumed["rng"]  # on another number of ranks nothing continues exactly
            if len(saved) == self.trainer.world_size:
                set_state(saved[self.trainer.global_rank])
            self._resumed = None

    def _needs_no_trainer(self) -> bool:
        """Whether a gradient is just that: no ranks, no scaling, no clipping, no accumulation, gated on the device."""
        trainer = self.trainer
        if not self._is_gated:
            return False
        alone = isinstance(trainer.strategy, SingleDeviceStrategy) and type(trainer.precision_plugin) is Precision
        return alone and not trainer.gradient_clip_val and trainer.accumulate_grad_batches == 1

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        # not in `on_train_batch_end`: callbacks come before it and may write a checkpoint, which must hold all of it
        for follower in self.cast.followers.values():
            follower.after_step(self.cast.module(follower.of))
        step = self.global_step + 1  # Lightning counts it after this
        if step % self._log_every == 0:
            self._emit(self._flush(step), step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # an optimizer that knows no gate costs a read of the device in every step
        if not self._is_gated and bool(self._running.bad):
            self._flush(self.global_step + 1)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # Lightning refuses to clip for any fused optimizer, which matters only where gradients are scaled
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if bool(self._running.bad):
            self._flush(self.global_step)  # no checkpoint of a run that is about to stop: the last one is good
        self._check_weights(self.global_step)
        checkpoint["running"] = self._running.state_dict()
        checkpoint["latest"] = self.latest
        loader: Any = self.trainer.train_dataloader
        checkpoint["loader"] = loader.state_dict() if hasattr(loader, "state_dict") else {}
        checkpoint["rng"] = _of_all_ranks(get_state(), self.trainer.world_size)
        checkpoint["followers"] = {name: one.state_dict() for name, one in self.cast.followers.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = {key: checkpoint[key] for key in ("loader", "rng")}
        self._running.load_state_dict(checkpoint["running"])
        self.latest = checkpoint["latest"]
        for name, state in checkpoint["followers"].items():
            self.cast.followers[name].load_state_dict(state)


def _stacked(scalars: list[Tensor]) -> Tensor:
    """(number of scalars,); of one alone without a copy, which a small step would feel."""
    return scalars[0].view(1) if len(scalars) == 1 else torch.stack(scalars)


def _over_ranks(counts: Tensor, known: list[Tensor | None], world: int) -> Tensor:
    """The counts over all ranks: of the whole window where that is known, else of this micro-batch."""
    if world > 1 and any(count is None for count in known):
        counts = counts.clone()  # they may be the losses' own
        torch.distributed.all_reduce(counts)
    return torch.stack([one if count is None else count for one, count in zip(counts, known, strict=True)])


def _of_all_ranks(state: dict[str, Any], world: int) -> list[dict[str, Any]]:
    """Each rank's own, by rank: with one state for all, their dropout masks would be equal after a resume."""
    if world == 1:
        return [state]
    states: list[dict[str, Any]] = [{}] * world
    torch.distributed.all_gather_object(states, state)
    return states

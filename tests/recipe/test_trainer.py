"""The trainer's keywords and the optimizer."""

from __future__ import annotations

import pytest

from kdcore.recipe.schema import Optimizer, Slot

from .conftest import BASE, Judge


def test_the_trainer_takes_what_lightning_takes(judge: Judge) -> None:
    trainer = "{max_epochs: 3, accumulate_grad_batches: 2, precision: bf16-mixed, gradient_clip_val: 1, "
    trainer += "devices: [0, 1], max_time: null}"
    assert judge(BASE, f"trainer={trainer}").recipe.stages["distil"].trainer == {
        "max_epochs": 3,
        "accumulate_grad_batches": 2,
        "precision": "bf16-mixed",
        "gradient_clip_val": 1,
        "devices": [0, 1],
        "max_time": None,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch: unknown key of lightning.Trainer\n    did you mean `max_epochs`?"),
        ("trainer.max_epochs=three", "trainer.max_epochs: is `three`, but must be a whole number or null"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs: is `1.5`, but must be a whole number or null"),
        ("trainer.callbacks=[]", "trainer.callbacks: is not set here\n    write them under `callbacks:`"),
        ("trainer.logger=true", "trainer.logger: is not set here\n    write it under `logger:`"),
        ("trainer.plugins=[]", "trainer.plugins: is not set here\n    kdcore chooses them"),
        (
            "trainer.default_root_dir=x",
            "trainer.default_root_dir: is not set here\n    choose the folder with --runs DIR",
        ),
        (
            "trainer.enable_checkpointing=false",
            "trainer.enable_checkpointing: is not set here\n    a run goes on from its checkpoints; `keep: last` ends",
        ),
        (
            "trainer={precision: 16-mixed, gradient_clip_val: 1.0}",
            "trainer.gradient_clip_val: Lightning clips no gradients that 16-mixed has scaled\n    use `prec",
        ),
        (
            "trainer.strategy=fsdp",
            "trainer.strategy: `fsdp` cuts nets into pieces, and a stage ends with whole ones\n    use `strategy: ddp`",
        ),
        ("trainer.strategy=deepspeed_stage_2", "`deepspeed_stage_2` cuts nets into pieces"),
        ("trainer=3", "trainer: is `3`, but must be a mapping"),
        ("optimizer.use=adamx", "optimizer.use: there is no optimizer `adamx`\n    did you mean `adamw`?"),
        ("optimizer.lr=fast", "optimizer.lr: is `fast`, but must be a number"),
        ("optimizer.use=sgd", "optimizer: optimizer `sgd` needs `lr`"),
        ("optimizer.schedule=0.1", "optimizer.schedule: is `0.1`, but must be a mapping such as {use: NAME}"),
        ("optimizer.schedule={use: cosin}", "optimizer.schedule.use: there is no schedule `cosin`"),
        (
            "optimizer.groups={head: {lrr: 1}}",
            "optimizer.groups.head.lrr: unknown key of a group of optimizer `adamw`\n    did you mean `lr`?",
        ),
        ("optimizer.groups={head: {lr: x}}", "optimizer.groups.head.lr: is `x`, but must be a number"),
        ("optimizer.groups={head: 3}", "optimizer.groups.head: is `3`, but must be a mapping"),
        ("optimizer=adamw", "optimizer: is `adamw`, but must be a mapping such as {use: NAME}"),
    ],
)
def test_what_is_wrong_with_trainer_or_optimizer(judge: Judge, override: str, message: str) -> None:
    errors = judge(BASE, override).errors
    assert len(errors) == 1, errors
    assert message in errors[0]


def test_groups_and_schedule_are_kept_apart_from_arguments(judge: Judge) -> None:
    text = (
        BASE
        + "optimizer: {lr: 1e-2, groups: {encoder.**: {lr: 1e-4}, head: {weight_decay: 0}}, schedule: {use: cosine}}\n"
    )
    assert judge(text).recipe.stages["distil"].optimizer == Optimizer(
        "optimizer",
        "adamw",
        {"lr": 0.01},
        groups={"encoder.**": {"lr": 0.0001}, "head": {"weight_decay": 0.0}},
        schedule=Slot("optimizer.schedule", "cosine", {}),
    )


def test_a_schedule_may_be_turned_off(judge: Judge) -> None:
    text = BASE + "optimizer: {use: adamw, schedule: {use: cosine}}\n"
    assert judge(text, "optimizer.schedule=null").recipe.stages["distil"].optimizer.schedule is None

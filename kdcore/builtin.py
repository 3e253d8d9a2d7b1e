"""The core's own components, registered through the same hook as everyone else's."""

from __future__ import annotations

from kdcore.hookspecs import KDCORE_API as KDCORE_API
from kdcore.hookspecs import Add, hookimpl


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "classify", "kdcore.tasks.classify:Classify")

    add("data", "digits", "kdcore.data.digits:Digits")
    add("data", "arrays", "kdcore.data.arrays:Arrays")
    add("data", "mix", "kdcore.data.mix:Mix")

    add("transform", "torchvision", "kdcore.transforms.torchvision:Torchvision")

    add("model", "convnet", "kdcore.models.convnet:ConvNet")
    add("model", "mlp", "kdcore.models.mlp:MLP")
    add("model", "ensemble", "kdcore.teachers:ensemble")
    add("model", "ema", "kdcore.teachers:ema")
    add("model", "snapshot", "kdcore.teachers:snapshot")

    add("loss", "cross_entropy", "kdcore.losses.cross_entropy:CrossEntropy")
    add("loss", "kl", "kdcore.losses.kl:KL")
    add("loss", "divergence", "kdcore.losses.divergence:Divergence")
    add("loss", "mse", "kdcore.losses.regression:MSE")
    add("loss", "smooth_l1", "kdcore.losses.regression:SmoothL1")
    add("loss", "cosine", "kdcore.losses.cosine:Cosine")
    add("loss", "pkd", "kdcore.losses.pkd:Pearson")
    add("loss", "mgd", "kdcore.losses.mgd:MaskedGenerative")

    add("projector", "linear", "kdcore.projectors:linear")
    add("projector", "conv1x1", "kdcore.projectors:conv1x1")

    add("schedule", "constant", "kdcore.schedules:constant")
    add("schedule", "linear", "kdcore.schedules:linear")
    add("schedule", "cosine", "kdcore.schedules:cosine")
    add("schedule", "step", "kdcore.schedules:step")

    add("metric", "accuracy", "kdcore.metrics.accuracy:Accuracy")
    add("metric", "agreement", "kdcore.metrics.agreement:Agreement")
    add("metric", "divergence", "kdcore.metrics.divergence:Divergence")
    add("metric", "calibration", "kdcore.metrics.calibration:Calibration")

    add("optimizer", "adamw", "kdcore.optimizers:adamw")
    add("optimizer", "sgd", "kdcore.optimizers:sgd")

    add("callback", "gpu", "kdcore.callbacks.gpu:GPU")

    add("exporter", "safetensors", "kdcore.run.exporters:safetensors")
    add("exporter", "onnx", "kdcore.run.exporters:onnx")
    add("exporter", "torch", "kdcore.run.exporters:torch_export")

    add("logger", "wandb", "kdcore.run.loggers:wandb")

    add("weights", "file", "kdcore.weights.uris:from_file")
    add("weights", "run", "kdcore.weights.uris:from_run")
    add("weights", "hf", "kdcore.weights.uris:from_hub")

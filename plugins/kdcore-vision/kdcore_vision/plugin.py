"""Everything this plugin adds to kdcore. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import Problem, not_installed
from kdcore.hookspecs import Add, hookimpl

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe

KDCORE_API = 1

NEEDED = {"PIL": "pillow", "timm": "timm", "torchvision": "torchvision"}
"""Module -> distribution."""


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "classify", "kdcore_vision.task:ClassifyImages")

    add("data", "folders", "kdcore_vision.data.folders:Folders")
    add("data", "csv", "kdcore_vision.data.lists:Lists")
    add("data", "torchvision", "kdcore_vision.data.torchvision:Torchvision")
    add("data", "fashion_mnist", "kdcore_vision.data.fashion:FashionMNIST")

    add("model", "timm", "kdcore_vision.models.timm:timm")

    add("prepare", "mixup", "kdcore_vision.mixing:Mixup")
    add("prepare", "cutmix", "kdcore_vision.mixing:CutMix")

    add("loss", "deit", "kdcore_vision.losses.deit:HardLabels")
    add("loss", "ofa", "kdcore_vision.losses.ofa:ExitHeads")

    add("exporter", "onnx", "kdcore_vision.exporters:onnx")
    add("exporter", "onnx_int8", "kdcore_vision.int8:onnx_int8")


@hookimpl
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:
    from kdcore_vision.check import check_recipe

    return check_recipe(recipe)


@hookimpl
def kdcore_check_environment() -> list[Problem]:
    return not_installed(NEEDED)

"""Everything this plugin adds to kdcore. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import Problem, not_installed
from kdcore.hookspecs import Add, hookimpl

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe

KDCORE_API = 1

NEEDED = {
    "PIL": "pillow",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sklearn": "scikit-learn",
    "torchvision": "torchvision",
    "transformers": "transformers",
}
"""Module -> distribution."""


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "semantic", "kdcore_segmentation.task:Semantic")

    add("data", "digits", "kdcore_segmentation.data.digits:DigitScenes")
    add("data", "folders", "kdcore_segmentation.data.folders:Folders")
    add("data", "camvid", "kdcore_segmentation.data.camvid:CamVid")
    add("data", "cityscapes", "kdcore_segmentation.data.cityscapes:Cityscapes")

    add("model", "smp", "kdcore_segmentation.models.smp:smp")
    add("model", "segformer", "kdcore_segmentation.models.segformer:segformer")

    add("prepare", "labelled", "kdcore_segmentation.prepare:LabelledPixels")

    add("loss", "cwd", "kdcore_segmentation.losses.cwd:ChannelWise")
    add("loss", "skd", "kdcore_segmentation.losses.skd:PairWise")
    add("loss", "ifvd", "kdcore_segmentation.losses.ifvd:IntraClassVariation")
    add("loss", "cirkd", "kdcore_segmentation.losses.cirkd:CrossImage")
    add("loss", "cirkd_memory", "kdcore_segmentation.losses.cirkd:CrossImageMemory")
    add("loss", "pea", "kdcore_segmentation.losses.transkd:PatchEmbeddingAlignment")
    add("loss", "csf", "kdcore_segmentation.losses.transkd:CrossSelectiveFusion")
    add("loss", "collaboration_pixel", "kdcore_segmentation.losses.collaboration:SelectivePixels")
    add("loss", "collaboration_region", "kdcore_segmentation.losses.collaboration:SelectiveRegions")
    add("loss", "perceptual", "kdcore_segmentation.losses.perceptual:Perceptual")

    add("metric", "miou", "kdcore_segmentation.metrics:MeanIoU")
    add("metric", "iou", "kdcore_segmentation.metrics:IoU")
    add("metric", "pixel_accuracy", "kdcore_segmentation.metrics:PixelAccuracy")


@hookimpl
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:
    from kdcore_segmentation.check import check_recipe

    return check_recipe(recipe)


@hookimpl
def kdcore_check_environment() -> list[Problem]:
    return not_installed(NEEDED)

"""Everything this plugin adds to kdcore. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import Problem, not_installed
from kdcore.hookspecs import Add, hookimpl

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe

KDCORE_API = 1

NEEDED = {
    "faster_coco_eval": "faster-coco-eval",
    "PIL": "pillow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "yaml": "pyyaml",
}
"""Module -> distribution."""


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "boxes", "kdcore_detection.task:Boxes")

    add("data", "digits", "kdcore_detection.data.digits:DigitBoxes")
    add("data", "coco", "kdcore_detection.data.coco:Coco")
    add("data", "voc", "kdcore_detection.data.voc:PascalVoc")
    add("data", "yolo", "kdcore_detection.data.yolo:Yolo")
    add("data", "pictures", "kdcore_detection.data.pictures:Pictures")

    add("model", "fcos", "kdcore_detection.models.fcos:FCOS")
    add("model", "retinanet", "kdcore_detection.models.retinanet:RetinaNet")
    add("model", "gfl", "kdcore_detection.models.gfl:GFL")
    add("model", "faster_rcnn", "kdcore_detection.models.faster_rcnn:FasterRCNN")
    add("model", "detr", "kdcore_detection.models.detr:detr")
    add("model", "rt_detr", "kdcore_detection.models.rt_detr:rt_detr")
    add("model", "d_fine", "kdcore_detection.models.d_fine:d_fine")

    add("loss", "fcos", "kdcore_detection.losses.fcos:FCOSLoss")
    add("loss", "retinanet", "kdcore_detection.losses.retinanet:RetinaNetLoss")
    add("loss", "gfl", "kdcore_detection.losses.gfl:GFLLoss")
    add("loss", "faster_rcnn", "kdcore_detection.losses.faster_rcnn:FasterRCNNLoss")
    add("loss", "set", "kdcore_detection.losses.set:SetPrediction")
    add("loss", "fgd", "kdcore_detection.losses.fgd:FocalGlobal")
    add("loss", "acam", "kdcore_detection.losses.acam:AdaptiveMasking")
    add("loss", "sad", "kdcore_detection.losses.sad:SpatialAttention")
    add("loss", "sparsity", "kdcore_detection.losses.sad:Sparsity")
    add("loss", "ld", "kdcore_detection.losses.ld:LocalizationDistillation")
    add("loss", "bckd", "kdcore_detection.losses.bckd:BinaryClassification")
    add("loss", "crosskd", "kdcore_detection.losses.crosskd:CrossHeadClasses")
    add("loss", "crosskd_boxes", "kdcore_detection.losses.crosskd:CrossHeadBoxes")
    add("loss", "crosskd_distribution", "kdcore_detection.losses.crosskd:CrossHeadDistribution")
    add("loss", "detr_logits", "kdcore_detection.losses.detr_distill:HungarianLogits")
    add("loss", "detr_features", "kdcore_detection.losses.detr_distill:TargetAwareFeatures")
    add("loss", "detr_queries", "kdcore_detection.losses.detr_distill:QueryPrior")
    add("loss", "lpld", "kdcore_detection.losses.lpld:LPLD")

    add("metric", "ap", "kdcore_detection.metrics:AveragePrecision")


@hookimpl
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:
    from kdcore_detection.check import check_recipe

    return check_recipe(recipe)


@hookimpl
def kdcore_check_environment() -> list[Problem]:
    return not_installed(NEEDED)

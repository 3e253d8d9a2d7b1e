"""RT-DETR, second version, from the library transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import RTDetrV2ForObjectDetection

from kdcore_detection.models.sets import ChosenQueries, build

SMALL = {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "r18": (
        {**SMALL, "depths": [2, 2, 2, 2]},
        {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3},
    ),
    "r34": (
        {**SMALL, "depths": [3, 4, 6, 3]},
        {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 4},
    ),
    "r50": ({"depths": [3, 4, 6, 3]}, {}),
    "r101": (
        {"depths": [3, 4, 23, 3]},
        {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384] * 3},
    ),
}
"""The authors' sizes: fields of the backbone's configuration, and of the detector's."""


class RTDetr(ChosenQueries, RTDetrV2ForObjectDetection):  # type: ignore[no-untyped-call]
    """The library's net."""


def rt_detr(
    *,
    classes: int,
    channels: int = 3,
    size: Literal["r18", "r34", "r50", "r101"] = "r18",
    queries: int = 300,
    detections: int = 100,
    folder: Path | None = None,
    hub: str | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """RT-DETR v2 of transformers: `model.backbone`, `model.encoder`, `model.decoder`; sigmoid scores of each class.

    Random weights by default, with batch norms that learn; the image's sides are multiples of 32. From ``folder`` or
    ``hub`` come configuration, all weights that fit, and the ``mean`` and ``std`` of the image processor that lies
    beside them, if any. Only the class heads may be missing there, or have other classes, and are then fresh, which a
    warning says. There are no denoising queries.
    It cannot be exported as a graph: the library's own forward depends on values.

    Signals: `logits` (N, Q, C), `boxes` (N, Q, 4), `queries` (N, Q, E); `layer_logits` and `layer_boxes` (N, L, Q, .)
    of the encoder's selection and then of every decoder layer. The maps before the decoder, one a level, are the
    outputs of `model.decoder_input_proj.*`.

    Args:
        classes: number of classes; filled in from the task.
        channels: of the image; filled in from the data.
        size: the configuration, where neither ``folder`` nor ``hub`` gives it.
        queries: Q, where neither ``folder`` nor ``hub`` tells; no more than there are positions at strides 8, 16, 32.
        detections: D, how many an image has at most.
        folder: what ``save_pretrained`` wrote.
        hub: a name such as ``PekingU/rtdetr_v2_r18vd``, fetched when the model is made.
        options: further fields of transformers' ``RTDetrV2Config``, such as ``d_model``.

    Raises:
        ValueError: both ``folder`` and ``hub``; a field that the configuration does not have; weights that do not fit.

    **Paper**: Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, 2023 (arXiv 2304.08069); Lv et al.,
    RT-DETRv2, 2024 (arXiv 2407.17140).
    """
    body, rest = SIZES[size]
    backbone = {"model_type": "rt_detr_resnet", "num_channels": channels, "out_indices": [2, 3, 4], **body}
    fields = {"backbone_config": backbone, "num_queries": queries, "freeze_backbone_batch_norms": False, **rest}
    net: nn.Module = build(
        RTDetr,
        fields,
        classes=classes,
        channels=channels,
        heads=RTDetr.heads,
        detections=detections,
        folder=folder,
        hub=hub,
        options=options,
        always={"num_denoising": 0},  # such queries need the labels in the forward pass
    )
    return net

"""D-FINE from the library transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import DFineForObjectDetection

from kdcore_detection.models.sets import ChosenQueries, build


def _backbone(stem: tuple[int, int], out: int, blocks: tuple[int, ...], layers: int, *, affine: bool) -> dict[str, Any]:
    """HGNetv2, from the channels of its stem and of its first stage."""
    outputs = [out, 4 * out, 8 * out, 16 * out]
    return {
        "stem_channels": [3, *stem],
        "stage_in_channels": [stem[1], *outputs[:3]],
        "stage_mid_channels": [stem[1] * 2**i for i in range(4)],
        "stage_out_channels": outputs,
        "stage_num_blocks": list(blocks),
        "stage_numb_of_layers": [layers] * 4,
        "hidden_sizes": [2 * out, 4 * out, 8 * out, 16 * out],
        "use_learnable_affine_block": affine,
    }


B0 = _backbone((16, 16), 64, (1, 1, 2, 1), 3, affine=True)
B2 = _backbone((24, 32), 96, (1, 1, 3, 1), 4, affine=True)
B4 = _backbone((32, 48), 128, (1, 1, 3, 1), 6, affine=False)
B5 = _backbone((32, 64), 128, (1, 2, 5, 2), 6, affine=False)
POINTS = {"decoder_n_points": [3, 6, 3]}
NANO = {
    "encoder_in_channels": [512, 1024],
    "num_feature_levels": 2,
    "feat_strides": [16, 32],
    "encode_proj_layers": [1],
    "d_model": 128,
    "encoder_hidden_dim": 128,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "decoder_in_channels": [128, 128],
    "decoder_n_points": [6, 6],
    "decoder_layers": 3,
    "depth_mult": 0.5,
    "hidden_expansion": 0.34,
}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "n": ({**B0, "out_indices": [3, 4]}, NANO),
    "s": (
        B0,
        {
            **POINTS,
            "encoder_in_channels": [256, 512, 1024],
            "decoder_layers": 3,
            "depth_mult": 0.34,
            "hidden_expansion": 0.5,
        },
    ),
    "m": (B2, {**POINTS, "encoder_in_channels": [384, 768, 1536], "decoder_layers": 4, "depth_mult": 0.67}),
    "l": (B4, POINTS),
    "x": (
        B5,
        {**POINTS, "encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384] * 3},
    ),
}
"""The authors' sizes: fields of the backbone's configuration, and of the detector's."""


class DFine(ChosenQueries, DFineForObjectDetection):  # type: ignore[no-untyped-call]
    """The library's net."""

    def train(self, mode: bool = True) -> DFine:
        super().train(mode)
        # in eval mode the library's decoder answers with one layer; it asks this flag for nothing else
        self.model.decoder.training = True
        return self


def d_fine(
    *,
    classes: int,
    channels: int = 3,
    size: Literal["n", "s", "m", "l", "x"] = "n",
    queries: int = 300,
    detections: int = 100,
    folder: Path | None = None,
    hub: str | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """D-FINE of transformers: `model.backbone`, `model.encoder`, `model.decoder`; sigmoid scores of each class.

    Random weights by default, with batch norms that learn; the image's sides are multiples of 32. From ``folder`` or
    ``hub`` come configuration, all weights that fit, and the ``mean`` and ``std`` of the image processor that lies
    beside them, if any. Only the class heads may be missing there, or have other classes, and are then fresh, which a
    warning says. There are no denoising queries.
    It cannot be exported as a graph: the library's own forward depends on values.

    Signals: `logits` (N, Q, C), `boxes` (N, Q, 4), `queries` (N, Q, E); `layer_logits` and `layer_boxes` (N, L, Q, .)
    of the encoder's selection, of the first layer's plain box head, and then of every decoder layer. The maps before
    the decoder, one a level, are the outputs of `model.decoder_input_proj.*`.

    Args:
        classes: number of classes; filled in from the task.
        channels: of the image; filled in from the data.
        size: the configuration, where neither ``folder`` nor ``hub`` gives it.
        queries: Q, where neither ``folder`` nor ``hub`` tells; no more than there are positions at the net's strides.
        detections: D, how many an image has at most.
        folder: what ``save_pretrained`` wrote.
        hub: a name such as ``ustc-community/dfine-nano-coco``, fetched when the model is made.
        options: further fields of transformers' ``DFineConfig``, such as ``decoder_layers``.

    Raises:
        ValueError: both ``folder`` and ``hub``; a field that the configuration does not have; weights that do not fit.

    **Paper**: Peng et al., D-FINE: Redefine Regression Task in DETRs as Fine-grained Distribution Refinement, 2024
    (arXiv 2410.13842).
    """
    body, rest = SIZES[size]
    stem = [channels, *body["stem_channels"][1:]]
    backbone = {
        "model_type": "hgnet_v2",
        "out_indices": [2, 3, 4],
        **body,
        "num_channels": channels,
        "stem_channels": stem,
    }
    fields = {"backbone_config": backbone, "num_queries": queries, "freeze_backbone_batch_norms": False, **rest}
    net: nn.Module = build(
        DFine,
        fields,
        classes=classes,
        channels=channels,
        heads=DFine.heads,
        detections=detections,
        folder=folder,
        hub=hub,
        options=options,
        always={"num_denoising": 0},  # such queries need the labels in the forward pass
    )
    return net

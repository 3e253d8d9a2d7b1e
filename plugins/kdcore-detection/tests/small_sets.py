"""Set detectors of a few thousand weights, as the tests of models and losses take them."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdcore_detection.models.d_fine import d_fine
from kdcore_detection.models.detr import detr
from kdcore_detection.models.rt_detr import rt_detr

SMALL = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
DETR: dict[str, Any] = {
    **SMALL,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage4"],
    },
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
}
REAL_TIME: dict[str, Any] = {
    **SMALL,
    "encoder_in_channels": [8, 16, 16],
    "encoder_hidden_dim": 16,
    "d_model": 16,
    "decoder_in_channels": [16, 16, 16],
    "decoder_layers": 2,
}
RT_DETR: dict[str, Any] = {
    **REAL_TIME,
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_indices": [2, 3, 4],
    },
    "decoder_n_points": 2,
}
D_FINE: dict[str, Any] = {
    **REAL_TIME,
    "backbone_config": {
        "model_type": "hgnet_v2",
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 8, 8, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [8, 8, 16, 16],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "hidden_sizes": [8, 8, 16, 16],
        "out_indices": [2, 3, 4],
    },
    "num_feature_levels": 3,
    "feat_strides": [8, 16, 32],
    "encode_proj_layers": [2],
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "decoder_n_points": [2, 2, 2],
    "max_num_bins": 8,
    "lqe_hidden_dim": 8,
}


def small_detr(*, queries: int = 7, **keys: Any) -> nn.Module:
    options = {**DETR, **keys.pop("options", {})}
    return detr(**{"classes": 3, "queries": queries, **keys}, options=options)


def small_rt_detr(*, queries: int = 7, **keys: Any) -> nn.Module:
    options = {**RT_DETR, **keys.pop("options", {})}
    return rt_detr(**{"classes": 3, "queries": queries, **keys}, options=options)


def small_d_fine(*, queries: int = 7, **keys: Any) -> nn.Module:
    options = {**D_FINE, **keys.pop("options", {})}
    return d_fine(**{"classes": 3, "queries": queries, **keys}, options=options)

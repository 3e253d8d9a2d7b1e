"""DETR from the library transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from kdcore.signals import Signals
from torch import Tensor, nn
from transformers import DetrForObjectDetection
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from kdcore_detection.models.sets import SetDetector, build, told


class Detr(SetDetector, DetrForObjectDetection):  # type: ignore[no-untyped-call]
    """The library's net, whose parts keep their names: ``model.backbone``, ``model.encoder``, ``model.decoder``, ...

    Its own forward is not used: with every layer's outputs asked for, it hands normalised states to the next layer,
    and without them it hides all but the last.
    """

    def forward(self, image: Tensor) -> Signals:
        net = self.model
        everywhere = image.new_ones(image.shape[0], *image.shape[-2:])  # len() would fix the batch in an export
        features, _ = net.backbone(image, everywhere)[-1]
        projected = net.input_projection(features)
        encoded = net.encoder(
            inputs_embeds=_tokens(projected),
            attention_mask=None,
            spatial_position_embeddings=self._positions(projected),
        ).last_hidden_state
        memory = encoded.transpose(1, 2).unflatten(2, features.shape[-2:])  # (N, E, h, w)
        return {**self.decode(memory, self.query_positions(image.shape[0]), image), "memory": memory}

    def decode(self, memory: Tensor, positions: Tensor, image: Tensor) -> Signals:
        """The second half of :meth:`forward`, which can be run again with other queries.

        Args:
            memory: (N, E, h, w), what the encoder gave.
            positions: (N, Q, E), the embeddings of the queries.
            image: (N, C, H, W), for its size.
        """
        tokens, places = _tokens(memory), self._positions(memory)
        decoder = self.model.decoder
        state, states = torch.zeros_like(positions), []
        for layer in decoder.layers:
            state = layer(state, None, places, positions, tokens, encoder_attention_mask=None)
            states.append(decoder.layernorm(state))
        every = torch.stack(states, 1)  # (N, L, Q, E)
        return told(self.class_labels_classifier(every), self.bbox_predictor(every).sigmoid(), states[-1], image)

    def query_positions(self, n: int) -> Tensor:
        """The embeddings of the queries, which are the same for every image: (n, Q, E)."""
        weight: Tensor = self.model.query_position_embeddings.weight
        return weight.expand(n, -1, -1)

    def scores(self, logits: Tensor) -> Tensor:
        """Each query speaks for its best class only, and not for no-object, which is last."""
        p = logits.float().softmax(-1)[..., :-1]
        return p * (p == p.amax(-1, keepdim=True))

    def _positions(self, maps: Tensor) -> Tensor:
        found: Tensor = self.model.position_embedding(shape=maps.shape, device=maps.device, dtype=maps.dtype)
        return _tokens(found.expand(maps.shape[0], -1, -1, -1))


def _tokens(maps: Tensor) -> Tensor:
    """(N, E, h, w) -> (N, h * w, E)."""
    return maps.flatten(2).transpose(1, 2)


def detr(
    *,
    classes: int,
    channels: int = 3,
    backbone: str = "resnet50",
    queries: int = 100,
    detections: int = 100,
    folder: Path | None = None,
    hub: str | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """DETR of transformers: `model.backbone`, `model.encoder`, `model.decoder`; softmax with no-object as last class.

    Random weights by default, and then all of it learns and its batch norms are real ones: the library freezes them
    and the first stages of a ResNet, which suits pretrained ones only. From ``folder`` or ``hub`` come configuration,
    all weights that fit, and the ``mean`` and ``std`` of the image processor that lies beside them, if any. Only the
    class head may be missing there, or have other classes, and is then fresh, which a warning says.

    Signals: `logits` (N, Q, C + 1), `boxes` (N, Q, 4), `queries` (N, Q, E), of every decoder layer `layer_logits` and
    `layer_boxes` (N, L, Q, .), and `memory` (N, E, h, w), what the encoder makes of the image.

    Args:
        classes: number of classes; filled in from the task.
        channels: of the image; filled in from the data.
        backbone: any net of timm; its last map is used. Ignored where ``folder`` or ``hub`` or ``options`` tell one.
        queries: Q, where neither ``folder`` nor ``hub`` tells.
        detections: D, how many an image has at most.
        folder: what ``save_pretrained`` wrote.
        hub: a name such as ``facebook/detr-resnet-50``, fetched when the model is made.
        options: further fields of transformers' ``DetrConfig``, such as ``d_model`` or ``decoder_layers``.

    Raises:
        ValueError: both ``folder`` and ``hub``; a field that the configuration does not have; weights that do not fit.

    **Paper**: Carion et al., End-to-End Object Detection with Transformers, 2020 (arXiv 2005.12872).
    """
    timm = {"model_type": "timm_backbone", "backbone": backbone, "num_channels": channels, "features_only": True}
    body = {**timm, "use_pretrained_backbone": False, "out_indices": [-1]}
    net = build(
        Detr,
        {"backbone_config": body, "num_channels": channels, "num_queries": queries},
        classes=classes,
        channels=channels,
        heads=("class_labels_classifier.",),
        detections=detections,
        folder=folder,
        hub=hub,
        options=options,
        always={},
    )
    if folder is None and hub is None:
        _thaw(net.model.backbone)
        net.requires_grad_(True)
    model: nn.Module = net
    return model


def _thaw(module: nn.Module) -> None:
    """Batch norms that learn and keep statistics, in the place of frozen ones."""
    for name, child in module.named_children():
        if isinstance(child, DetrFrozenBatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(len(child.weight)))
        else:
            _thaw(child)

"""The encoder that wav2vec 2.0, HuBERT and WavLM share: convolutions over the waveform, then transformer blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from kdcore_speech.frames import Count, frame_mask
from kdcore_speech.models.wavlm import RelativeAttention

TINY_VARIANCE = 1e-7
"""Added to a waveform's variance, as in transformers: a silent one is divided by nearly nothing otherwise."""


class Waveform(nn.Module):
    """Waveforms as these nets take them: each of mean 0 and variance 1 if ``scaled``, as the net was trained so.

    Shape: (N, S), int64 (N,) -> the same, zeros behind a sample's end. Computed in float32.
    """

    def __init__(self, *, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled

    def frames(self, count: Count) -> Count:
        """As many as samples."""
        return count

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = frame_mask(audio_lengths, audio.shape[1])
        x = audio.float().masked_fill(~mask, 0.0)
        if self.scaled:
            length = audio_lengths.unsqueeze(1)
            x = (x - x.sum(1, keepdim=True) / length).masked_fill(~mask, 0.0)
            x = x * (x.square().sum(1, keepdim=True) / length + TINY_VARIANCE).rsqrt()
        return x, audio_lengths


class GroupNormConv(nn.Module):
    """The first convolution of a base model, whose norm is over time: over that of the sample, not over padding.

    transformers pads and takes the mean over everything, so that there an answer depends on who else is in the batch.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.conv, self.layer_norm, self.activation = layer.conv, layer.layer_norm, layer.activation

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, 1, S), bool (N, T) -> (N, D, T)."""
        x, inside = self.conv(x), mask.unsqueeze(1)
        wide = x.float()
        length = mask.sum(1).view(-1, 1, 1)
        wide = wide - wide.masked_fill(~inside, 0.0).sum(-1, keepdim=True) / length
        variance = wide.square().masked_fill(~inside, 0.0).sum(-1, keepdim=True) / length
        scale, shift = (one.float().unsqueeze(-1) for one in (self.layer_norm.weight, self.layer_norm.bias))
        wide = wide * (variance + self.layer_norm.eps).rsqrt() * scale + shift
        y: Tensor = self.activation(wide.to(x.dtype))
        return y


class Block(nn.Module):
    """A block of any of these nets, in one way: (N, T, D) -> (N, T, D).

    Args:
        layer: of transformers.
        relative: it is one of WavLM's, which take a bias of relative positions.
    """

    def __init__(self, layer: Any, *, relative: bool) -> None:
        super().__init__()
        if relative:
            layer.attention = RelativeAttention(layer.attention)
        self.layer = layer

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            y: Tensor = self.layer(x, attention_mask=mask[:, None, None])
        else:
            y = self.layer(x, attention_mask=mask, position_bias=bias)[0]
        return y


class SSLEncoder(nn.Module):
    """Waveforms to frames, from the parts of ``Wav2Vec2Model``, ``HubertModel`` or ``WavLMModel``.

    Its own forward, not the library's: nothing waits for the device, padding changes nothing in eval mode, no layer is
    dropped and nothing is masked at random (SpecAugment is a view of the data here).

    Parts: ``convs.0`` ..., ``projection``, ``position``, ``norm``, ``blocks.0`` ... (each (N, T, width)).

    Args:
        net: the model of transformers; its parts are taken over.

    Raises:
        ValueError: it has an adapter, which makes other frames.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        config = net.config
        if getattr(config, "add_adapter", False):
            raise ValueError("add_adapter: an adapter behind the blocks is not supported, set it to false")
        layers, encoder = list(net.feature_extractor.conv_layers), net.encoder
        if config.feat_extract_norm == "group":
            layers[0] = GroupNormConv(layers[0])
        relative = config.model_type == "wavlm"
        self.width = int(config.hidden_size)
        self.shapes = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.normalises_last = bool(config.do_stable_layer_norm)
        self.convs = nn.ModuleList(layers)
        self.projection = net.feature_projection
        self.position, self.norm, self.dropout = encoder.pos_conv_embed, encoder.layer_norm, encoder.dropout
        self.blocks = nn.ModuleList(Block(layer, relative=relative) for layer in encoder.layers)

    @property
    def reach(self) -> int:
        """Samples that make one frame; a shorter clip is filled up with silence."""
        samples = 1
        for kernel, stride in reversed(self.shapes):
            samples = (samples - 1) * stride + kernel
        return samples

    def frames(self, count: Count) -> Count:
        """How many frames so many samples become: only those that see no padding, and one at least."""
        return self._frames(count, len(self.shapes))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.frames(audio_lengths)
        x = self._convolved(audio, audio_lengths)
        mask = frame_mask(frames, x.shape[1])
        projected = self.projection(x)
        # wav2vec 2.0 and WavLM give what they projected as well
        x = projected if isinstance(projected, Tensor) else projected[0]
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        x = x + self.position(x)
        x = self.dropout(x if self.normalises_last else self.norm(x))
        first: Any = self.blocks[0]
        attention = first.layer.attention
        bias = attention.bias(x.shape[1]) if isinstance(attention, RelativeAttention) else None
        for block in self.blocks:
            x = block(x, mask, bias)
        return (self.norm(x) if self.normalises_last else x), frames

    def _convolved(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """(N, S) -> (N, T, D)."""
        first: Any = self.convs[0]
        x = audio.to(first.conv.weight.dtype).unsqueeze(1)
        if x.shape[-1] < self.reach:
            x = pad(x, (0, self.reach - x.shape[-1]))
        if isinstance(first, GroupNormConv):
            kernel, stride = self.shapes[0]
            size = (x.shape[-1] - kernel) // stride + 1
            x = first(x, frame_mask(self._frames(audio_lengths, 1), size))
        else:
            x = first(x)
        for conv in self.convs[1:]:
            x = conv(x)
        convolved: Tensor = x.transpose(1, 2)
        return convolved

    def _frames(self, count: Count, depth: int) -> Count:
        """After so many of the convolutions."""
        count = count.clamp(min=self.reach) if isinstance(count, Tensor) else max(count, self.reach)
        for kernel, stride in self.shapes[:depth]:
            count = (count - kernel) // stride + 1
        return count

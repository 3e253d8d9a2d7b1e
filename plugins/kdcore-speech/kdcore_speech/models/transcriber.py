"""What a net for sequence-to-sequence recognition does: hears, is told what was said, or writes it down itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from kdcore.signals import IGNORE
from torch import Tensor, nn
from torch.nn.functional import pad

from kdcore_speech.features import LogMel
from kdcore_speech.frames import Count, ceil_div, frame_mask

STRIDE = 2
"""Features that become one frame of the encoder."""


class Transcribed(NamedTuple):
    """What a sequence-to-sequence net returns.

    Attributes:
        logits: (N, U, V), of each token after the true ones before it.
        frames: int64 (N,), how many frames of the encoder count: for losses that read a tap of it.
        heard: int64 (N, L), the transcript as the net writes it down, -100 behind its end.
    """

    logits: Tensor
    frames: Tensor
    heard: Tensor


class Transcriber(nn.Module):
    """Whisper, from waveforms: features of a fixed time, silence behind a clip's end, as it was trained.

    Its parts are ``front`` (features), ``encoder``, ``decoder`` and ``head`` (tied to ``decoder.embed_tokens``). Taps
    of the encoder and the decoder as wholes end with ``/last_hidden_state``, each (N, T, D).

    Args:
        front: features of 10 ms.
        net: ``WhisperForConditionalGeneration``; its parts are taken over.
        prompt: the tokens that come before every transcript.
        end: the token that ends one.
        limit: tokens at most that are written down.

    Raises:
        ValueError: a limit below 1, or beyond what the decoder can hold.
    """

    start: Tensor

    def __init__(self, front: LogMel, net: Any, *, prompt: tuple[int, ...], end: int, limit: int) -> None:
        super().__init__()
        self.front = front
        self.encoder, self.decoder, self.head = net.model.encoder, net.model.decoder, net.proj_out
        self.prompt, self.end, self.limit = prompt, end, limit
        # on the device: a step must not wait for a copy
        self.register_buffer("start", torch.tensor([prompt]), persistent=False)
        if not 1 <= limit <= self.longest:
            raise ValueError(f"limit={limit}: give from 1 to {self.longest}, which is what the decoder can hold")

    @property
    def longest(self) -> int:
        """Tokens of a transcript that the decoder can hold."""
        return int(self.decoder.max_target_positions) - len(self.prompt)

    @property
    def samples(self) -> int:
        """How many it hears."""
        return int(self.encoder.config.max_source_positions) * STRIDE * self.front.hop

    def hear(self, frames: int) -> None:
        """Hear only so many frames at once.

        Raises:
            ValueError: there are not so many.
        """
        places = self.encoder.embed_positions
        if not 1 <= frames <= places.num_embeddings:
            raise ValueError(f"seconds: {frames} frames are wanted, and this net has 1 to {places.num_embeddings}")
        kept = nn.Embedding(frames, places.embedding_dim).requires_grad_(False)
        kept.weight.data.copy_(places.weight[:frames])
        self.encoder.embed_positions = kept
        self.encoder.max_source_positions = self.encoder.config.max_source_positions = frames

    def frames(self, samples: Count) -> Count:
        """How many frames of the encoder so many samples are."""
        return ceil_div(self.front.frames(samples), STRIDE)

    def check_length(self, samples: int) -> None:
        """
        Raises:
            ValueError: so many samples are more than it hears.
        """
        if samples > self.samples:
            rate = self.front.hop * 100
            raise ValueError(
                f"clips of up to {samples / rate:.1f} s, and this net hears {self.samples / rate:.1f} s: set "
                f"`data.max_duration: {self.samples / rate:.1f}`"
            )

    def forward(self, audio: Tensor, audio_lengths: Tensor, labels: Tensor, *, listen: bool = False) -> Transcribed:
        """
        Args:
            audio: (N, S).
            audio_lengths: int64 (N,).
            labels: int64 (N, U), what was said and ``end``, -100 behind it.
            listen: write down what is heard, token after token. Otherwise ``heard`` is the likeliest token after the
                true ones before it, which costs nothing.

        Raises:
            ValueError: clips or transcripts are longer than the net can hold.
        """
        if labels.shape[1] > self.longest:
            raise ValueError(
                f"a transcript of {labels.shape[1]} tokens, its end included, is longer than the {self.longest} that "
                "the decoder can hold: leave such clips out (`data.max_duration`)"
            )
        hidden = self._heard(audio, audio_lengths)
        logits = self._told(hidden, labels)
        heard = self._written(hidden) if listen else self._cut(logits.argmax(-1)).masked_fill(labels == IGNORE, IGNORE)
        return Transcribed(logits, self.frames(audio_lengths), heard)

    def transcribe(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """What it hears, written greedily: int64 (N, L), -100 behind its end; L is at most ``limit``."""
        hidden = self._heard(audio, audio_lengths)
        return self._written_again(hidden) if torch.compiler.is_exporting() else self._written(hidden)

    def _heard(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """(N, S) -> (N, T, D), T always the same: what is behind a clip's end is silence to it."""
        self.check_length(audio.shape[1])
        clip = audio.masked_fill(~frame_mask(audio_lengths, audio.shape[1]), 0.0)
        whole = pad(clip, (0, self.samples - clip.shape[1]))
        features, _ = self.front(whole, torch.full((audio.shape[0],), self.samples, device=audio.device))
        kind = self.encoder.conv1.weight.dtype
        hidden: Tensor = self.encoder(features.transpose(1, 2).to(kind)).last_hidden_state
        return hidden

    def _told(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(N, U, V): the decoder reads the prompt and the labels but the last."""
        before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, self.end)
        logits: Tensor = self.head(self._read(hidden, torch.cat([self._prompts(labels.shape[0]), before], 1)))
        return logits[:, len(self.prompt) - 1 :]

    def _read(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """What the decoder makes of tokens (N, U), each seeing those before it: (N, U, D)."""
        size = tokens.shape[1]
        # given whole: the library would look at positions to see whether it needs a mask, and wait for the device
        past = torch.ones(size, size, dtype=torch.bool, device=tokens.device).tril()[None, None]
        found = self.decoder(input_ids=tokens, attention_mask=past, encoder_hidden_states=hidden, use_cache=False)
        states: Tensor = found.last_hidden_state
        return states

    @torch.no_grad()
    def _written(self, hidden: Tensor) -> Tensor:
        """The likeliest token, one after the other, until all have ended or at the limit."""
        tokens, past, written = self._prompts(hidden.shape[0]), None, []
        ended = torch.zeros(hidden.shape[0], dtype=torch.bool, device=hidden.device)
        for _ in range(self.limit):
            found = self.decoder(input_ids=tokens, encoder_hidden_states=hidden, past_key_values=past, use_cache=True)
            best, past = self.head(found.last_hidden_state[:, -1]).argmax(-1), found.past_key_values
            ended = ended | (best == self.end)
            written.append(best.masked_fill(ended, IGNORE))
            tokens = best.unsqueeze(1)
            if bool(ended.all()):
                break
        return torch.stack(written, 1)

    def _written_again(self, hidden: Tensor) -> Tensor:
        """The same for an exported net, whose loop must be one operator: it always writes ``limit`` tokens, and reads
        all of them again for each, as a cache would grow."""
        from torch._higher_order_ops.scan import scan

        first = len(self.prompt)
        empty = torch.full((hidden.shape[0], self.limit), self.end, device=hidden.device)
        places = torch.arange(first + self.limit, device=hidden.device)

        def write(tokens: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
            states = self._read(hidden, tokens).masked_fill((places != place - 1)[:, None], 0.0).sum(1)
            best = self.head(states).argmax(-1)
            return torch.where(places == place, best[:, None], tokens), best

        tokens, _ = scan(write, torch.cat([self._prompts(hidden.shape[0]), empty], 1), places[first:])
        return self._cut(tokens[:, first:])

    def _prompts(self, n: int) -> Tensor:
        return self.start.expand(n, -1)

    def _cut(self, best: Tensor) -> Tensor:
        """-100 from the first ``end`` on."""
        return best.masked_fill((best == self.end).cumsum(1) > 0, IGNORE)

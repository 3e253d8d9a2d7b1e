"""A causal language model as this plugin runs it: hidden states and logits of packed or cached tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """What a causal language model says about (N, T) tokens.

    Attributes:
        hidden: (N, T, D), the final normed hidden state, which the head reads.
        logits: (N, T, V) = ``hidden @ head.T``, or ``None`` where they were not wanted.
        layers: hidden states (N, T, D) after the decoder layers that were asked for, by the index asked with.
        past: the keys and values so far, where a cache was wanted.
    """

    hidden: Tensor
    logits: Tensor | None
    layers: dict[int, Tensor]
    past: Any | None


class CausalLM(nn.Module):
    """Wraps a causal language model of transformers, whose own forward gives logits only.

    Args:
        lm: any ``AutoModelForCausalLM`` whose logits are the last hidden state times its head.

    Raises:
        ValueError: its logits are something else (a bias, a cap, a scale), which the chunked losses cannot compute.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm
        self._stack = _path_of_layers(lm)
        _check_head(self)

    @property
    def embedding(self) -> nn.Embedding:
        found: nn.Embedding = self.lm.get_input_embeddings()
        return found

    @property
    def head(self) -> Tensor:
        """(V, D), no copy."""
        found: Tensor = self.lm.get_output_embeddings().weight
        return found

    @property
    def vocabulary(self) -> int:
        """How many tokens the head tells apart."""
        return len(self.head)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        found: nn.ModuleList = self.lm.get_submodule(self._stack)
        return found

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def context(self) -> int | None:
        """The longest sequence its positions allow, where its config says so."""
        found: int | None = getattr(self.lm.config, "max_position_embeddings", None)
        return found

    def forward(
        self,
        input_ids: Tensor,
        *,
        segment: Tensor | None = None,
        positions: Tensor | None = None,
        past: Any | None = None,
        use_cache: bool = False,
        logits: bool = True,
        layers: tuple[int, ...] = (),
    ) -> Output:
        """Run (N, T) tokens.

        Args:
            input_ids: int64 (N, T).
            segment: int64 (N, T), the document of each token in a packed row: positions restart with each document,
                and none sees another.
            positions: int64 (N, T); given by ``segment`` or counted on from ``past`` where omitted.
            past: what an earlier call with ``use_cache`` returned; transformers' own cache.
            use_cache: return ``past``.
            logits: compute them; (N, T, V) may be large.
            layers: decoder layers whose output is wanted, from 0; negative ones count from the end, and the number of
                layers itself gives ``hidden``.
        """
        if positions is None and segment is not None:
            positions = restarting_positions(segment)
        with _Recorded(self.layers, tuple(layer for layer in layers if layer != self.depth)) as recorded:
            found = self.lm.base_model(
                input_ids=input_ids, position_ids=positions, past_key_values=past, use_cache=use_cache
            )
        hidden: Tensor = found.last_hidden_state
        if self.depth in layers:
            recorded.found[self.depth] = hidden
        return Output(
            hidden,
            self.lm.get_output_embeddings()(hidden) if logits else None,
            recorded.found,
            found.past_key_values if use_cache else None,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CausalLM:
        """Moved or cast as asked, but the rotary frequencies stay in float32: rounded, they misplace distant tokens."""
        exact = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if name.endswith("inv_freq") and buffer is not None
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module, name, buffer in exact:
            moved = module._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(moved.device)
        return self


def restarting_positions(segment: Tensor) -> Tensor:
    """Positions (N, T) that restart at 0 with each document; transformers builds the mask of packed rows from them."""
    at = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    starts = torch.ones_like(segment, dtype=torch.bool)
    starts[:, 1:] = segment[:, 1:] != segment[:, :-1]
    return at - torch.where(starts, at, 0).cummax(1).values


class _Recorded:
    """Keeps the outputs of some decoder layers while it is entered."""

    def __init__(self, stack: nn.ModuleList, layers: tuple[int, ...]) -> None:
        self.stack, self.layers = stack, layers
        self.found: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorded:
        stack = self.stack
        for layer in self.layers:
            if not -len(stack) <= layer < len(stack):
                raise ValueError(
                    f"layer {layer} is wanted, and the model has {len(stack)}: give 0 to {len(stack) - 1}, "
                    "or count from the end with -1, -2, ..."
                )
        # after all of them were checked, so that no hook stays behind
        self._handles = [stack[layer].register_forward_hook(self._keep(layer)) for layer in self.layers]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.found[layer] = output[0] if isinstance(output, tuple) else output

        return hook


def _path_of_layers(lm: Any) -> str:
    """Where the decoder layers are: the outermost list of as many modules as the configuration names layers."""
    wanted = getattr(lm.config, "num_hidden_layers", None)
    lists = [
        (name, (len(module) == wanted, len(module)))
        for name, module in lm.named_modules()
        if isinstance(module, nn.ModuleList)
    ]
    if not lists:
        raise ValueError(f"{type(lm).__name__} has no list of decoder layers: give a transformer that has one")
    return str(max(lists, key=lambda found: found[1])[0])


def _check_head(model: CausalLM) -> None:
    """One token through the net, so that a cap or a scale in any architecture's own forward is found."""
    head = model.lm.get_output_embeddings()
    name = type(model.lm).__name__
    if head is None:
        raise ValueError(f"{name} has no output head: give a causal language model")
    was_training = model.lm.training
    with torch.no_grad():
        token = torch.zeros(1, 1, dtype=torch.int64, device=head.weight.device)
        said = model.lm.eval()(input_ids=token, use_cache=False).logits.float()
        ours = (model(token).hidden @ head.weight.T).float()
    model.lm.train(was_training)
    if not torch.allclose(said, ours, rtol=1e-2, atol=1e-2 * float(said.abs().max())):
        raise ValueError(
            f"the logits of {name} are not its last hidden state times its head (a bias, a cap or a scale comes on "
            "top), and losses that compute them in chunks would train on others: choose another model"
        )

"""What nets say about nodes: from features alone, or of every node of a graph, once where neither changes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdcore.task import normalise

if TYPE_CHECKING:
    from kdcore.signals import Batch, Signals
    from kdcore_graph.graph import GraphView

CHUNKED_EDGES = 5_000_000
"""Edges beyond which a net is run layer by layer, in pieces of ``CHUNK`` nodes: the same in less memory."""
CHUNK = 65536


class _Parts:
    """What has to be looked at in every step, found once: walking through a net takes as long as a small step."""

    def __init__(self, model: nn.Module) -> None:
        # not the modules themselves: one of them is the net, which would never be forgotten
        self._hooks = tuple(module._forward_hooks for module in model.modules())
        self._parameters = tuple(model.parameters())
        self._tensors = (*self._parameters, *model.buffers())

    @property
    def is_frozen(self) -> bool:
        """No gradient is wanted of any parameter, and no tap's hook has to see the net run."""
        return not any(p.requires_grad for p in self._parameters) and not any(self._hooks)

    @property
    def version(self) -> tuple[int, ...]:
        """Changes when a weight does."""
        return tuple(tensor._version for tensor in self._tensors)


class FrozenOutputs:
    """Keeps the outputs of frozen nets for the graph they were last asked about; any other net is run each time."""

    def __init__(self) -> None:
        self._parts: WeakKeyDictionary[nn.Module, _Parts] = WeakKeyDictionary()
        self._kept: WeakKeyDictionary[nn.Module, tuple[object, Signals]] = WeakKeyDictionary()
        self._picked: WeakKeyDictionary[nn.Module, tuple[Signals, Tensor, Signals]] = WeakKeyDictionary()

    def rows(self, model: nn.Module, view: GraphView, nodes: Tensor, *, unseen: bool) -> Signals:
        """Signals of some nodes; see :meth:`of`. The same tensor of nodes as before, as a full batch has it, costs
        nothing."""
        everything = self.of(model, view, nodes.device, unseen=unseen)
        kept = self._picked.get(model)
        if kept is None or kept[0] is not everything or kept[1] is not nodes:
            shared = getattr(model, "shared", ())
            picked = {
                name: value if name in shared else value.index_select(0, nodes) for name, value in everything.items()
            }
            kept = self._picked[model] = everything, nodes, picked
        return dict(kept[2])

    def of(self, model: nn.Module, view: GraphView, device: torch.device, *, unseen: bool) -> Signals:
        """Signals of all nodes.

        Args:
            model: in eval mode.
            view: the graph.
            device: where the net is.
            unseen: whether unseen nodes are asked about: these are predicted on the whole graph, all others on the
                graph without them.
        """
        parts = self._parts.get(model)
        if parts is None:
            parts = self._parts[model] = _Parts(model)
        if torch.is_grad_enabled() or not parts.is_frozen:
            return _run(model, view, device, unseen=unseen)
        key = (id(view), device, unseen, parts.version)
        kept = self._kept.get(model)
        if kept is None or kept[0] != key:
            kept = self._kept[model] = key, _run(model, view, device, unseen=unseen)
        return kept[1]


def from_features(model: nn.Module, batch: Batch, features: Tensor) -> Signals:
    """What a net that takes no graph says about nodes with these features, in the place of the batch's own."""
    inputs = [normalise(model, features)]
    if getattr(model, "positions", 0) and "positions" in batch:
        inputs.append(batch["positions"])
    found = model(*inputs)
    return dict(found) if isinstance(found, dict) else {"logits": found}


def _run(model: nn.Module, view: GraphView, device: torch.device, *, unseen: bool) -> Signals:
    here = view.on(device)
    signals = _signals(model, here.features, here.edges)
    if here.noisy is not None:
        signals["noisy"] = _signals(model, here.noisy, here.edges)["logits"]
    if not unseen or here.all_edges is None or here.unseen is None:
        return signals
    whole = _signals(model, here.features, here.all_edges)
    if here.noisy is not None:
        whole["noisy"] = _signals(model, here.noisy, here.all_edges)["logits"]
    shared = getattr(model, "shared", ())
    return {
        name: value if name in shared else torch.where(here.unseen.unsqueeze(1), whole[name], value)
        for name, value in signals.items()
    }


def _signals(model: nn.Module, features: Tensor, edges: Tensor) -> Signals:
    chunk = CHUNK if edges.shape[1] > CHUNKED_EDGES else None
    found = model(normalise(model, features), edges=edges, chunk=chunk)
    return dict(found)

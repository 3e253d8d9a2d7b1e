"""An EAGLE-3 draft as a folder in the speculators format, which vLLM serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore_specdec.models.eagle import Eagle3

VERSION = "0.9.0"
"""Of the speculators package, whose format this is."""

_LAYER = (
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    *(f"{name}.weight" for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")),
)
TENSORS = frozenset(
    {"embed_tokens.weight", "fc.weight", *(f"layers.0.{name}" for name in _LAYER), "norm.weight", "lm_head.weight"}
)
"""The names that the format asks for."""
MAPS = frozenset({"d2t", "t2d"})
"""And those of a draft that has fewer tokens than its target."""


def speculators(module: nn.Module, example: tuple[Tensor, ...], folder: Path) -> list[Path]:
    """``config.json`` and ``model.safetensors``, read back and compared with the draft.

    The draft's slot says in ``verifier`` what the target is called where it is served; without it the config names
    none, which vLLM does not need where it is told both.

    Raises:
        RunError: the model is no EAGLE-3 draft, it counts the target's layers from the end, or it holds other tensors
            than the format has.
    """
    from safetensors.torch import save_file

    draft = getattr(module, "model", module)
    if not isinstance(draft, Eagle3):
        raise RunError(
            f"the speculators format is written for `specdec.eagle3` drafts, and this is a {type(draft).__name__}: "
            "`--format safetensors` writes any model, `--format specdec.transformers` an ordinary draft"
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in draft.state_dict().items()}
    check_names(state)
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "config.json", folder / "model.safetensors"
    config.write_text(json.dumps(config_of(draft), indent=2) + "\n", encoding="utf-8")
    save_file(state, weights, metadata={"format": "pt"})
    _compare(draft, read(folder), example[0].cpu())
    return [config, weights]


def check_names(state: dict[str, Tensor]) -> None:
    """Hold a draft's tensors against the format's.

    Raises:
        RunError: some are missing, or some are left over.
    """
    wanted = TENSORS | MAPS if MAPS & state.keys() else TENSORS
    for names, said in ((wanted - state.keys(), "lacks"), (state.keys() - wanted, "has no place for")):
        if names:
            raise RunError(f"the speculators format {said} {', '.join(sorted(names))}: the draft is another one")


def config_of(draft: Eagle3) -> dict[str, Any]:
    """What ``config.json`` says.

    Raises:
        RunError: the draft counts its target's layers from the end.
    """
    if min(draft.target_layers) < 0:
        raise RunError(
            f"the draft reads the layers {', '.join(map(str, draft.target_layers))} of its target, and the speculators "
            "format counts from the first: write `task.layers` so"
        )
    attention: Any = draft.layers[0].self_attn
    methods = {"proposal_type": "greedy", "speculative_tokens": draft.steps, "verifier_accept_k": 1}
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": VERSION,
        "torch_dtype": str(draft.fc.weight.dtype).removeprefix("torch."),
        "draft_vocab_size": draft.size,
        "target_hidden_size": draft.width,
        "norm_before_residual": False,
        # in the format a number says how many layers were passed, here which layer was the last
        "eagle_aux_hidden_state_layer_ids": [layer + 1 for layer in draft.target_layers],
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{**methods, "accept_tolerance": 0.0}],
            "verifier": {"name_or_path": draft.verifier, "architectures": []},
        },
        "transformer_layer_config": {
            "model_type": "llama",
            "vocab_size": draft.vocabulary,
            "hidden_size": draft.width,
            "intermediate_size": draft.layers[0].mlp.up_proj.out_features,  # type: ignore[union-attr]
            "num_hidden_layers": 1,
            "num_attention_heads": attention.q_proj.out_features // attention.head_dim,
            "num_key_value_heads": attention.k_proj.out_features // attention.head_dim,
            "head_dim": attention.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rms_norm_eps": draft.norm.eps,
            "rope_theta": attention.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope_theta},
            "max_position_embeddings": draft.context,
            "tie_word_embeddings": False,
        },
    }


def read(folder: Path) -> Eagle3:
    """The draft in a folder, in eval mode.

    Raises:
        RunError: it holds another algorithm, another wiring, or other tensors than the format has.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    algorithm = config.get("speculators_model_type")
    if algorithm != "eagle3" or config.get("norm_before_residual"):
        raise RunError(
            f"{folder / 'config.json'}: speculators_model_type is {algorithm!r} and norm_before_residual "
            f"{config.get('norm_before_residual')!r}; read are 'eagle3' drafts that normalise behind the residual"
        )
    state = load_file(folder / "model.safetensors")
    check_names(state)
    layer, size = config["transformer_layer_config"], config["draft_vocab_size"]
    reduced = size != layer["vocab_size"]
    draft = Eagle3(
        vocabulary=layer["vocab_size"],
        target_layers=[index - 1 for index in config["eagle_aux_hidden_state_layer_ids"]],
        width=layer["hidden_size"],
        heads=layer["num_attention_heads"],
        kv_heads=layer["num_key_value_heads"],
        hidden=layer["intermediate_size"],
        steps=config["speculators_config"]["proposal_methods"][0]["speculative_tokens"],
        draft_vocabulary=size,
        token_counts=state["t2d"].int().tolist() if reduced else None,
        verifier=config["speculators_config"]["verifier"]["name_or_path"],
        rope_theta=layer["rope_theta"],
        rms_norm_eps=layer["rms_norm_eps"],
        context=layer["max_position_embeddings"],
    )
    draft.to(getattr(torch, config["torch_dtype"])).load_state_dict(state)
    return draft.eval()


@torch.no_grad()
def _compare(draft: Eagle3, again: Eagle3, input_ids: Tensor) -> None:
    """On features drawn at random, as the target is not here.

    Raises:
        RunError: they do not answer alike.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (*input_ids.shape, draft.width)
    target = {f"layer.{i}": torch.randn(shape, generator=generator) for i in draft.target_layers}
    batch = {"input_ids": input_ids}
    was_training, device = draft.training, draft.fc.weight.device
    ours = draft.cpu().eval()(batch, target)["logits"]
    draft.to(device).train(was_training)
    if not torch.equal(ours, again(batch, target)["logits"]):
        raise RunError("the draft answers otherwise when it is read back: what was written is not what it is")

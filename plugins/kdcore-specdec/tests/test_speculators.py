from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made import llama
from safetensors.torch import load_file, save_file
from torch import nn

from drafts import LAYERS, VOCABULARY, WIDTH, batch, draft, signals
from kdcore.errors import RunError
from kdcore_specdec.losses.eagle import Eagle3 as Loss
from kdcore_specdec.models.eagle import Eagle3
from kdcore_specdec.models.fspad import FSPAD
from kdcore_specdec.speculators import MAPS, TENSORS, read, speculators

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)
COUNTS = [(7 * i) % VOCABULARY for i in range(VOCABULARY)]


def ready(**keywords: Any) -> Eagle3:
    net: Eagle3 = draft(Eagle3, **keywords)
    net(batch(), signals(TARGET, batch()))
    return net.eval()


def write(net: nn.Module, folder: Path) -> list[Path]:
    return speculators(net, (batch()["input_ids"],), folder)


@pytest.mark.parametrize("kept", [None, 8])
def test_what_is_read_back_is_the_draft(tmp_path: Path, kept: int | None) -> None:
    net = ready(draft_vocabulary=kept, token_counts=COUNTS, rope_theta=500.0, rms_norm_eps=1e-5, context=99)
    files = write(net, tmp_path / "new")
    assert [file.name for file in files] == ["config.json", "model.safetensors"]
    again, made = read(tmp_path / "new"), batch()
    assert torch.equal(again(made, signals(TARGET, made))["logits"], net(made, signals(TARGET, made))["logits"])
    assert (again.target_layers, again.steps, again.context, again.size) == ((0, 1, 2), 3, 99, kept or VOCABULARY)


def test_the_weights_have_the_names_and_shapes_of_the_format(tmp_path: Path) -> None:
    write(ready(draft_vocabulary=8, token_counts=COUNTS), tmp_path)
    found = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert found == {
        "d2t": (8,),
        "t2d": (VOCABULARY,),
        "embed_tokens.weight": (VOCABULARY, WIDTH),
        "fc.weight": (WIDTH, 3 * WIDTH),
        "layers.0.input_layernorm.weight": (WIDTH,),
        "layers.0.hidden_norm.weight": (WIDTH,),
        "layers.0.post_attention_layernorm.weight": (WIDTH,),
        "layers.0.self_attn.q_proj.weight": (WIDTH, 2 * WIDTH),
        "layers.0.self_attn.k_proj.weight": (WIDTH // 2, 2 * WIDTH),
        "layers.0.self_attn.v_proj.weight": (WIDTH // 2, 2 * WIDTH),
        "layers.0.self_attn.o_proj.weight": (WIDTH, WIDTH),
        "layers.0.mlp.gate_proj.weight": (48, WIDTH),
        "layers.0.mlp.up_proj.weight": (48, WIDTH),
        "layers.0.mlp.down_proj.weight": (WIDTH, 48),
        "norm.weight": (WIDTH,),
        "lm_head.weight": (8, WIDTH),
    }


def test_a_whole_vocabulary_has_no_maps(tmp_path: Path) -> None:
    write(ready(), tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == TENSORS


def test_the_config_says_all_that_a_server_asks(tmp_path: Path) -> None:
    write(ready(draft_vocabulary=8, token_counts=COUNTS, verifier="me/target"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["speculators_model_type"] == "eagle3"
    assert config["speculators_config"]["algorithm"] == "eagle3"
    assert config["speculators_config"]["verifier"] == {"name_or_path": "me/target", "architectures": []}
    assert config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 3
    assert config["speculators_config"]["default_proposal_method"] == "greedy"
    assert config["eagle_aux_hidden_state_layer_ids"] == [1, 2, 3]  # after so many layers
    assert config["norm_before_residual"] is False
    assert (config["draft_vocab_size"], config["transformer_layer_config"]["vocab_size"]) == (8, VOCABULARY)


def test_the_deployed_draft_is_what_is_exported(tmp_path: Path) -> None:
    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ready()

    write(Deployed(), tmp_path)
    assert read(tmp_path).size == VOCABULARY


def test_half_precision_stays_so(tmp_path: Path) -> None:
    write(ready().to(torch.bfloat16), tmp_path)
    assert read(tmp_path).fc.weight.dtype == torch.bfloat16


def test_other_drafts_are_refused(tmp_path: Path) -> None:
    said = "the speculators format is written for `specdec.eagle3` drafts, and this is a FSPAD: `--format safetensors`"
    with pytest.raises(RunError, match=said):
        write(draft(FSPAD), tmp_path)


def test_layers_counted_from_the_end_are_refused(tmp_path: Path) -> None:
    said = "the draft reads the layers 0, -1 of its target, and the speculators format counts from the first: write "
    with pytest.raises(RunError, match=said):
        write(draft(Eagle3, target_layers=[0, -1]), tmp_path)


def test_tensors_that_the_format_does_not_know_are_refused(tmp_path: Path) -> None:
    net = ready()
    net.register_buffer("extra", torch.zeros(1))
    with pytest.raises(RunError, match="the speculators format has no place for extra: the draft is another one"):
        write(net, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("missing", ["norm.weight", "t2d"])
def test_a_folder_that_lacks_tensors_is_refused(tmp_path: Path, missing: str) -> None:
    write(ready(draft_vocabulary=8, token_counts=COUNTS), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[missing]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=f"the speculators format lacks {missing}: the draft is another one"):
        read(tmp_path)


@pytest.mark.parametrize("change", [{"speculators_model_type": "mtp"}, {"norm_before_residual": True}])
def test_a_folder_of_another_wiring_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write(ready(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=r"config.json: speculators_model_type is .* read are 'eagle3' drafts that norm"):
        read(tmp_path)


def test_a_draft_that_reads_back_differently_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = ready()
    monkeypatch.setattr("kdcore_specdec.speculators.read", lambda folder: ready(seed=9))
    with pytest.raises(RunError, match="the draft answers otherwise when it is read back: what was written is not"):
        write(net, tmp_path)


def test_the_draft_is_left_in_its_mode(tmp_path: Path) -> None:
    net = ready().train()
    write(net, tmp_path)
    assert net.training


def test_the_names_are_complete() -> None:
    assert len(TENSORS) == 14
    assert {"d2t", "t2d"} == MAPS


@pytest.mark.parametrize("kept", [None, 8])
def test_the_speculators_package_opens_it_and_says_the_same(tmp_path: Path, kept: int | None) -> None:
    """Its weights, its guesses at every step of the training-time test, and the loss that it would train with."""
    package = pytest.importorskip("speculators")
    from speculators.losses import resolve_loss_config
    from speculators.models.attention import create_float_mask

    TARGET.lm.save_pretrained(tmp_path / "target")
    net = ready(draft_vocabulary=kept, token_counts=COUNTS, verifier=str(tmp_path / "target"), steps=3)
    write(net, tmp_path / "draft")
    opened = package.SpeculatorModel.from_pretrained(tmp_path / "draft").eval()
    opened.config.transformer_layer_config._attn_implementation = opened._attn_impl = "eager"  # its default needs a GPU
    opened._create_mask_fn = lambda *args, **how: create_float_mask(*args, **how, dtype=torch.float32)
    for name, tensor in net.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name

    made = batch(n=1)
    given = signals(TARGET, made)
    with torch.no_grad():
        last = TARGET(made["input_ids"], layers=(2,)).layers[2]  # it applies the final norm itself
        guesses, loss, _ = opened(
            torch.cat([given[f"layer.{i}"] for i in LAYERS], -1)[:, :-1],
            made["input_ids"][:, 1:],  # its sequences hold the token after each hidden state
            torch.zeros(1, 9, dtype=torch.int64),
            loss_mask=made["labels"][:, 1:] != -100,
            verifier_last_hidden_states=last[:, 1:],
            ttt_steps=3,
            ttt_step_loss_decay=0.8,
            loss_config=resolve_loss_config("kl_div", "eager"),
        )
        found = net.train()(made, given)
        totals = Loss()(found, given, made)
    for step in range(3):
        ours = net.lm_head(found["unrolled"][:, step]).argmax(-1)[:, 1 : 10 - step]
        assert torch.equal(guesses[step][:, : 9 - step], ours)
    assert sum(total.sum / total.count for total in totals.values()).item() == pytest.approx(loss.item(), rel=1e-4)

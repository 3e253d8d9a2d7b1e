from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BASE, Lab
from files import model_folder

from kdcore import cli
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore_specdec import plugin

FOLDER = Path(plugin.__file__).parent / "recipes"
EMBEDDED = FOLDER / "specdec.yaml"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without data are laid over the embedded one."""
    monkeypatch.setenv("KDCORE_DATA", "data")
    monkeypatch.setenv("SMOLLM2", "smollm2")
    plugins = Plugins()
    alone = "data" in yaml.safe_load(path.read_text())
    recipe = read([path] if alone else [EMBEDDED, path], [], plugins)
    assert recipe.name == (path.stem if alone else "specdec")
    assert plugins.check_recipe(recipe) == []


def fitted(lab: Lab, *words: str, text: str = BASE) -> dict[str, Any]:
    runs = lab.folder / "runs"
    assert cli.run(["fit", str(lab.write(text)), "--runs", str(runs), *words]) == 0
    report = max(runs.glob("*/*/report.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_from_text_to_a_report(lab: Lab) -> None:
    report = fitted(
        lab, "models.alone=${models.draft}", "stages.alone={train: alone, losses: {ce: {use: specdec.cross_entropy}}}"
    )
    assert report["primary"] == {"name": "expected_acceptance", "mode": "max"}
    models = report["models"]
    assert set(models) == {"target", "draft", "alone"}
    # against itself; the draft alone against the target as well, not against the data
    assert models["target"]["metrics"]["expected_acceptance"]["test"] == pytest.approx(1.0)
    assert models["alone"]["metrics"]["expected_acceptance"]["test"] > 0.2
    assert report["comparisons"]["draft"]["gain"] is not None


@pytest.mark.slow
def test_without_logits_nothing_changes(lab: Lab) -> None:
    values = [
        fitted(lab, f"task.logits={logits}", f"name=lab-{logits}")["models"]["draft"]["metrics"]["expected_acceptance"][
            "test"
        ]
        for logits in ("true", "false")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


ON_POLICY = (
    "stages.distil.task={use: specdec.on_policy, draft: draft, target: target, of_draft: 0.5, of_target: 0.5, "
    "new_tokens: 4}"
)


def test_on_policy_and_core_losses(lab: Lab) -> None:
    report = fitted(
        lab,
        ON_POLICY,
        "data.packed=false",
        "losses.kd={use: kl}",
        "metrics={agreement: {use: agreement}}",
        "name=on-policy",
    )
    assert 0 <= report["models"]["draft"]["metrics"]["agreement"]["test"] <= 1


@pytest.mark.slow
def test_on_policy_goes_on_bit_for_bit(lab: Lab) -> None:
    def weights(name: str, *interrupted: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        runs = lab.folder / name
        path = lab.write(BASE.replace("max_steps: 2, val_check_interval: 2", "max_steps: 4, val_check_interval: 2"))
        overrides = [ON_POLICY, "data.packed=false", "name=same"]
        for stage in (*interrupted, ""):
            assert cli.run(["fit", str(path), "--runs", str(runs), *overrides, *stage.split()]) == 0
        (found,) = runs.glob("*/*/distil/draft.safetensors")
        return load_file(found)

    whole, again = weights("whole"), weights("parts", "--stage teach")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_table_of_what_the_target_says(lab: Lab) -> None:
    text = BASE.replace(
        "  distil: {",
        "  say: {do: {use: specdec.regenerate, model: target, new_tokens: 4}}\n  distil: {data: {table: say}, ",
    )
    fitted(lab, "data.packed=false", text=text)
    (place,) = lab.folder.glob("runs/*/*/say/table.safetensors")
    from safetensors.torch import load_file

    table = load_file(place)
    assert set(table) == {"id", "input_ids", "labels", "segment"}
    assert int((table["labels"] != -100).sum(1).max()) == 4


@pytest.mark.slow
def test_a_frozen_target_can_be_cached(lab: Lab) -> None:
    kd = "losses.kd={use: specdec.divergence, teacher_signal: logits}"
    values = [
        fitted(lab, kd, f"name={name}", *more)["models"]["draft"]["metrics"]["expected_acceptance"]["test"]
        for name, *more in (("run",), ("cached", "cache={of: target, dtype: float32}"))
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_a_draft_starts_with_parts_of_its_target(lab: Lab) -> None:
    model = model_folder(lab.folder / "model", vocabulary=8, words="the quick brown fox", layers=3)
    text = f"""\
kdcore: 1
name: lab
task: {{use: specdec.causal_lm}}
data: {{use: specdec.text, path: corpus, tokenizer: {model}, length: 24, batch_size: 4, validation: 0.2}}
models:
  target: {{use: specdec.pretrained, pretrained: {model}}}
  draft: {{use: specdec.from_config, config: {model}, options: {{num_hidden_layers: 1}}}}
stages:
  distil:
    train: draft
    teachers: [target]
    init:
      draft:
        from: target
        map:
          lm.model.embed_tokens: lm.model.embed_tokens
          lm.lm_head: lm.lm_head
          lm.model.layers.0: lm.model.layers.2
losses: {{kd: {{use: specdec.divergence}}}}
trainer: {{max_steps: 2}}
logger: null
"""
    assert lab.problems(text=text) == []
    built = lab.stage("distil", text=text)
    target, draft = (built.cast.module(name).lm for name in ("target", "draft"))
    assert torch.equal(draft.model.embed_tokens.weight, target.model.embed_tokens.weight)
    assert torch.equal(draft.lm_head.weight, target.lm_head.weight)
    assert torch.equal(draft.model.layers[0].mlp.up_proj.weight, target.model.layers[2].mlp.up_proj.weight)
    built.close()

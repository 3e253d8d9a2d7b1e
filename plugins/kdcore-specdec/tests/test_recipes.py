from __future__ import annotations

import pytest
import torch
from conftest import BASE, Lab
from files import model_folder
from safetensors.torch import load_file

from kdcore.testing.runner import Run, Runner


def accepted(run: Run) -> float:
    found: float = run.report["models"]["draft"]["metrics"]["expected_acceptance"]["test"]
    return found


def test_from_text_to_a_report(lab: Lab, runner: Runner) -> None:
    alone = "stages.alone={train: alone, losses: {ce: {use: specdec.cross_entropy}}}"
    report = runner.fit(BASE, "models.alone=${models.draft}", alone).report
    assert report["primary"] == {"name": "expected_acceptance", "mode": "max"}
    models = report["models"]
    assert set(models) == {"target", "draft", "alone"}
    # against itself; the draft alone against the target as well, not against the data
    assert models["target"]["metrics"]["expected_acceptance"]["test"] == pytest.approx(1.0)
    assert models["alone"]["metrics"]["expected_acceptance"]["test"] > 0.2
    assert report["comparisons"]["draft"]["gain"] is not None


@pytest.mark.slow
def test_without_logits_nothing_changes(lab: Lab, runner: Runner) -> None:
    values = [accepted(runner.fit(BASE, f"task.logits={logits}", f"name={logits}")) for logits in ("true", "false")]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


ON_POLICY = (
    "stages.distil.task={use: specdec.on_policy, draft: draft, target: target, of_draft: 0.5, of_target: 0.5, "
    "new_tokens: 4}"
)


def test_on_policy_and_core_losses(lab: Lab, runner: Runner) -> None:
    more = ("data.packed=false", "losses.kd={use: kl}", "metrics={agreement: {use: agreement}}")
    report = runner.fit(BASE, ON_POLICY, *more).report
    assert 0 <= report["models"]["draft"]["metrics"]["agreement"]["test"] <= 1


@pytest.mark.slow
def test_on_policy_goes_on_bit_for_bit(lab: Lab, runner: Runner) -> None:
    path = lab.write(BASE.replace("max_steps: 2", "max_steps: 4"))

    def weights(name: str, *first: str) -> dict[str, torch.Tensor]:
        words, place = (ON_POLICY, "data.packed=false", "name=same"), runner.folder / name
        for stage in (*first, ""):
            assert runner.kdcore("fit", path, *words, "--runs", place, *stage.split()).code == 0
        (found,) = place.glob("*/*/distil/draft.safetensors")
        return load_file(found)

    whole, again = weights("whole"), weights("parts", "--stage teach")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_table_of_what_the_target_says(lab: Lab, runner: Runner) -> None:
    text = BASE.replace(
        "  distil: {",
        "  say: {do: {use: specdec.regenerate, model: target, new_tokens: 4}}\n  distil: {data: {table: say}, ",
    )
    table = load_file(runner.fit(text, "data.packed=false").folder / "say" / "table.safetensors")
    assert set(table) == {"id", "input_ids", "labels", "segment"}
    assert int((table["labels"] != -100).sum(1).max()) == 4


@pytest.mark.slow
def test_a_frozen_target_can_be_cached(lab: Lab, runner: Runner) -> None:
    kd = "losses.kd={use: specdec.divergence, teacher_signal: logits}"
    given = (("name=run",), ("name=cached", "cache={of: target, dtype: float32}"))
    values = [accepted(runner.fit(BASE, kd, *words)) for words in given]
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

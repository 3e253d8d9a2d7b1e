"""Feature-level drafts from a recipe to a report, an export and a decoded text."""

from __future__ import annotations

from conftest import BASE, Lab

from kdcore.testing import Runner
from kdcore_specdec.speculators import read

DRAFTS = """\
  eagle3: {use: specdec.eagle3, width: 16, heads: 2, steps: 2}
  fspad: {use: specdec.fspad, width: 16, heads: 2}
  falcon: {use: specdec.falcon, width: 16, heads: 2}
  medusa: {use: specdec.medusa, width: 16, heads: 2}
  hydra: {use: specdec.medusa, width: 16, heads: 2}
"""
STAGES = """\
  eagle3: {train: eagle3, teachers: [target], losses: {unrolled: {use: specdec.eagle3}}}
  fspad: {train: fspad, teachers: [target], losses: {aligned: {use: specdec.fspad}}}
  falcon: {train: falcon, teachers: [target], losses: {glancing: {use: specdec.falcon}}}
  medusa: {train: medusa, teachers: [target], losses: {heads: {use: specdec.medusa}}}
  hydra: {train: hydra, teachers: [target], losses: {heads: {use: specdec.eagle3}, all: {use: specdec.divergence}}}
"""
TEXT = (
    BASE.replace("stages:\n", DRAFTS + "stages:\n")
    .replace("losses: {kd", STAGES + "losses: {kd")
    .replace("{use: specdec.causal_lm}", "{use: specdec.causal_lm, layers: [0, 1, 2]}")
)


def test_all_kinds_are_trained_and_scored_against_the_target(lab: Lab, runner: Runner) -> None:
    run = runner.fit(TEXT)
    for name in ("eagle3", "fspad", "falcon", "medusa", "hydra"):
        assert 0.0 < run.report["models"][name]["metrics"]["expected_acceptance"]["test"] < 1.0
        assert run.report["models"][name]["latency_ms"] > 0

    where, exported = (run.folder, "--runs", runner.runs), runner.folder / "export"
    assert runner.kdcore("validate", *where).code == 0
    words = ("--model", "eagle3", "--format", "specdec.speculators", "--to", exported)
    result = runner.kdcore("export", *where, *words)
    assert result.code == 0, result.err
    draft = read(exported / "eagle3")
    assert draft.target_layers == (0, 1, 2)
    assert draft.embed_tokens.weight.any()

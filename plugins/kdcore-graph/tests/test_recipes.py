from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Lab
from safetensors.torch import load_file

from kdcore.testing import Runner

EVERYTHING = """\
kdcore: 1
name: everything
task: {use: graph.nodes}
data: {use: graph.nodes, source: {use: graph.digits}, setting: production, positions: 8}
models:
  teacher: {use: graph.vq_gnn, width: 16, codes: 12}
  student: {use: graph.mlp, width: 8, use_positions: true}
stages:
  teach: {train: teacher, data: {steps: 20}, losses: {ce: {use: cross_entropy}, codes: {use: graph.vq_tokenizer}}}
  distil: {train: student, teachers: [teacher], prepare: {attack: {use: graph.adversarial}}}
losses:
  kd: {use: kl}
  attacked: {use: kl, student: student@adversarial}
  similar: {use: graph.representational_similarity}
  frequencies: {use: graph.ff_g2m}
  reliable: {use: graph.krd}
  codes: {use: graph.vqgraph}
optimizer: {use: graph.adam}
trainer: {max_epochs: 1}
logger: null
"""

LINKS = """\
kdcore: 1
name: links
task: {use: graph.links}
data: {use: graph.links, source: {use: graph.digits}, near: 2, far: 3, negatives: 100}
models:
  teacher: {use: graph.link_gnn, width: 16}
  student: {use: graph.link_mlp, width: 8}
stages:
  teach: {train: teacher, data: {steps: 30}, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses:
  ce: {use: cross_entropy}
  rank: {use: graph.llp_rank}
  distribution: {use: graph.llp_distribution}
metrics: {hits: {use: graph.hits}, mrr: {use: graph.mrr}, ap: {use: graph.average_precision}}
optimizer: {use: graph.adam}
trainer: {max_epochs: 1}
logger: null
"""


def test_every_distiller_runs_and_passes_the_probe(runner: Runner) -> None:
    assert set(runner.fit(EVERYTHING).report["models"]) == {"teacher", "student"}


def test_links_run_and_the_student_is_shipped(runner: Runner) -> None:
    run = runner.fit(LINKS)
    metrics = run.report["models"]["student"]["metrics"]
    assert set(metrics) == {"hits", "mrr", "ap"}
    assert 0 <= metrics["hits"]["test"] <= 1
    out = runner.folder / "out"
    result = runner.kdcore("export", run.folder, "--runs", runner.runs, "--format", "torch", "--to", out)
    assert result.code == 0, result.err
    shipped = torch.export.load(out / "student" / "model.pt2").module()
    found = shipped(torch.rand(3, 64), torch.rand(3, 64))
    assert found.shape == (3,)
    assert ((found > 0) & (found < 1)).all()


def test_small_batches_with_sampled_neighbours_run(runner: Runner) -> None:
    text = EVERYTHING.replace("positions: 8}", "positions: 8, batch_size: 256, fanout: [4, 4]}")
    runner.fit(text, "~stages.distil.prepare", "~losses.attacked")


@pytest.mark.parametrize("text", [EVERYTHING, LINKS])
def test_on_a_bare_batch_every_loss_has_a_gradient_at_the_student_alone(runner: Runner, text: str) -> None:
    # an untrained teacher has no order of its own that would be further apart than a margin
    assert runner.probe(text, *(["losses.rank.margin=0"] if text == LINKS else [])) == []


def test_a_graphs_teacher_stays_out_of_the_stages_weights(lab: Lab) -> None:
    built = lab.stage("distil", text=EVERYTHING)
    assert not any("teacher" in name for name in built.distiller.state_dict())
    built.close()


def test_a_run_that_stops_between_stages_goes_on_bit_for_bit(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    path.write_text(LINKS.replace("max_epochs: 1", "max_epochs: 3"), encoding="utf-8")

    def weights(name: str) -> dict[str, torch.Tensor]:
        return load_file(runner.fit(path, f"name={name}").folder / "distil" / "student.safetensors")

    assert runner.kdcore("fit", path, "name=again", "--stage", "teach", "--runs", runner.runs).code == 0
    whole, again = weights("whole"), weights("again")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

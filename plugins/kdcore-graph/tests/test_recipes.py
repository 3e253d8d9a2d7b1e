from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import Lab

from kdcore import cli
from kdcore.assemble import assemble
from kdcore.plugins import Plugins
from kdcore.probe import check_losses
from kdcore.recipe.check import read
from kdcore_graph import plugin

RECIPES = sorted((Path(plugin.__file__).parent / "recipes").glob("*.yaml"))

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
trainer: {max_epochs: 1, enable_progress_bar: false}
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
trainer: {max_epochs: 1, enable_progress_bar: false}
logger: null
"""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_DATA", "data")
    plugins = Plugins()
    recipe = read([path], [], plugins)
    assert recipe.name == path.stem
    assert plugins.check_recipe(recipe) == []


def fitted(lab: Lab, text: str, *words: str) -> dict[str, object]:
    runs = lab.folder / "runs"
    assert cli.run(["fit", str(lab.write(text)), "--runs", str(runs), *words]) == 0
    (report,) = runs.glob("*/*/report.json")
    found: dict[str, object] = json.loads(report.read_text())
    return found


def test_every_distiller_runs_and_passes_the_probe(lab: Lab) -> None:
    report = fitted(lab, EVERYTHING)
    assert set(report["models"]) == {"teacher", "student"}  # type: ignore[call-overload]


def test_links_run_and_pass_the_probe(lab: Lab) -> None:
    report = fitted(lab, LINKS)
    metrics = report["models"]["student"]["metrics"]  # type: ignore[index]
    assert set(metrics) == {"hits", "mrr", "ap"}
    assert 0 <= metrics["hits"]["test"] <= 1


def test_small_batches_with_sampled_neighbours_run(lab: Lab) -> None:
    text = EVERYTHING.replace("positions: 8}", "positions: 8, batch_size: 256, fanout: [4, 4]}")
    fitted(lab, text, "~stages.distil.prepare", "~losses.attacked")


@pytest.mark.parametrize("text", [EVERYTHING, LINKS])
def test_on_a_bare_batch_every_loss_has_a_gradient_at_the_student_alone(lab: Lab, text: str) -> None:
    builder = lab.builder(text=text)
    built = assemble(builder, builder.recipe.stages["distil"])
    if text == LINKS:  # an untrained teacher has no order of its own
        teacher = built.cast.module("teacher")
        with torch.no_grad():
            teacher.decoder[2].weight.mul_(500)
    built.data.data.trainer = None
    batch = next(iter(built.data.data.train_dataloader()))
    assert check_losses(built.cast, built.losses, batch, built.distiller.prepared) == []
    built.close()


def test_a_graphs_teacher_stays_out_of_the_stages_weights(lab: Lab) -> None:
    built = lab.stage("distil", text=EVERYTHING)
    assert not any("teacher" in name for name in built.distiller.state_dict())
    built.close()


def test_a_run_that_stops_between_stages_goes_on_bit_for_bit(lab: Lab) -> None:
    def weights(*words: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        runs = lab.folder / f"runs{len(words)}"
        path = lab.write(LINKS.replace("max_epochs: 1", "max_epochs: 3").replace("name: links", "name: again"))
        for limit in words or ("",):
            cli.run(["fit", str(path), "--runs", str(runs), *limit.split()])
        (found,) = runs.glob("*/*/distil/student.safetensors")
        return load_file(found)

    whole, again = weights(), weights("--stage teach", "")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

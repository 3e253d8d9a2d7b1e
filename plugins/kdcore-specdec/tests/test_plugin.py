from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from files import jsonl, model_folder

from kdcore.plugins import Plugins
from kdcore.testing import check_plugin, registered
from kdcore_specdec import plugin

OVER = {f"specdec.{name}": ["specdec"] for name in ("adaspec", "distillspec", "eagle3", "falcon", "fspad", "medusa")}
SMALL = (
    "data.megabytes=0.1",
    "data.validation=0.2",
    "data.test=0.2",
    "data.length=72",  # `distillspec` goes on after 64 tokens
    "data.batch_size=64",
    "models.target.layers=9",  # of which `eagle3` reads the ninth
    "models.target.width=12",
    "models.draft.width=12",
    "trainer.val_check_interval=2",
    "trainer.limit_val_batches=1",
)
FIT = {
    **dict.fromkeys(("specdec", "specdec.adaspec", "specdec.distillspec"), SMALL),
    **{f"specdec.{name}": (*SMALL, f"models.{name}.width=12") for name in ("eagle3", "falcon", "fspad", "medusa")},
    "specdec.smollm2": ("data.length=16", "data.batch_size=2", "data.validation=0.2", "models.draft.width=16",
                        "trainer.val_check_interval=2"),
}  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the recipe for SmolLM2 reads, small: a model, and questions with answers."""
    model = model_folder(tmp_path / "model", context=512)
    (tmp_path / "text").mkdir()
    for split in ("train", "test"):
        samples = ({"question": f"a b {split} {number}", "answer": "c d"} for number in range(20))
        jsonl(tmp_path / "text" / f"gsm8k_{split}.jsonl", *samples)
    return {"KDCORE_DATA": str(tmp_path), "SMOLLM2": str(model)}


def test_it_keeps_what_a_plugin_promises(environment: dict[str, str]) -> None:
    check_plugin("specdec", over=OVER, environment=environment)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FIT)
def test_each_recipe_runs_two_steps(recipe: str, environment: dict[str, str]) -> None:
    check_plugin("specdec", over=OVER, fit={recipe: FIT[recipe]}, environment=environment, only=["fit"])


def test_no_recipe_is_forgotten() -> None:
    assert set(FIT) == {name for name in Plugins().shipped_recipes() if name.partition(".")[0] == "specdec"}


def test_everything_it_adds() -> None:
    kinds = ("task", "data", "action", "model", "metric", "exporter", "command")
    assert {kind: sorted(registered("specdec", kind)) for kind in kinds} == {
        "task": ["causal_lm", "on_policy"],
        "data": ["jsonl", "stdlib", "text"],
        "action": ["regenerate"],
        "model": ["eagle3", "falcon", "from_config", "fspad", "hub", "llama", "medusa", "pretrained"],
        "metric": ["expected_acceptance"],
        "exporter": ["speculators", "transformers"],
        "command": ["draft_bench"],
    }


def test_missing_transformers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin.kdcore_check_environment() == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else find_spec(name))
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "transformers is not installed, which every model here needs"
    assert problem.hint == "pip install transformers"

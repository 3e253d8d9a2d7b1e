"""The verb: from a restored run to lines, a file and an exit code."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from made import llama, noisy

from kdcore.data.arrays import Columns
from kdcore.errors import RecipeError
from kdcore_specdec.commands import draft_bench as module
from kdcore_specdec.commands import lines
from kdcore_specdec.commands.draft_bench import draft_bench
from kdcore_specdec.data.corpus import Corpus


class Text(Corpus):
    """Four rows of 20 tokens."""

    def __init__(self):
        self.tokenizer = SimpleNamespace(end=39, decode=lambda ids: "".join(map(chr, ids)))
        self.batch_size, self.seed, self.workers, self.trainer = 2, 0, 0, None
        ids = torch.randint(38, (4, 20), generator=torch.Generator().manual_seed(0))
        labels = ids.roll(-1, 1)
        labels[:, -1] = -100
        self.columns = Columns({"input_ids": ids, "labels": labels, "id": torch.arange(4)})

    def split(self, name):
        return self.columns if name == "val" else None

    @property
    def treatment(self):
        return SimpleNamespace(stage=None, is_random=False, variants=1)


class Facade:
    def __init__(self, folder, models, teachers=("target",)):
        self.said: list[str] = []
        self.words = ("recipe.yaml",)
        stage = SimpleNamespace(name="distil", teachers=teachers, train=("draft",))
        cast = SimpleNamespace(frozen=models, module=models.__getitem__)
        self._restored = SimpleNamespace(stage=stage, cast=cast, data=Text(), folder=folder)

    def restored(self):
        return self._restored

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def facade(tmp_path):
    target = llama(layers=1)
    return Facade(tmp_path, {"target": target, "draft": noisy(target), "alone": llama(layers=1, seed=5)})


SHORT = {"tokens": 5, "prompt": 4, "prompts": 2, "rounds": 2, "draws": 10}


def test_by_default_what_the_last_stage_trained_drafts_for_its_teacher(facade, tmp_path):
    assert draft_bench(facade, **SHORT) == 0
    found = json.loads((tmp_path / "draft-bench.json").read_text())
    assert found["target"] == "target"
    assert found["prompts"] == [4, 4]
    assert (found["tokens"], found["rounds"], found["dtype"], found["device"]) == (5, 2, "float32", "cpu")
    assert found["threads"] == torch.get_num_threads()
    assert "WITHOUT" in found["definitions"]["mean_accepted_length"]
    assert [result["temperature"] for result in found["results"]] == [0.0, 1.0]
    assert [one["draft"] for result in found["results"] for one in result["drafts"]] == ["draft", "draft"]
    said = "\n".join(facade.said)
    assert "WITHOUT the one token that the target adds itself" in said
    assert "output unchanged: identical tokens for 2 of 2 prompts" in said
    assert "output not tested: 10 draws are too few" in said
    assert found["results"][1]["drafts"][0]["unchanged"] is None
    assert facade.said[-1] == f"written to {tmp_path / 'draft-bench.json'}"


def test_several_drafts_and_lengths(facade, tmp_path):
    place = tmp_path / "deep" / "result.json"
    assert draft_bench(facade, draft=["alone", "draft"], k=[1, 3], temperature=[0.0], to=place, **SHORT) == 0
    drafts = json.loads(place.read_text())["results"][0]["drafts"]
    assert [(one["draft"], one["k"]) for one in drafts] == [("alone", 1), ("alone", 3), ("draft", 1), ("draft", 3)]


def test_a_changed_output_is_exit_code_1(facade, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kdcore_specdec.decoding.decode.verify", lambda proposal, logits, sampler: (0, logits[0].argmin(-1))
    )
    assert draft_bench(facade, temperature=[0.0], **SHORT) == 1
    assert any("OUTPUT CHANGED: the output is not the target's: prompt 0" in line for line in facade.said)


def test_models_that_are_not_there(facade):
    with pytest.raises(RecipeError, match=r"`drafts` is no model of the recipe\n    did you mean `draft`\?"):
        draft_bench(facade, draft=["drafts"])
    with pytest.raises(RecipeError, match="`big` is no model of the recipe"):
        draft_bench(facade, target="big")


def test_a_stage_without_a_teacher(tmp_path):
    facade = Facade(tmp_path, {"target": llama(layers=1), "draft": llama(layers=1)}, teachers=())
    with pytest.raises(RecipeError, match="stage `distil` has no teacher to decode\n    name it: `--target MODEL`"):
        draft_bench(facade)
    assert draft_bench(facade, target="target", temperature=[0.0], **SHORT) == 0


def test_numbers_that_leave_nothing_to_measure(facade):
    with pytest.raises(RecipeError) as error:
        draft_bench(facade, k=[4, 0], rounds=0, temperature=[-1.0], baseline="http://x/v1")
    assert str(error.value).split("\n") == [
        "--k 0: give 1 or more",
        "--rounds 0: give 1 or more",
        "--temperature -1: give 0 or more",
        "--baseline is what an `--endpoint` is compared with, and there is none",
    ]


def test_what_cannot_be_decoded(facade):
    facade.restored().cast.frozen["odd"] = torch.nn.Linear(1, 1)
    with pytest.raises(RecipeError, match="`odd` is a Linear, which cannot be decoded by itself: name another"):
        draft_bench(facade, target="odd")
    facade.restored().cast.frozen["small"] = llama(layers=1, vocabulary=12)
    with pytest.raises(RecipeError, match="the draft tells 12 tokens apart and the target 40"):
        draft_bench(facade, draft=["small"], prompt=4, tokens=5)
    facade.restored().data = SimpleNamespace()
    with pytest.raises(RecipeError, match="prompts are the beginnings of texts, and the data is a SimpleNamespace"):
        draft_bench(facade)


def test_servers(facade, tmp_path, monkeypatch):
    class Server:
        def __init__(self, endpoint):
            self.endpoint, self.served, self.asked = endpoint, "tiny", []

        def complete(self, prompt, tokens, temperature):
            self.asked.append(prompt)
            return f"{prompt}!", tokens

    made = []

    def connect(url, served, key, timeout):
        made.append((url, served, key, timeout))
        return Server(url)

    monkeypatch.setattr("kdcore_specdec.decoding.endpoint.connect", connect)
    options = {**SHORT, "temperature": [0.0], "endpoint": "http://a/v1", "baseline": "http://b/v1", "key": "k"}
    assert draft_bench(facade, **options) == 0
    assert made == [("http://a/v1", None, "k", 120.0), ("http://b/v1", None, "k", 120.0)]
    found = json.loads((tmp_path / "draft-bench.json").read_text())
    assert found["results"][0]["same_text"] == "2 of 2 prompts"
    assert facade.said[0] == "temperature 0"
    assert facade.said[1].startswith("    http://a/v1 (tiny): ")
    assert facade.said[4] == "    same text for 2 of 2 prompts"


def test_lines():
    result = {
        "temperature": 0.0,
        "autoregressive": {"tokens_per_second": [10.0, 12.0, 11.0]},
        "drafts": [
            {
                "draft": "draft", "k": 2, "tokens_per_second": [20.0, 22.0, 24.0],
                "speedup": {"median": 2.0, "min": 1.5, "max": 2.5}, "acceptance": [0.5, 0.25],
                "mean_accepted_length": 0.625, "tokens_per_round": 1.625, "unchanged": True, "evidence": "so it is",
            }
        ],
    }  # fmt: skip
    assert lines.of_models(result) == [
        "temperature 0  autoregressive: 11.0 tokens/s (10.0 to 12.0 over 3 rounds)",
        "    draft, k = 2: 22.0 tokens/s (20.0 to 24.0 over 3 rounds), 2.00x as fast (1.50 to 2.50)",
        "        acceptance 0.50 0.25; mean accepted length 0.62 without the bonus token, "
        "1.62 tokens per round with it",
        "        output unchanged: so it is",
    ]


def test_every_option_has_a_help_text():
    from kdcore.commands import _ENTRY
    from kdcore.registry import Component

    component = Component("command", "specdec.draft_bench", f"{module.__name__}:draft_bench", "specdec")
    described = dict(_ENTRY.findall(component.documentation()))
    assert set(component.parameters()) <= set(described)

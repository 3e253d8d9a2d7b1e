from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from conftest import Lab
from files import jsonl
from made import llama

from kdcore.data.arrays import Columns
from kdcore.errors import RunError
from kdcore_specdec.data.jsonl import Jsonl
from kdcore_specdec.data.packing import Rows
from kdcore_specdec.data.regenerate import Regenerate
from kdcore_specdec.sampling import Continuation, continued


@pytest.fixture
def data(tmp_path: Path) -> Jsonl:
    samples = [{"prompt": f"{n}?", "answer": f"it is {n}"} for n in range(20)]
    file = jsonl(tmp_path / "x.jsonl", *samples)
    return Jsonl(path=file, chat=False, length=16, packed=False, validation=0.2, test=0)


def train(data: Jsonl) -> Columns:
    found = data.split("train")
    assert found is not None
    return found


def test_a_table_of_what_the_target_says(data: Jsonl) -> None:
    target = llama(vocabulary=261)
    table = Regenerate(model="target", temperature=0.0, batch_size=7)({"target": target}.__getitem__, data)
    columns = train(data).columns
    wanted = continued(
        target, Rows(*(columns[name] for name in Rows._fields)), Continuation(temperature=0.0), end=257, pad=256, seed=0
    )
    assert torch.equal(table["id"], columns["id"])
    for name in Rows._fields:
        assert torch.equal(table[name], getattr(wanted, name))


def test_a_table_is_drawn_by_the_recipes_seed(data: Jsonl) -> None:
    models = {"target": llama(vocabulary=261)}.__getitem__
    first, again = (Regenerate(model="target")(models, data)["input_ids"] for _ in range(2))
    data.seed = 1
    assert torch.equal(first, again)
    assert not torch.equal(first, Regenerate(model="target")(models, data)["input_ids"])


class Completions(BaseHTTPRequestHandler):
    """Answers every prompt with itself, turned round."""

    asked: list[tuple[str, dict[str, Any], str | None]] = []  # noqa: RUF012
    answer: dict[str, Any] | None = None
    status = 200

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, given, self.headers["Authorization"]))
        said = self.answer or {"choices": [{"text": given["prompt"][::-1], "finish_reason": "stop"}]}
        body = json.dumps(said).encode()
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Completions, "asked", [])
    running = HTTPServer(("127.0.0.1", 0), Completions)
    thread = Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()
    thread.join()


def test_answers_of_a_server(data: Jsonl, server: str) -> None:
    table = Regenerate(endpoint=server + "/", served="big", key="secret", temperature=0.5, new_tokens=4)(dict.get, data)  # type: ignore[arg-type]
    ids = train(data).columns["input_ids"]
    assert len(Completions.asked) == len(ids)
    path, asked, key = Completions.asked[0]
    prompt = asked["prompt"]
    assert (path, key) == ("/v1/completions", "Bearer secret")
    assert asked == {"model": "big", "prompt": prompt, "max_tokens": 4, "temperature": 0.5, "seed": 0}
    wanted = [*prompt.encode(), *prompt[::-1].encode(), 257][: len(prompt) + 4]
    assert table["input_ids"][0].tolist() == wanted + [256] * (16 - len(wanted))
    assert table["labels"][0, len(prompt) - 1] == ord(prompt[-1])
    assert (table["labels"][0, : len(prompt) - 1] == -100).all()


def test_a_server_that_does_not_answer_so(data: Jsonl, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    action = Regenerate(endpoint=server)
    monkeypatch.setattr(Completions, "answer", {"error": "no such model"})
    with pytest.raises(RunError, match=r"/v1/completions gives no completion: KeyError: 'choices'"):
        action(dict.get, data)  # type: ignore[arg-type]
    monkeypatch.setattr(Completions, "status", 404)
    with pytest.raises(RunError, match=r'/v1/completions answers 404: {"error": "no such model"}'):
        action(dict.get, data)  # type: ignore[arg-type]
    monkeypatch.setattr(Completions, "status", 200)
    monkeypatch.setattr(Completions, "answer", {"choices": [{"text": "", "finish_reason": "length"}]})
    with pytest.raises(RunError, match="the server has nothing to say about the training row 0: "):
        action(dict.get, data)  # type: ignore[arg-type]


def test_no_server(data: Jsonl) -> None:
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9/v1/completions gives no completion: URLError"):
        Regenerate(endpoint="http://127.0.0.1:9/v1")(dict.get, data)  # type: ignore[arg-type]


def test_what_is_refused(data: Jsonl, tmp_path: Path, lab: Lab) -> None:
    for given in ({}, {"model": "a", "endpoint": "http://b"}):
        with pytest.raises(ValueError, match="say who speaks: a `model` of the recipe, or an `endpoint`"):
            Regenerate(**given)
    with pytest.raises(ValueError, match="endpoint=localhost:8000: give an address such as http://localhost:8000/v1"):
        Regenerate(endpoint="localhost:8000")
    packed = Jsonl(path=tmp_path / "x.jsonl", length=64)
    with pytest.raises(RunError, match=r"continues rows of one document each: set `data.packed: false`"):
        Regenerate(model="target")(dict.get, packed)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"`specdec.regenerate` continues text, and the data is a int"):
        Regenerate(model="target")(dict.get, 3)  # type: ignore[arg-type]

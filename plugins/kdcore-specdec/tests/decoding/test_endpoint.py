"""A server that is already running, here a small one of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kdcore.errors import RunError
from kdcore_specdec.decoding.endpoint import Server, bench_servers, connect


class Handler(BaseHTTPRequestHandler):
    """Answers as its server's ``style`` says; a part of the stream holds two tokens, as a draft makes them."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": name} for name in self.server.models]}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, asked, self.headers.get("Authorization")))
        if self.server.style == "refuses":
            self._send(b"no such model", 404)
            return
        if self.server.style == "babbles":
            self._send(b"data: {not json\n\n")
            return
        parts = [{"choices": [{"text": f"{self.server.word}{n}"}]} for n in range(asked["max_tokens"] // 2)]
        if self.server.style != "uncounted":
            parts.append({"choices": [], "usage": {"completion_tokens": asked["max_tokens"]}})
        body = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + ": a remark\n\ndata: [DONE]\n\n"
        self._send(body.encode())

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.style, made.word, made.models, made.asked = "", "w", ["tiny"], []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_a_completion_is_streamed_and_counted(server):
    one = connect(url(server), None, "secret", 10.0)
    assert one.served == "tiny"
    assert one.complete("2 + 2 =", 6, 0.5) == ("w0w1w2", 6)
    path, asked, authorization = server.asked[0]
    assert path == "/v1/completions"
    assert asked["prompt"] == "2 + 2 ="
    assert (asked["model"], asked["temperature"], asked["stream"]) == ("tiny", 0.5, True)
    assert asked["stream_options"] == {"include_usage": True}
    assert authorization == "Bearer secret"


def test_two_servers_are_compared(server):
    ours, theirs = (Server(url(server), name) for name in ("drafted", "alone"))
    found = bench_servers([ours, theirs], ["a", "b", "c"], tokens=4, temperature=0.0, rounds=2)
    assert [one["model"] for one in found["servers"]] == ["drafted", "alone"]
    assert all(len(one["tokens_per_second"]) == 2 for one in found["servers"])
    assert found["same_text"] == "3 of 3 prompts"
    assert found["speedup"]["min"] > 0
    models = [asked["model"] for _, asked, _ in server.asked]
    assert models[:4] == ["drafted", "alone", "drafted", "alone"]
    assert models[4:6] == ["alone", "drafted"]


def test_sampled_text_is_not_compared_and_one_server_is_only_measured(server):
    one, two = (Server(url(server), "tiny") for _ in range(2))
    assert "same_text" not in bench_servers([one, two], ["a"], tokens=4, temperature=1.0, rounds=1)
    assert "speedup" not in bench_servers([one], ["a"], tokens=4, temperature=0.0, rounds=1)


def test_a_server_that_does_not_count(server):
    server.style = "uncounted"
    with pytest.raises(RunError, match=r"/v1/completions does not say how many tokens it sent \(`usage` at the end"):
        Server(url(server), "tiny").complete("a", 4, 0.0)


def test_a_server_that_refuses(server):
    server.style = "refuses"
    with pytest.raises(RunError, match=r"/v1/completions answers 404: no such model$"):
        Server(url(server), "tiny").complete("a", 4, 0.0)


def test_a_server_that_babbles(server):
    server.style = "babbles"
    with pytest.raises(RunError, match=r"/v1/completions gives no completion: JSONDecodeError"):
        Server(url(server), "tiny").complete("a", 4, 0.0)


def test_nobody_there():
    with pytest.raises(RunError, match=r"http://127.0.0.1:9/v1/models gives no completion: URLError"):
        connect("http://127.0.0.1:9/v1", None, None, 1.0)


@pytest.mark.parametrize(("models", "said"), [([], "no model"), (["a", "b"], "a, b")])
def test_which_model(server, models, said):
    server.models = models
    with pytest.raises(RunError, match=rf"/v1/models names {said}: say which one with `--served`"):
        connect(url(server), None, None, 1.0)
    assert connect(url(server), "b", None, 1.0).served == "b"


def test_no_address():
    with pytest.raises(ValueError, match="endpoint=localhost:8000: give an address such as http://localhost:8000/v1"):
        connect("localhost:8000", "tiny", None, 1.0)

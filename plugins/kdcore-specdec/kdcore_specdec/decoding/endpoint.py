"""How fast a server that is already running decodes, speculatively or not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kdcore.errors import RunError
from kdcore_specdec.decoding.bench import ratios, take_turns
from kdcore_specdec.server import api, opened


@dataclass
class Server:
    """An OpenAI-compatible server.

    Attributes:
        endpoint: up to and with ``/v1``.
        served: its name of the model.
        key: a bearer token.
        timeout: seconds to wait for each part of an answer.
    """

    endpoint: str
    served: str
    key: str | None = None
    timeout: float = 120.0

    def complete(self, prompt: str, tokens: int, temperature: float) -> tuple[str, int]:
        """What the server adds to a prompt, streamed, and how many tokens it says that this is.

        Raises:
            RunError: it does not answer, not so, or does not count its tokens: a part of a stream may hold several.
        """
        asked = {
            "model": self.served, "prompt": prompt, "max_tokens": tokens, "temperature": temperature, "seed": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        url = api(self.endpoint, "completions")
        with opened(url, asked, key=self.key, timeout=self.timeout) as answer:
            parts = list(_events(answer))
            text = "".join(choice.get("text") or "" for part in parts for choice in part.get("choices", []))
            counted = [part["usage"]["completion_tokens"] for part in parts if part.get("usage")]
        if not counted:
            raise RunError(
                f"{url} does not say how many tokens it sent (`usage` at the end of a stream), and without that "
                "nothing can be measured"
            )
        return text, int(counted[-1])


def connect(endpoint: str, served: str | None, key: str | None, timeout: float) -> Server:
    """A server, asked for the name of its model where nobody says it.

    Raises:
        RunError: it does not answer, or serves several models.
        ValueError: ``endpoint`` is no address.
    """
    url = api(endpoint, "models")
    if served is not None:
        return Server(endpoint, served, key, timeout)
    with opened(url, key=key, timeout=timeout) as answer:
        names = [str(model["id"]) for model in json.load(answer)["data"]]
    if len(names) != 1:
        raise RunError(f"{url} names {', '.join(names) or 'no model'}: say which one with `--served`")
    return Server(endpoint, names[0], key, timeout)


def bench_servers(
    servers: Sequence[Server], prompts: Sequence[str], *, tokens: int, temperature: float, rounds: int
) -> dict[str, Any]:
    """Tokens per second of servers that take turns at every prompt; the second is what the first is compared with.

    Returns:
        Plain data: ``servers``, and with two of them ``speedup`` and, when greedy, ``same_text``.
    """
    said: list[dict[int, str]] = [{} for _ in servers]

    def way(server: Server, texts: dict[int, str], number: int, round_: int) -> int:
        texts[number], count = server.complete(prompts[number], tokens, temperature)
        return count

    ways = [partial(way, server, texts) for server, texts in zip(servers, said, strict=True)]
    speeds = take_turns(ways, len(prompts), rounds)
    found: dict[str, Any] = {
        "temperature": temperature,
        "servers": [
            {"endpoint": server.endpoint, "model": server.served, "tokens_per_second": speed}
            for server, speed in zip(servers, speeds, strict=True)
        ],
    }
    if len(servers) == 2:
        found["speedup"] = ratios(*speeds)
        if temperature == 0.0:
            found["same_text"] = f"{sum(said[0][n] == said[1][n] for n in said[0])} of {len(prompts)} prompts"
    return found


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    for line in lines:
        data = line.decode().strip().removeprefix("data:").strip()
        if line.startswith(b"data:") and data and data != "[DONE]":
            yield json.loads(data)

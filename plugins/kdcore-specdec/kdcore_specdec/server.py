"""Requests to an OpenAI-compatible server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any

from kdcore.errors import RunError


def api(endpoint: str, path: str) -> str:
    """The address of one of the server's functions.

    Args:
        endpoint: up to and with ``/v1``.
        path: such as ``completions``.

    Raises:
        ValueError: that is no address.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"endpoint={endpoint}: give an address such as http://localhost:8000/v1")
    return f"{endpoint.rstrip('/')}/{path}"


@contextmanager
def opened(
    url: str, asked: Mapping[str, Any] | None = None, *, key: str | None = None, timeout: float
) -> Iterator[HTTPResponse]:
    """The answer to a request, ``asked`` in its body as JSON where there is something.

    Args:
        url: of :func:`api`.
        asked: the request.
        key: a bearer token.
        timeout: seconds to wait for each part of the answer.

    Raises:
        RunError: the server refuses, does not answer, or what the block makes of the answer is not what it expects.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    body = None if asked is None else json.dumps(asked).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace").strip()
        raise RunError(f"{url} answers {error.code}: {said or error.reason}") from error
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{url} gives no completion: {type(error).__name__}: {error}") from error

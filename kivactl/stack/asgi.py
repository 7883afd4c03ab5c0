"""ASGI as the parts that run inside the engine need it: the types of its messages, headers, and which requests compute.

Everything that runs there imports the standard library only: it shares the process of the engine, not its dependencies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COMPUTING = frozenset(
    {
        *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses", "/v1/messages"),
        *("/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/v1/score", "/score", "/v1/rerank", "/v2/rerank", "/rerank"),
        *("/v1/audio/transcriptions", "/v1/audio/translations"),
    }
)
"""Paths on which a POST makes the model compute. Source: the routers of vLLM 0.32."""


def computes(scope: Scope) -> bool:
    """Whether a request makes the model compute."""
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in COMPUTING


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a name, in lower case; None without."""
    return next((value for key, value in scope["headers"] if key == name), None)


async def answer(send: Send, status: int, body: bytes) -> None:
    """Answer a request with a JSON text."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})

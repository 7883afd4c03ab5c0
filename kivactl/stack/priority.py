"""ASGI middleware for the engine: a request's priority is what the gateway says, never what its body or headers say.

The gateway sends it as a header of its own. vLLM reads a priority from a header of its own, which goes first and which
some endpoints ignore, and from the body, which all endpoints read: the one is taken away, the other written over by
a second key at the end of the object (of two equal keys JSON readers take the last).
"""

from __future__ import annotations

import json
import re

from kivactl.stack.asgi import App, Message, Receive, Scope, Send, computes, header

HEADER = "x-kiva-priority"
"""An integer; lower is earlier, 0 in the middle."""

_ENGINES_HEADER = b"x-vllm-priority"
_INTEGER = re.compile(rb"-?\d{1,9}")
_WHITESPACE = b" \t\r\n"


def with_priority(body: bytes, priority: int) -> bytes:
    """A JSON object with this priority and no other.

    Args:
        body: A JSON text in any of JSON's encodings.
        priority: Lower is earlier.

    Returns:
        The object with one more key. An empty object and what is no object stay as they are; what is no JSON stays none.
    """
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        # The engine would read it, so it must not be a way around.
        try:
            body = body.decode(encoding).encode()
        except UnicodeError:
            return body
    end = body.rstrip(_WHITESPACE)
    head = end[:-1].rstrip(_WHITESPACE)
    if not end.endswith(b"}") or not head or head.endswith(b"{"):
        return body
    return b'%b,"priority":%d}' % (head, priority)


class Priority:
    """Wraps an ASGI application; requests without the gateway's header pass unchanged."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if not computes(scope) or (said := header(scope, HEADER.encode())) is None:
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name not in (HEADER.encode(), _ENGINES_HEADER)]
        if b"json" in (header(scope, b"content-type") or b"").lower():
            # Whatever is no number counts as none: a client's own priority must not come through by it.
            priority = int(said) if _INTEGER.fullmatch(said) else 0
            receive = _spliced(receive, priority)
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        await self._app({**scope, "headers": headers}, receive, send)


def _spliced(receive: Receive, priority: int) -> Receive:
    """The same messages with the request's body as one, and the priority in it."""
    whole = False

    async def next_message() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        chunks = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                whole = True
                return {"type": "http.request", "body": with_priority(b"".join(chunks), priority), "more_body": False}

    return next_message

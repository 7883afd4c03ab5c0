"""ASGI middleware for the engine: answers `GET /kiva/generating`, 200 only when the engine has lately proved that it generates.

vLLM's `/health` says 200 as long as the API server and the engine's process are there, even when no token will ever come again. Proof
is a piece of a real answer in the last seconds; else a token asked for by the way; else, while that one waits its turn behind long
prompts, a look at the engine's own books: tokens or cache that grow. A hanging API server does not answer at all.

`KIVA_PROOF_S`: seconds a proof is good for (5). `KIVA_PROBE_S`: seconds a proof may take (5), of those in which this process
runs.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kivactl.stack.asgi import App, Message, Receive, Scope, Send, answer, computes

PATH = "/kiva/generating"

_FIRST = -1_000_000
"""The probe's priority: earlier than any request."""

_LOOK_S = 0.1

# Several tokens: vLLM 0.32 died (SIGILL) of a bfloat16 model's very first prompt when that was a single token, on a processor with AMX.
_TEXT = "Are you there?"

_PROBES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": _TEXT, "max_tokens": 1, "temperature": 0}),
    ("/v1/embeddings", {"input": _TEXT}),
    ("/classify", {"input": _TEXT}),
    ("/v1/score", {"text_1": _TEXT, "text_2": _TEXT}),
    ("/pooling", {"input": _TEXT}),
)
"""The cheapest work, by what a model can do; the first that is served counts."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the engine has noted of its progress.

    Attributes:
        tokens: Tokens made so far, by request.
        cache_ratio: Part of the KV cache in use as the engine last reported it, by engine core.
    """

    tokens: dict[str, int]
    cache_ratio: tuple[float, ...]

    def shows_progress_since(self, before: Books) -> bool:
        """Whether the engine has worked in between; requests that only went away are no sign of it."""
        return self.cache_ratio != before.cache_ratio or any(count > before.tokens.get(request, 0) for request, count in self.tokens.items())


def books(scope: Scope) -> Books:
    """The books of vLLM's engine client; empty where this version keeps them elsewhere."""
    try:
        client = scope["app"].state.engine_client
        states = client.output_processor.request_states
        tokens = {name: state.detokenizer.num_output_tokens() for name, state in list(states.items()) if state.detokenizer is not None}
    except (AttributeError, KeyError, TypeError):
        return Books({}, ())
    try:
        loggers = [single for logger in client.logger_manager.stat_loggers for single in getattr(logger, "per_engine_stat_loggers", {}).values()]
        ratios = tuple(logger.last_scheduler_stats.kv_cache_usage for logger in loggers if hasattr(logger, "last_scheduler_stats"))
    except (AttributeError, TypeError):
        ratios = ()
    return Books(tokens, ratios)


class Generating:
    """Wraps an ASGI application; answers the check itself and takes note of what the others prove."""

    def __init__(self, app: App, *, proof_s: float | None = None, probe_s: float | None = None, now_s: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._proof_s = float(os.environ.get("KIVA_PROOF_S", "5")) if proof_s is None else proof_s
        self._probe_s = float(os.environ.get("KIVA_PROBE_S", "5")) if probe_s is None else probe_s
        self._now_s = now_s
        self._proved_s = float("-inf")
        self._proving: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[bool]] = set()
        self._kinds = list(_PROBES)
        self._priority: dict[str, int] = {"priority": _FIRST}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if computes(scope):
            await self._app(scope, *self._noting(receive, send))
        elif scope["type"] == "http" and scope["path"] == PATH and scope["method"] in ("GET", "HEAD"):
            generating = await self.generating(scope)
            await answer(send, 200 if generating else 503, b'{"generating":true}' if generating else b'{"generating":false}')
        else:
            await self._app(scope, receive, send)

    async def generating(self, scope: Scope) -> bool:
        """Whether there is proof; looks for one where there is none. Checks at the same time share what they find.

        Args:
            scope: Of the request that wants to know.
        """
        if self._proved():
            return True
        if self._proving is None or self._proving.done():
            self._proving = asyncio.create_task(self._prove(scope))
        await asyncio.shield(self._proving)
        return self._proved()

    def _proved(self) -> bool:
        return self._now_s() - self._proved_s <= self._proof_s

    def _noting(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """The same, and every piece of a good answer is a proof."""
        good, gone = False, False

        async def note_receive() -> Message:
            nonlocal gone
            message = await receive()
            # To a client that has left, vLLM says `null` with status 200.
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def note_send(message: Message) -> None:
            nonlocal good
            if message["type"] == "http.response.start":
                good = message["status"] == 200
            # Neither a comment that keeps the connection alive nor an error in a stream shows that the engine works.
            elif good and not gone and (body := message.get("body")) and not body.startswith((b":", b'data: {"error"')):
                self._proved_s = self._now_s()
            await send(message)

        return note_receive, note_send

    async def _prove(self, scope: Scope) -> None:
        before, began_s = books(scope), self._now_s()
        gone = asyncio.Event()
        asking = asyncio.create_task(self._ask(scope, gone))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        # Looks are counted, not seconds: while the machine lets this process wait, nobody has looked, and the engine waits likewise.
        for _ in range(math.ceil(self._probe_s / _LOOK_S)):
            await asyncio.wait({asking}, timeout=min(_LOOK_S, self._probe_s))
            if asking.done():
                if asking.result():
                    self._proved_s = self._now_s()
                return
            if self._proved_s >= began_s:
                break
            if books(scope).shows_progress_since(before):
                self._proved_s = self._now_s()
                break
        # As if its client had gone: the engine ends the request in its own way.
        gone.set()

    async def _ask(self, scope: Scope, gone: asyncio.Event) -> bool:
        """Whether the engine did the smallest piece of work."""
        while True:
            path, order = self._kinds[0]
            status = await self._post(scope, path, {**order, **self._priority}, gone)
            if gone.is_set():
                return False
            if status in (404, 405, 501) and len(self._kinds) > 1:
                self._kinds.pop(0)
            elif status == 400 and self._priority:
                self._priority = {}  # an engine without `--scheduling-policy priority` refuses any
            else:
                return status == 200

    async def _post(self, scope: Scope, path: str, order: dict[str, Any], gone: asyncio.Event) -> int:
        """The status of an answer of the wrapped application to a request of our own; 500 when it raised."""
        body = json.dumps(order).encode()
        sent = False
        status = 500

        async def receive() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        headers = [(b"host", b"kiva"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"x-request-id", b"kiva-probe")]
        probe = {**scope, "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        try:
            await self._app(probe, receive, send)
        except Exception:  # noqa: BLE001  (whatever the engine raises is its answer)
            return 500
        return status

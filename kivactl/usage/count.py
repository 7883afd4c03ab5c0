"""ASGI middleware for the engine: writes down what each request cost in tokens, also of those whose client left early.

The numbers are vLLM's own. An answer that carries its usage is taken at its word. For the rest (streams whose client did not ask,
requests cut short) there are the engine's books: every sub-request that vLLM adds while it serves a request is noted with it, and read
when vLLM has let go of it, so that the sums agree with vLLM's counters. Answers pass through untouched. Standard library only.

`KIVA_USAGE_LOG`: the file, a JSON line per request. `KIVA_REPLICA`, `KIVA_MODEL`: what the lines say of their origin.
`KIVA_USAGE_SERVED=1`: gateways fetch the file (`kivactl.usage.serve`); the engine then keeps it small itself, as nobody else is there to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl.stack.asgi import COMPUTING, App, Message, Receive, Scope, Send, header
from kivactl.usage.serve import SET_ASIDE_BYTES, ServeUsage, set_aside

_USAGE = b'"usage":{'
_BACKLOG = 100_000
_LETS_GO_WITHIN_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of a request.

    Attributes:
        prompt_tokens: All of the prompt, the cached ones too; once for several samples of it.
        cached_tokens: Those that were in the engine's cache.
        completion_tokens: Of all samples.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Account:
    """What is known of a request while it is served.

    Attributes:
        request_id: The gateway's.
        path: Asked for.
        states: vLLM's `RequestState` of each sub-request, by its id.
        tail: The last pieces of the answer.
        events: Pieces sent so far.
        complete: Whether the answer's last piece was sent while the client was there.
    """

    request_id: str
    path: str
    states: dict[str, Any] = field(default_factory=dict)
    tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=3))
    events: int = 0
    status: int = 0
    complete: bool = False


_account: ContextVar[Account | None] = ContextVar("kiva_account", default=None)


def parse_usage(path: str, tail: bytes) -> Counts | None:
    """The usage in the end of a complete answer.

    Args:
        path: Asked for.
        tail: The answer or, of a stream, its last events.

    Returns:
        The counts; None when the answer has none or its form is not known.
    """
    match path.rsplit("/", 1)[-1]:
        case "responses":
            usage = _usage_of_response(tail)
        case "rerank":
            usage = _loaded(tail).get("usage")  # documents come back as their sender wrote them, so only the whole tells which usage is the engine's
        case "completions" | "embeddings" | "score" | "classify" | "pooling":
            usage = _last_usage(tail)
        case _:
            usage = None
    try:
        return _counts(usage) if usage else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def counts_of(states: Iterable[Any]) -> Counts | None:
    """What vLLM has noted of sub-requests; None when this version of it notes things elsewhere."""
    prompt = cached = completion = 0
    parents = set()
    try:
        for state in states:
            if state.detokenizer is not None:
                completion += state.detokenizer.num_output_tokens()
            if state.is_prefilling:  # never got to its first token: vLLM counts nothing, and neither do we
                continue
            if state.parent_req is not None:
                if id(state.parent_req) in parents:
                    continue
                parents.add(id(state.parent_req))
            prompt += state.prompt_len
            cached += state.num_cached_tokens
    except (AttributeError, TypeError):
        return None
    return Counts(prompt, cached, completion)


class CountUsage:
    """Wraps an ASGI application, outermost; its configuration comes from the environment."""

    def __init__(self, app: App) -> None:
        path, self._replica, self._model = os.environ["KIVA_USAGE_LOG"], os.environ["KIVA_REPLICA"], os.environ["KIVA_MODEL"]
        served = os.environ.get("KIVA_USAGE_SERVED") == "1"
        self._app: App = ServeUsage(app, path, self._replica) if served else app
        self._record = Record(path, SET_ASIDE_BYTES if served else None)
        self._processor: Any = None
        self._settling: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._watch_engine(scope)
        said = header(scope, b"x-request-id")
        if said is None:
            # Without a gateway in front: the engine's log shall name the same id as the record.
            said = uuid.uuid4().hex.encode()
            scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", said)]}
        account = Account(said.decode("latin-1"), scope["path"])
        gone = False

        async def watch_receive() -> Message:
            nonlocal gone
            message = await receive()
            if message["type"] == "http.disconnect":
                gone = True
            return message

        async def watch_send(message: Message) -> None:
            if message["type"] == "http.response.body":
                if body := message.get("body"):
                    account.tail.append(body)
                    account.events += 1
                if not message.get("more_body", False):
                    account.complete = not gone
            elif message["type"] == "http.response.start":
                account.status = message["status"]
            await send(message)

        token = _account.set(account)
        try:
            await self._app(scope, watch_receive, watch_send)
        finally:
            _account.reset(token)
            self._close(account)

    def _watch_engine(self, scope: Scope) -> None:
        """Have vLLM's output processor note each sub-request with the request it belongs to; once."""
        if self._processor is not None:
            return
        try:
            processor = scope["app"].state.engine_client.output_processor
            add_request, states = processor.add_request, processor.request_states
        except (AttributeError, KeyError):
            self._processor = False
            _log.warning("this engine keeps its requests elsewhere: streams whose client does not ask for usage are counted by their events")
            return

        def add_and_note(request: Any, *args: Any, **kwargs: Any) -> Any:
            done = add_request(request, *args, **kwargs)
            # A context variable says whose it is: tasks inherit it from the one that serves the request.
            if (account := _account.get()) is not None:
                name = getattr(request, "request_id", "")
                if (state := states.get(name)) is not None:
                    account.states[name] = state
            return done

        processor.add_request = add_and_note
        self._processor = processor

    def _close(self, account: Account) -> None:
        """Write the record: at once, or when vLLM has ended the sub-requests of a client that left."""
        if account.path not in COMPUTING and not account.states:
            return
        if account.complete or not self._held(account):
            self._write(account)
            return
        settling = asyncio.get_running_loop().create_task(self._settle(account))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def _settle(self, account: Account) -> None:
        try:
            async with asyncio.timeout(_LETS_GO_WITHIN_S):
                while self._held(account):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        finally:
            self._write(account)

    def _held(self, account: Account) -> bool:
        """Whether vLLM still counts for the request."""
        held = getattr(self._processor, "request_states", {})
        return any(held.get(name) is state for name, state in account.states.items())

    def _write(self, account: Account) -> None:
        tail = b"".join(account.tail)
        finished = account.complete and account.status < 500 and b'data: {"error"' not in tail
        counts = parse_usage(account.path, tail) if finished else None
        if counts is None and self._processor:
            counts = counts_of(account.states.values())
        if counts is None:
            counts, finished = Counts(completion_tokens=account.events), False
        account.states.clear()
        self._record.append(
            {
                "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "request_id": account.request_id,
                "replica": self._replica,
                "model": self._model,
                "prompt_tokens": counts.prompt_tokens,
                "cached_tokens": counts.cached_tokens,
                "completion_tokens": counts.completion_tokens,
                "finished": finished,
            }
        )


class Record:
    """A file of JSON lines that may be renamed away at any time; lines it cannot take wait for the next.

    Args:
        path: The file; made on the first line, mode 0600.
        set_aside_bytes: Size above which it begins a new file; None when others see to that.
    """

    def __init__(self, path: str, set_aside_bytes: int | None = None) -> None:
        self._path = path
        self._set_aside_bytes = set_aside_bytes
        self._waiting: deque[bytes] = deque(maxlen=_BACKLOG)

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry and those that still wait; never raises for the file's sake.

        Args:
            entry: JSON values.
        """
        self._waiting.append(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        try:
            # Opened anew each time, by the kernel's fastest way: whoever renamed it reads on to its end.
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                while self._waiting:
                    line = self._waiting[0]
                    if os.write(file, line) < len(line):
                        self._waiting[0] = b"\n" + line.lstrip(b"\n")  # a full disk took half of it
                        break
                    self._waiting.popleft()
                large = self._set_aside_bytes is not None and os.lseek(file, 0, os.SEEK_CUR) > self._set_aside_bytes
            finally:
                os.close(file)
            if large:
                set_aside(Path(self._path))
        except OSError as error:
            _log.warning("%d usage records wait for %s: %s", len(self._waiting), self._path, error.strerror)


def _last_usage(tail: bytes) -> Any:
    """The last usage object; no text can look like one, for its quotes are escaped."""
    start = tail.rfind(_USAGE)
    if start < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(tail[start + len(_USAGE) - 1 :].decode("utf-8", "replace"))[0]
    except ValueError:
        return None


def _usage_of_response(tail: bytes) -> Any:
    """The usage of a response; the client's own tools stand beside it, so only the whole tells which usage is the engine's."""
    if tail.startswith(b"{"):
        return _loaded(tail).get("usage")
    for event in reversed(tail.split(b"\n\n")):
        if event.startswith((b"event: response.completed\n", b"event: response.incomplete\n")):
            response = _loaded(event.partition(b"\ndata: ")[2]).get("response")
            return response.get("usage") if isinstance(response, dict) else None
    return None


def _loaded(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _counts(usage: dict[str, Any]) -> Counts:
    if "input_tokens" in usage:
        prompt, completion, details = usage["input_tokens"], usage.get("output_tokens"), usage.get("input_tokens_details")
    else:
        prompt, completion, details = usage.get("prompt_tokens", usage.get("total_tokens")), usage.get("completion_tokens"), usage.get("prompt_tokens_details")
    return Counts(int(prompt), int((details or {}).get("cached_tokens") or 0), int(completion or 0))

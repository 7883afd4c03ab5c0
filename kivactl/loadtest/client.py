"""A client that times a streamed answer: reads what has arrived, never waits for more, and stamps before it parses.

Stock clients fill a buffer before they hand anything on, which turns 49 gaps of 20 ms into 42 of none. One client is one
user: it keeps one connection and has one request under way. The sockets are the standard library's, so that Locust's
process may patch them; nothing here knows Locust.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.sse import Chunk, EventParser, parse_chunk

_READ_BYTES = 1 << 16
_TCP_ESTABLISHED = 1
_AFTER_DONE_S = 1.0
"""Once `[DONE]` is there the answer is whole; only the connection's next use depends on the rest."""


@dataclass(slots=True)
class _Exchange:
    """What is known of a request so far."""

    index: int
    start_ns: int
    deadline_ns: int
    sent_ns: int | None = None
    connect_ns: int = 0
    token_ns: list[int] = field(default_factory=list)
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    status: int | None = None
    finish_reason: str | None = None
    failure: FailureKind | None = None
    reason: str = ""
    is_cut: bool = False
    is_done: bool = False
    has_body: bool = False

    def fail(self, kind: FailureKind, reason: str) -> None:
        if self.failure is None:
            self.failure, self.reason = kind, reason

    def take(self, chunk: Chunk, stamp_ns: int) -> None:
        if chunk.has_tokens:
            self.token_ns.append(stamp_ns)
        if chunk.malformed:
            self.fail(FailureKind.MALFORMED, "an event of the stream is not the JSON it should be")
        if chunk.error:
            self.fail(FailureKind.ERROR_EVENT, chunk.error)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.completion_tokens = self.completion_tokens if chunk.completion_tokens is None else chunk.completion_tokens
        self.prompt_tokens = self.prompt_tokens if chunk.prompt_tokens is None else chunk.prompt_tokens
        self.is_done = self.is_done or chunk.done

    def conclude(self, *, inside_event: bool, content_type: str) -> None:
        """Judge an answer whose body has ended as it should."""
        if not self.token_ns and self.finish_reason is None and "text/event-stream" not in content_type:
            self.fail(FailureKind.MALFORMED, f"the answer is no event stream (content-type '{content_type}')")
        elif self.finish_reason is None:
            self.fail(FailureKind.NO_FINISH, "the stream ended inside an event" if inside_event else "the stream ended without a finish reason")
        elif not self.token_ns:
            self.fail(FailureKind.NO_TOKENS, "the answer has no token")

    def record(self) -> Record:
        return Record(
            index=self.index,
            start_ns=self.start_ns,
            end_ns=time.perf_counter_ns(),
            sent_ns=self.sent_ns,
            connect_ns=self.connect_ns,
            token_ns=tuple(self.token_ns),
            completion_tokens=self.completion_tokens,
            prompt_tokens=self.prompt_tokens,
            status=self.status,
            finish_reason=self.finish_reason,
            failure=self.failure,
            reason=self.reason,
            is_cut=self.is_cut,
            has_body=self.has_body,
        )


class Client:
    """One user's connection to a chat endpoint.

    Args:
        url: Base URL that ends in `/v1`.
        token: Bearer token.
        ca: PEM file with the authority to trust; None for the system's.
        timeout_s: Seconds for a whole request.
        context: Shared by many clients, since reading authorities takes milliseconds; made from `ca` when absent.
    """

    def __init__(self, url: str, token: str, ca: str | None, timeout_s: float, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = f"{parts.path}/chat/completions"
        self._context = (context or ssl.create_default_context(cafile=ca)) if parts.scheme == "https" else None
        self._headers = {"content-type": "application/json", "accept": "text/event-stream", "authorization": f"Bearer {token}"}
        self._timeout_ns = round(timeout_s * 1e9)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None

    def ask(self, index: int, body: bytes, *, on_token: Callable[[], None] = lambda: None, on_end: Callable[[Record], None] = lambda _: None) -> Record:
        """Send one request and read its answer to the end.

        Args:
            index: Number of the request, for its record.
            body: The encoded request.
            on_token: Called at each token event.
            on_end: Called with the record, also when the request is cut short by an exception that ends the user.
        """
        start_ns = time.perf_counter_ns()
        exchange = _Exchange(index, start_ns, start_ns + self._timeout_ns)
        try:
            self._exchange(exchange, body, on_token)
        except TimeoutError:
            exchange.fail(FailureKind.TIMEOUT, f"no whole answer within {self._timeout_ns / 1e9:g} s")
        except http.client.IncompleteRead:
            exchange.fail(FailureKind.TRUNCATED, "the connection ended inside the answer")
        except OSError as error:
            # RemoteDisconnected is one of these, too.
            kind = FailureKind.TRUNCATED if exchange.has_body else FailureKind.CONNECTION
            exchange.fail(kind, f"the connection ended: {error}" if exchange.sent_ns else f"no connection: {error}")
        except http.client.HTTPException as error:
            exchange.fail(FailureKind.MALFORMED, f"the answer is not HTTP: {type(error).__name__}")
        except BaseException:
            exchange.is_cut = True
            raise
        finally:
            if exchange.failure is not None or exchange.is_cut:
                self.close()
            record = exchange.record()
            on_end(record)
        return record

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._socket = None

    def _exchange(self, exchange: _Exchange, body: bytes, on_token: Callable[[], None]) -> None:
        connection, stream = self._connected(exchange)
        exchange.sent_ns = time.perf_counter_ns()
        connection.request("POST", self._path, body=body, headers=self._headers)
        with connection.getresponse() as response:
            exchange.status = response.status
            if not 200 <= response.status < 300:
                exchange.fail(FailureKind.STATUS, f"status {response.status}: {_refusal_text(response.read(_READ_BYTES))}")
                return
            self._read(exchange, response, stream, on_token)
            if response.will_close or exchange.failure is not None:
                self.close()

    def _read(self, exchange: _Exchange, response: http.client.HTTPResponse, stream: socket.socket, on_token: Callable[[], None]) -> None:
        parser = EventParser()
        while True:
            try:
                self._allow(stream, exchange.deadline_ns)
                received = response.read1(_READ_BYTES)
            except (OSError, http.client.HTTPException):
                if not exchange.is_done:
                    raise
                self.close()
                break
            stamp_ns = time.perf_counter_ns()
            if not received:
                break
            exchange.has_body = True
            for data in parser.feed(received):
                chunk = parse_chunk(data)
                exchange.take(chunk, stamp_ns)
                if chunk.has_tokens:
                    on_token()
                if chunk.done:
                    exchange.deadline_ns = min(exchange.deadline_ns, stamp_ns + round(_AFTER_DONE_S * 1e9))
        if response.length and not exchange.is_done:  # what a body of declared length still lacks
            exchange.fail(FailureKind.TRUNCATED, "the connection ended inside the answer")
        exchange.conclude(inside_event=parser.is_inside_event, content_type=response.headers.get("content-type", ""))

    def _connected(self, exchange: _Exchange) -> tuple[http.client.HTTPConnection, socket.socket]:
        if self._connection is not None and self._socket is not None and not _is_stale(self._socket):
            self._allow(self._socket, exchange.deadline_ns)
            return self._connection, self._socket
        self.close()
        timeout_s = self._timeout_ns / 1e9
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._context)
        connection.connect()
        assert connection.sock is not None
        # Kept apart: after `Connection: close` the library forgets it while the answer is still being read.
        self._connection, self._socket = connection, connection.sock
        exchange.connect_ns = time.perf_counter_ns() - exchange.start_ns
        self._allow(self._socket, exchange.deadline_ns)
        return self._connection, self._socket

    @staticmethod
    def _allow(stream: socket.socket, deadline_ns: int) -> None:
        remaining_ns = deadline_ns - time.perf_counter_ns()
        if remaining_ns <= 0:
            raise TimeoutError
        stream.settimeout(remaining_ns / 1e9)


def _is_stale(stream: socket.socket) -> bool:
    """Whether the other side has closed an idle connection.

    Asked of the kernel: the `poll` that Locust patches in need not look at once, and `select` fails from descriptor 1024 on.
    """
    state: int = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != _TCP_ESTABLISHED


def _refusal_text(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    return parse_chunk(text).error or text[:200] or "no explanation"

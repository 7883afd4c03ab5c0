"""A small HTTP server that answers as an API server would, by a script; and a clock that waits for nobody."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kivactl.tools.clock import Clock


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """A whole answer; a text goes as it is, anything else as JSON."""

    code: int = 200
    body: Any = field(default_factory=dict)
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Stream:
    """A chunked answer, one piece a chunk; goes on until `until` is set, ends in the middle when cut."""

    pieces: Sequence[bytes]
    cut: bool = False
    until: threading.Event | None = None


@dataclass(frozen=True)
class Reset:
    """The connection is reset instead of an answer."""


Script = Callable[[Asked], Reply | Stream | Reset]


def status(code: int, reason: str = "", message: str = "", **details: Any) -> Reply:
    """A refusal."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message, "details": details}
    return Reply(code, body)


def in_turn(*replies: Reply | Stream | Reset) -> Script:
    """One answer after the other; the last for all that follow."""
    rest = list(replies)
    return lambda _asked: rest.pop(0) if len(rest) > 1 else rest[0]


@dataclass
class ScriptedApi:
    """A running server."""

    url: str
    requests: list[Asked]


class Waits:
    """A clock that jumps instead of waiting, and remembers for how long."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.waits: list[float] = []
        self.clock = Clock(lambda: self.at_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        self.at_s += seconds


@contextlib.contextmanager
def scripted(script: Script, certificate: tuple[Path, Path] | None = None, ca: Path | None = None) -> Iterator[ScriptedApi]:
    """Serve by a script.

    Args:
        script: The answer to a request; called by one thread at a time.
        certificate: Certificate and key, for TLS.
        ca: Authority of the clients' certificates that are asked for.
    """
    requests: list[Asked] = []
    one_at_a_time = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError):
                super().handle_one_request()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), headers, json.loads(body) if body else None)
            with one_at_a_time:
                requests.append(asked)
                reply = script(asked)
            match reply:
                case Reply():
                    content = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
                    self.send_response(reply.code)
                    self.send_header("content-length", str(len(content)))
                    for name, value in reply.headers:
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                case Stream():
                    self.send_response(200)
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    for piece in reply.pieces:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    if reply.until is not None:
                        reply.until.wait(20)
                    if not reply.cut:
                        self.wfile.write(b"0\r\n\r\n")
                    self.close_connection = reply.cut
                case Reset():
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_arguments: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_arguments: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            if ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(ca)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield ScriptedApi(f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", requests)
        finally:
            server.shutdown()
            thread.join()

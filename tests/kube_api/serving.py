"""HTTP for the tests' API server: connections, watches that stay open, and faults that cut them."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from kube_api import discovery
from kube_api.answering import Watch
from kube_api.answers import Refusal, resource_name
from kube_api.authority import Authority
from kube_api.executing import execute
from kube_api.faults import Fault
from kube_api.forwarding import forward
from kube_api.requests import LARGEST, Request, locate, read

if TYPE_CHECKING:
    from kube_api.server import KubeApi

Json = dict[str, Any]

BOOKMARK_S = 1.0
"""How long a watch is silent before it is told how far it has come."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, api: KubeApi, port: int, authority: Authority | None) -> None:
        self.api = api
        self.open: set[socket.socket] = set()
        self.watches: set[Handler] = set()
        self.ending = threading.Event()
        self.hurry = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)
        self._tls = authority.context() if authority else None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's thread, so that a slow handshake keeps nobody waiting."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        self.open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self.open.discard(request)
            with suppress(OSError):
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that go away are nothing to speak of; anything else is a fault in here."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)

    def end(self) -> None:
        self.ending.set()
        self.hurry.set()
        self.shutdown()
        self.server_close()
        with self.api.objects.store.changed:
            self.api.objects.store.changed.notify_all()
        for one in list(self.open):
            _cut(one)

    def drop_connections(self) -> None:
        for one in list(self.open):
            _cut(one)
        self.hurry.set()
        self.hurry = threading.Event()

    def drop_watches(self) -> None:
        for one in list(self.watches):
            _cut(one.connection)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Server

    def _handle(self) -> None:
        api = self.server.api
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        request = read(self.command, self.path, body, self.headers)
        if api.token:
            request.query["authorization"] = self.headers.get("Authorization", "")
        api.requests.append(request)
        try:
            if len(body) > LARGEST:
                raise Refusal(413, f"Request entity too large: limit is {LARGEST}")
            locate(request, api.objects.kinds)
            fault = api.faults.met_by(request.verb, request.kind_name, request.name)
            if fault is not None and not self._fault(fault, request):
                return
            if request.subresource == "portforward":
                self._forward(request)
                return
            if request.subresource == "exec":
                self._execute(request)
                return
            code, content = api.answer(request)
            if fault is not None and fault.answer == "lost":
                self._hang_up()
                return
        except Refusal as refusal:
            extra = {"Retry-After": str(refusal.retry_after_s)} if refusal.retry_after_s is not None else {}
            self._send(request, refusal.code, refusal.status(), extra)
            return
        except OSError:
            raise
        except Exception as error:
            api.crashes.append(error)
            self._send(request, 500, Refusal(500, f"panic in the tests' API: {error!r}").status(), {})
            raise
        if isinstance(content, Watch):
            self._watch(request, content)
        else:
            self._send(request, code, content, {})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fault(self, fault: Fault, request: Request) -> bool:
        """Whether the request goes on."""
        resource = resource_name(request.kind.plural, request.kind.group) if request.kind else ""
        if (refusal := fault.refusal(resource, request.name)) is not None:
            raise refusal
        if fault.answer == "disconnect":
            self._hang_up()
            return False
        if fault.answer == "slow" and self.server.hurry.wait(fault.seconds):
            self._hang_up()
            return False
        return True

    def _forward(self, request: Request) -> None:
        port = int(request.query.get("ports") or 0)
        address = self.server.api.forwarded(request, port)
        request.code = 101
        self.close_connection = True
        forward(self.connection, f"{self.raw_requestline.decode()}{self.headers}".replace("\r\n", "\n").replace("\n", "\r\n").encode(), port, address)

    def _execute(self, request: Request) -> None:
        words = parse_qs(urlsplit(self.path).query)["command"]
        run = self.server.api.program(request, words)
        request.code = 101
        self.close_connection = True
        execute(self.connection, f"{self.raw_requestline.decode()}{self.headers}".replace("\r\n", "\n").replace("\n", "\r\n").encode(), run)

    def _hang_up(self) -> None:
        self.close_connection = True
        _cut(self.connection)

    def _send(self, request: Request, code: int, content: Json | str, extra: dict[str, str]) -> None:
        request.code = code
        plain = isinstance(content, str)
        data = content.encode() if isinstance(content, str) else json.dumps(content, separators=(",", ":")).encode()
        kind = "text/plain" if plain else "application/json"
        if request.path in {"/api", "/apis"} and "as=APIGroupDiscoveryList" in request.accept and code == 200:
            kind = discovery.AGGREGATED
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for warning in request.warnings:
            escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{escaped}"')
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _watch(self, request: Request, watch: Watch) -> None:
        request.code = 200
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.server.watches.add(self)
        store = self.server.api.objects.store
        rest_s = float(request.query.get("timeoutSeconds") or 3600)
        try:
            self._events(watch.first())
            while not watch.ended and not self.server.ending.is_set() and rest_s > 0:
                with store.changed:
                    events = watch.next()
                    quiet = not events and not store.changed.wait(min(BOOKMARK_S, rest_s))
                if quiet:
                    rest_s -= BOOKMARK_S
                    if select.select([self.connection], [], [], 0)[0]:
                        return
                    bookmark = watch.bookmark()
                    events = [bookmark] if bookmark else []
                self._events(events)
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except OSError:
            return
        finally:
            self.server.watches.discard(self)

    def _events(self, events: Iterable[Json]) -> None:
        for event in events:
            data = json.dumps(event, separators=(",", ":")).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that it replaces
        """Say nothing: `KubeApi.requests` has it all."""

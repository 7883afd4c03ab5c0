"""An engine that speaks vLLM's wire format from a script and keeps the truth about what it sent, and when."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret

TOKEN = "the-right-token"
MODEL = "scripted"


@dataclass
class Truth:
    """One answer as the engine gave it; stamps of the same clock as the client's."""

    prompt: str = ""
    sent_ns: list[int] = field(default_factory=list)
    finished: bool = False


class Answer:
    """What a script writes with."""

    def __init__(self, handler: BaseHTTPRequestHandler, truth: Truth) -> None:
        self._handler = handler
        self.truth = truth

    def head(self, status: int = 200, content_type: str = "text/event-stream; charset=utf-8", **headers: str) -> None:
        handler = self._handler
        handler.send_response(status)
        handler.send_header("content-type", content_type)
        fields = {"transfer-encoding": "chunked", **{name.replace("_", "-"): value for name, value in headers.items()}}
        for name, value in fields.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()

    def raw(self, body: bytes) -> None:
        self._handler.wfile.write(body)

    def chunk(self, body: bytes) -> None:
        self.raw(b"%x\r\n%s\r\n" % (len(body), body))

    def event(self, **fields: object) -> None:
        self.chunk(b"data: " + json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL, **fields}).encode() + b"\n\n")

    def delta(self, finish_reason: str | None = None, **delta: object) -> None:
        self.event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])

    def token(self, text: str = " word", finish_reason: str | None = None) -> None:
        self.truth.sent_ns.append(time.perf_counter_ns())
        self.delta(finish_reason, content=text)

    def close(self, completion_tokens: int | None = None) -> None:
        """Usage, `[DONE]` and the end of the body."""
        if completion_tokens is not None:
            usage = {"prompt_tokens": 7, "completion_tokens": completion_tokens, "total_tokens": 7 + completion_tokens}
            self.event(choices=[], usage=usage)
        self.chunk(b"data: [DONE]\n\n")
        self.raw(b"0\r\n\r\n")
        self.truth.finished = True

    def refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}}).encode()
        self.head(status, "application/json", transfer_encoding="", content_length=str(len(body)))
        self.raw(body)

    def hang_up(self) -> None:
        self._handler.close_connection = True


def three_tokens(answer: Answer) -> None:
    answer.head()
    answer.delta(role="assistant", content="")
    for finish_reason in (None, None, "length"):
        answer.token(finish_reason=finish_reason)
    answer.close(3)


@dataclass
class Engine:
    url: str
    ca: Path | None = None
    script: Callable[[Answer], None] = three_tokens
    truths: list[Truth] = field(default_factory=list)
    bodies: list[dict[str, object]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)

    def endpoint(self, token: str = TOKEN, model: str = MODEL) -> Endpoint:
        return Endpoint(self.url, Secret(token), self.ca, model)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    engine: Engine

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        answer = Answer(self, Truth())
        if not self._allowed(answer):
            return
        body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
        answer.head(200, "application/json", transfer_encoding="", content_length=str(len(body)))
        answer.raw(body)

    def do_POST(self) -> None:
        engine = self.server.engine
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        truth = Truth(body["messages"][0]["content"] if "messages" in body else "")
        engine.bodies.append(body)
        engine.connections.add(self.client_address)
        answer = Answer(self, truth)
        if self._allowed(answer):
            engine.truths.append(truth)
            engine.script(answer)

    def _allowed(self, answer: Answer) -> bool:
        if self.headers["authorization"] == f"Bearer {TOKEN}":
            return True
        answer.refuse(401, "The token is missing, expired or not one of this platform's.")
        return False


@contextmanager
def serving(server: _Server) -> Iterator[Engine]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.engine
    server.shutdown()
    server.server_close()
    thread.join(5)


@contextmanager
def engine_serving() -> Iterator[Engine]:
    """An engine on a free port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.engine = Engine(f"http://127.0.0.1:{server.server_address[1]}/v1")
    with serving(server) as engine:
        yield engine


@contextmanager
def tls_engine_serving(folder: Path) -> Iterator[Engine]:
    """An engine that speaks TLS 1.3 only, as the gateway does, with a certificate of its own."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kiva")])
    now, address = datetime.datetime.now(datetime.UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    ca, key_file = folder / "ca.pem", folder / "server.key"
    ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(ca, key_file)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.engine = Engine(f"https://127.0.0.1:{server.server_address[1]}/v1", ca)
    with serving(server) as engine:
        yield engine

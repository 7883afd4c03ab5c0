"""Hostile clients on the connection: old TLS, no TLS, slow ones, many, those that go away; and HTTP/2 frames that no decent client sends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.real

PATIENCE_S = 60.0
"""So long a slow client would go on, far longer than the gateway bears it."""

BODY = b'{"model": "m", "messages": []}'
LENGTH = [("content-type", "application/json"), ("content-length", str(len(BODY)))]


def context_for(gateway):
    return ssl.create_default_context(cafile=str(gateway.layout.certificate))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(untouched, version):
    context = context_for(untouched)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    with socket.create_connection(("127.0.0.1", untouched.port), timeout=5) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname="localhost")


def test_what_is_spoken_is_tls_1_3_with_a_certificate_for_the_name(untouched):
    with untouched.connect() as connection:
        assert connection.sock.version() == "TLSv1.3"
        assert connection.sock.selected_alpn_protocol() == "http/1.1"
    with socket.create_connection(("127.0.0.1", untouched.port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
        context_for(untouched).wrap_socket(plain, server_hostname="evil.example")


@pytest.mark.parametrize(
    "data", [b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 1000, b"\x16\x03\x01\xff\xff" + b"x" * 1000]
)
def test_what_is_no_tls_is_cut_without_an_answer(untouched, data):
    with untouched.connect(tls=False, timeout_s=5) as connection:
        connection.send(data)
        assert connection.sock.recv(65536)[:1] in {b"", b"\x15"}, "a TLS alert at most"


def test_an_unknown_protocol_is_not_agreed_on(untouched):
    with untouched.connect(protocols=("spdy/3",)) as connection:
        assert connection.sock.selected_alpn_protocol() is None


def dripped(connection, pieces, every_s, patience_s):
    """Send a piece at a time until the gateway or the patience has an end: (seconds, the answer or None)."""
    began_s = time.monotonic()
    connection.sock.settimeout(every_s)
    for piece in pieces:
        if time.monotonic() - began_s > patience_s:
            return patience_s, None
        try:
            connection.send(piece)
            if connection._more():
                break
            return time.monotonic() - began_s, None
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - began_s, None
    connection.sock.settimeout(PATIENCE_S)
    return time.monotonic() - began_s, connection.answer()


def slow_handshake(gateway):
    began_s = time.monotonic()
    with gateway.connect(tls=False, timeout_s=PATIENCE_S) as connection:
        connection.send(b"\x16\x03\x01")
        assert connection.closed()
    return time.monotonic() - began_s, None


def slow_head(gateway):
    with gateway.connect() as connection:
        connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        return dripped(connection, (b"x-slow: y\r\n" for _ in range(10_000)), 0.2, PATIENCE_S)


def slow_body(gateway, tenant):
    with gateway.connect() as connection:
        connection.send(gateway.head(headers=[("content-type", "application/json"), ("content-length", "1000")], tenant=tenant))
        return dripped(connection, (b" " for _ in range(1000)), 0.2, PATIENCE_S)


def stalled_body(gateway):
    with gateway.connect() as connection:
        connection.send(gateway.head(headers=[("content-type", "application/json"), ("content-length", "1000")]) + b"{")
        return dripped(connection, iter([b'"model"', *[b""] * 12]), 5, PATIENCE_S)


@pytest.fixture(scope="module", autouse=True)
def slow(gateway):
    """Slow clients, all at once and beside the other tests: by kind, what came of them (seconds and answer)."""
    kinds = {
        "handshake": lambda: slow_handshake(gateway),
        "head": lambda: slow_head(gateway),
        "body": lambda: slow_body(gateway, "police"),
        "body without a token": lambda: slow_body(gateway, None),
        "stalled body": lambda: stalled_body(gateway),
    }
    with ThreadPoolExecutor(20 * len(kinds)) as pool:
        yield {kind: [pool.submit(run) for _ in range(20)] for kind, run in kinds.items()}


def is_open(connection):
    """Whether the gateway bears a client that has not said all it has to say."""
    connection.sock.setblocking(False)
    try:
        return bool(connection.sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def served_beside_slow_clients(gateway):
    """Whether somebody is served; None when all of the slow ones were gone until then, so that nothing is known."""
    with contextlib.ExitStack() as stack:
        handshakes = [stack.enter_context(gateway.connect(tls=False)) for _ in range(100)]
        for connection in handshakes:
            connection.send(b"\x16\x03\x01")
        served = gateway.serves()
        return served if any(map(is_open, handshakes)) else None


def test_slow_clients_keep_nobody_waiting(unharmed):
    assert unharmed.until(lambda: served_beside_slow_clients(unharmed))


def test_a_slow_reader_does_no_harm(unharmed):
    body = b'{"model": "m", "messages": [], "stand_in": {"do": "stream", "events": 20000}}'
    with unharmed.connect() as connection:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send(unharmed.head(headers=[("content-type", "application/json"), ("content-length", str(len(body)))]) + body)
        assert connection.head()[0] == "HTTP/1.1 200 OK"
        time.sleep(0.3)
        assert unharmed.serves()


def test_many_idle_connections_keep_nobody_out(unharmed):
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(unharmed.connect(tls=False))
        for _ in range(100):
            stack.enter_context(unharmed.connect())
        assert unharmed.serves()


@pytest.mark.parametrize("sent", [b"", b"POST", b"POST /v1/chat/completions HTTP/1.1\r\n", "head", "half"])
def test_clients_that_go_away_do_no_harm(unharmed, sent):
    head = unharmed.head(headers=LENGTH)
    data = {"head": head, "half": head + BODY[:10]}.get(sent, sent)
    before = len(unharmed.received)
    for linger in (None, struct.pack("ii", 1, 0)):
        for _ in range(10):
            with unharmed.connect() as connection:
                connection.send(data)
                if linger:
                    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert unharmed.received[before:] == []


def test_a_client_that_goes_away_while_it_is_answered_is_logged_as_that(unharmed):
    body = b'{"model": "m", "messages": [], "stand_in": {"do": "stream", "events": 100, "gap_s": 0.05}}'
    with unharmed.connect() as connection:
        connection.send(unharmed.head(headers=[("content-type", "application/json"), ("content-length", str(len(body)))]) + body)
        head = connection.head()
    request_id = next(line.partition(": ")[2] for line in head if line.startswith("x-request-id"))
    record = unharmed.logged(request_id)
    assert (record["flags"], record["tenant"], record["status"]) == ("DC", "police", 200)


def test_connections_above_the_limit_are_refused_and_the_others_served(fresh_gateway):
    gateway = fresh_gateway(connections=20)
    with contextlib.ExitStack() as stack, gateway.connect() as kept:
        for _ in range(60):
            stack.enter_context(gateway.connect(tls=False))
        kept.send(gateway.head(headers=LENGTH) + BODY)
        assert kept.answer().status == 200
        with pytest.raises(OSError):
            gateway.connect(timeout_s=2)

    def serves():
        with contextlib.suppress(OSError):
            return gateway.serves()

    gateway.until(serves)


@pytest.mark.parametrize(("kind", "status"), [("handshake", None), ("head", 408), ("body", 408), ("body without a token", 401), ("stalled body", 408)])
def test_a_slow_client_is_cut_by_the_gateway(slow, untouched, kind, status):
    for run in slow[kind]:
        seconds, answer = run.result()
        assert seconds < PATIENCE_S, "it would have gone on for longer"
        if answer is None:
            assert status is None or kind.endswith("body"), "an answer to a client that still sends may be lost with the connection"
        else:
            answer.refuses(status, identified=kind != "head")

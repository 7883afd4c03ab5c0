"""Hostile clients that speak HTTP/2: what would be another request once it is written down as HTTP/1.1 for the engine, and what costs more than it should."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

pytestmark = pytest.mark.real

BODY = b'{"model": "m", "messages": []}'


class Client:
    """An HTTP/2 client that checks nothing of what it sends."""

    def __init__(self, gateway) -> None:
        self.gateway, self.wire = gateway, gateway.connect(protocols=("h2",))
        assert self.wire.sock.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.sock.close()

    def flush(self):
        self.wire.send(self.connection.data_to_send())

    def request(self, headers=(), body=BODY, *, instead=None, end=True):
        """Send a good request with these headers more, or with others instead; returns the stream's number."""
        token = self.gateway.token()
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/v1/chat/completions")]
        common = [*pseudo, ("authorization", f"Bearer {token}"), ("content-type", "application/json")]
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, [*(instead(common) if instead else common), *headers], end_stream=end and not body)
        if body:
            self.connection.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def outcome(self, stream, patience_s=5):
        """How a stream ends: status and body, `reset`, or `closed` with the whole connection."""
        status, headers, body = None, [], b""
        self.wire.sock.settimeout(patience_s)
        while True:
            try:
                data = self.wire.sock.recv(65536)
            except ConnectionError:
                return "closed", [], b""
            if not data:
                return ("closed", [], b"") if status is None else (status, headers, body)
            for event in self.connection.receive_data(data):
                match event:
                    case h2.events.ResponseReceived(stream_id=number) if number == stream:
                        headers = event.headers
                        status = int(dict(headers)[":status"])
                    case h2.events.DataReceived(stream_id=number) if number == stream:
                        body += event.data
                    case h2.events.StreamEnded(stream_id=number) if number == stream:
                        return status, headers, body
                    case h2.events.StreamReset(stream_id=number) if number == stream:
                        return "reset" if status is None else status, headers, body
                    case h2.events.ConnectionTerminated():
                        return "closed" if status is None else status, headers, body
            self.flush()


def test_a_good_request_is_answered(unharmed):
    with Client(unharmed) as client:
        status, headers, body = client.outcome(client.request())
    assert status == 200
    assert json.loads(body)["model"] == "m"
    assert dict(headers)["x-request-id"]


def without(name):
    return lambda headers: [entry for entry in headers if entry[0] != name]


def with_value(name, value):
    return lambda headers: [(key, value if key == name else old) for key, old in headers]


FORBIDDEN = {
    "connection": [("connection", "keep-alive")],
    "connection nominates": [("connection", "x-kiva-tenant")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "keep-alive": [("keep-alive", "timeout=5")],
    "proxy-connection": [("proxy-connection", "keep-alive")],
    "upgrade": [("upgrade", "websocket")],
    "line break in a value": [("x-a", "b\r\nx-kiva-tenant: tax")],
    "line feed in a value": [("x-a", "b\nx-smuggled: yes")],
    "request in a value": [("x-a", "b\r\n\r\nPOST /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n")],
    "NUL in a value": [("x-a", "b\0c")],
    "line break in a name": [("x-a: b\r\nx-smuggled", "yes")],
    "colon in a name": [("x-a: b", "yes")],
    "space in a name": [("x a", "b")],
    "capitals in a name": [("X-Capital", "b")],
    "empty name": [("", "b")],
    "underscore in a name": [("x_kiva_tenant", "tax")],
    "pseudo-header after the others": [(":path", "/metrics")],
    "unknown pseudo-header": [(":smuggled", "yes")],
    "a response's pseudo-header": [(":status", "200")],
    "length too small": [("content-length", "1")],
    "length too great": [("content-length", "1000")],
    "two lengths": [("content-length", "30"), ("content-length", "0")],
    "no length": [("content-length", "x")],
}


PSEUDO = {
    "no method": without(":method"),
    "no path": without(":path"),
    "no scheme": without(":scheme"),
    "path empty": with_value(":path", ""),
    "path with a space": with_value(":path", "/v1/chat/completions HTTP/1.1"),
    "path with a line break": with_value(":path", "/v1/chat/completions\r\nx-smuggled: yes"),
    "path with a request": with_value(":path", "/v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\nPOST /v1/smuggled"),
    "method with a space": with_value(":method", "POST /v1/smuggled HTTP/1.1\r\nx: y\r\n\r\nPOST"),
    "method with a line break": with_value(":method", "POST\r\n"),
    "authority with a line break": with_value(":authority", "localhost\r\nx-smuggled: yes"),
    "authority with a space": with_value(":authority", "a b"),
    "scheme with a line break": with_value(":scheme", "https\r\nx-smuggled: yes"),
    "scheme with an address": with_value(":scheme", "https://x/?"),
    "two paths": lambda headers: [*headers[:4], (":path", "/metrics"), *headers[4:]],
    "two methods": lambda headers: [*headers[:4], (":method", "GET"), *headers[4:]],
    "two authorities": lambda headers: [*headers[:4], (":authority", "other"), *headers[4:]],
    "dots": with_value(":path", "/v1/../metrics"),
    "internal": with_value(":path", "/metrics"),
    "connect": lambda headers: [(":method", "CONNECT"), (":authority", "localhost:22"), *headers[4:]],
    "connect with a protocol": lambda headers: [(":method", "CONNECT"), (":protocol", "websocket"), *headers[1:]],
}


def attack(gateway, name, headers=(), instead=None):
    with Client(gateway) as client:
        return client.outcome(client.request([*headers, ("x-case", quote(name))], instead=instead))


@pytest.fixture(scope="module")
def attacked(gateway):
    """All attacks at once, for the gateway takes a second to close a connection: by name, the outcome and what the engine got."""
    with ThreadPoolExecutor(32) as pool:
        runs = {name: pool.submit(attack, gateway, name, headers) for name, headers in FORBIDDEN.items()}
        runs |= {name: pool.submit(attack, gateway, name, instead=instead) for name, instead in PSEUDO.items()}
    return {name: (run.result(), [entry for entry in gateway.received if quote(name) in json.dumps(entry)]) for name, run in runs.items()}


@pytest.mark.parametrize("name", [*FORBIDDEN, *PSEUDO])
def test_what_http2_forbids_is_refused(attacked, name):
    (status, _, body), received = attacked[name]
    assert status in {"reset", "closed", 400, 403, 404, 405, 408}, body
    if isinstance(status, int):
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert received == []


def test_nothing_is_smuggled_from_one_protocol_into_the_other(unharmed, attacked):
    assert all(entry["path"] == "/v1/chat/completions" and "x-smuggled" not in dict(entry["headers"]) for entry in unharmed.received)


def test_te_reaches_no_engine(unharmed):
    """HTTP/2 allows `te: trailers` and no more; the gateway passes neither on."""
    for value in ("trailers", "gzip"):
        before = len(unharmed.received)
        with Client(unharmed) as client:
            status, _, _ = client.outcome(client.request([("te", value)]))
        assert status in {200, 400, "reset", "closed"}
        assert all("te" not in dict(entry["headers"]) for entry in unharmed.received[before:])


def test_another_host_than_the_authority_changes_nothing(unharmed):
    before = len(unharmed.received)
    with Client(unharmed) as client:
        status, _, _ = client.outcome(client.request([("host", "evil.example")]))
    assert status in {200, 400, "reset", "closed"}
    assert "evil.example" not in json.dumps(unharmed.received[before:])


def test_a_refusal_over_http2_is_openai_shaped(untouched):
    with Client(untouched) as client:
        status, headers, body = client.outcome(client.request(instead=without("authorization")))
    assert status == 401
    assert dict(headers)["content-type"] == "application/json"
    assert dict(headers)["x-request-id"]
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


def test_a_body_that_never_ends_is_refused(untouched):
    with Client(untouched) as client:
        status, _, body = client.outcome(client.request([("content-length", "10000000")], body=b"{", end=False), patience_s=8)
    assert status in {413, 408}
    assert json.loads(body)["error"]["code"] in {"request_too_large", "request_timeout"}


def test_headers_that_are_too_large_are_refused(untouched):
    with Client(untouched) as client:
        status, _, body = client.outcome(client.request([(f"x-{number}", "x" * 1000) for number in range(60)]))
    assert status in {431, "reset", "closed"}
    if status == 431:
        assert json.loads(body)["error"]["code"] == "headers_too_large"


def test_streams_that_are_opened_and_reset_at_once_do_no_harm(unharmed):
    """The "rapid reset" attack: each stream costs a request and is gone before it counts."""
    before = len(unharmed.received)
    with Client(unharmed) as client:
        try:
            for _ in range(3000):
                client.connection.reset_stream(client.request(body=b"", end=False), h2.errors.ErrorCodes.CANCEL)
            client.flush()
            client.wire.sock.settimeout(2)
            while client.wire.sock.recv(65536):
                pass
        except (OSError, TimeoutError):
            pass
        assert unharmed.serves()
    assert len(unharmed.received) == before + 1


@pytest.mark.parametrize("frame", ["settings", "ping", "empty data", "window", "priority", "continuation"])
def test_a_flood_of_frames_does_no_harm(unharmed, frame):
    with Client(unharmed) as client:
        stream = client.request(body=b"{", end=False)
        flood = {
            "settings": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            "ping": b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8),
            "empty data": b"\x00\x00\x00\x00\x00" + stream.to_bytes(4, "big"),
            "window": b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
            "priority": b"\x00\x00\x05\x02\x00" + stream.to_bytes(4, "big") + b"\x00\x00\x00\x00\x10",
            "continuation": b"\x00\x00\x00\x09\x00" + stream.to_bytes(4, "big"),
        }[frame]
        client.wire.sock.settimeout(2)
        client.wire.send_what_is_taken(flood * 50_000)
        assert unharmed.serves()

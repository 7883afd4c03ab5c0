from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kivactl.errors import KivaError, NotReadyError, PreconditionError, ToolError, UsageError
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret
from kivactl.tools.http import GatewayClient, fault_for, open_client, refusal_for

ENDPOINT = Endpoint("https://kiva/v1", Secret("hush"), None, "m")


def asked(reply: Callable[[httpx.Request], httpx.Response]) -> GatewayClient:
    return GatewayClient(ENDPOINT, httpx.Client(transport=httpx.MockTransport(reply)))


def events(*chunks: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content="".join(f"data: {chunk}\n\n" for chunk in chunks).encode())


def delta(text: str | None, finish_reason: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}, ensure_ascii=False)


def test_models() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        assert (request.method, str(request.url)) == ("GET", "https://kiva/v1/models")
        assert request.headers["authorization"] == "Bearer hush"
        return httpx.Response(200, json={"object": "list", "data": [{"id": "m"}, {"id": "n"}, 3]})

    assert asked(reply).models() == ["m", "n"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"data": 3}'])
def test_what_is_no_list_of_models(body: bytes) -> None:
    with pytest.raises(ToolError, match="OpenAI-compatible"):
        asked(lambda request: httpx.Response(200, content=body)).models()


def test_chat_streams_what_is_said() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5}
        # U+2028 ends a line for str.splitlines, not for events.
        wire = f": ping\n\ndata: {delta('')}\r\n\r\ndata: {delta('Ber')}\n\ndata: {delta('lin' + chr(0x2028), 'stop')}\n\ndata: [DONE]\n\n"
        return httpx.Response(200, content=wire.encode())

    assert list(asked(reply).chat("hi", max_tokens=5)) == ["Ber", "lin\u2028"]


@pytest.mark.parametrize("chunk", [f"data: {delta('a')}\n\n", ": ping\n\n"])
def test_an_answer_without_end_is_given_up(chunk: str) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield chunk.encode()

    client = asked(lambda request: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=endless()))
    with pytest.raises(NotReadyError, match=r"https://kiva/v1 did not end its answer within 0\.05 s"):
        list(client.chat("hi", within_s=0.05))


def test_a_page_is_no_stream_of_events() -> None:
    client = asked(lambda request: httpx.Response(200, html="<p>It works!</p>"))
    with pytest.raises(ToolError, match=r"answers with no stream of events \(content-type 'text/html"):
        list(client.chat("hi"))


def test_chat_in_one_piece() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["stream"] is False
        return httpx.Response(200, json={"choices": [{"message": {"content": "Berlin"}}]})

    assert list(asked(reply).chat("hi", stream=False)) == ["Berlin"]
    assert list(asked(lambda request: httpx.Response(200, json={"choices": []})).chat("hi", stream=False)) == []


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ((delta("a"), '{"error": {"message": "engine dead."}}'), "engine dead"),
        ((delta("a"), "{oops"), "oops"),
        ((delta("a"),), "broke off its answer"),
    ],
)
def test_an_answer_that_breaks_off(chunks: tuple[str, ...], said: str) -> None:
    answer = asked(lambda request: events(*chunks)).chat("hi")
    assert next(answer) == "a"
    with pytest.raises(ToolError, match=said):
        next(answer)


@pytest.mark.parametrize(
    ("status", "error", "kind", "sentence"),
    [
        (401, {"message": "The token is expired."}, PreconditionError, "https://kiva/v1 does not accept the token: The token is expired"),
        (403, {"message": "Not yours."}, PreconditionError, "does not accept the token: Not yours"),
        (404, {"message": "x", "code": "model_not_found"}, UsageError, "serves no model named 'm'"),
        (404, {"message": "The model `m` does not exist."}, UsageError, "serves no model named 'm'"),
        (404, {"message": "no such path"}, UsageError, "is not the address of an OpenAI-compatible endpoint: no such path"),
        (429, {"message": "slow"}, PreconditionError, "has had too many requests from this token; try again in 7 s"),
        (400, {"message": "max_tokens is too large"}, UsageError, "refuses the request with status 400: max_tokens is too large"),
        (503, {"message": "No engine."}, NotReadyError, "no engine of 'm' answers at the moment: No engine"),
        (502, {"message": ""}, NotReadyError, "no engine of 'm' answers"),
        (500, {"message": "boom"}, ToolError, "the engine of 'm' failed with status 500: boom"),
    ],
)
def test_refusals(status: int, error: dict[str, str], kind: type[KivaError], sentence: str) -> None:
    client = asked(lambda request: httpx.Response(status, json={"error": error}, headers={"retry-after": "7"}))
    with pytest.raises(kind) as caught:
        list(client.chat("hi"))
    assert sentence in caught.value.message
    assert "hush" not in caught.value.message
    assert not caught.value.message.endswith(".")


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[1]", b'{"detail": "no"}', b"\xff"])
def test_a_refusal_in_any_form(body: bytes) -> None:
    with pytest.raises(ToolError, match="failed with status 500"):
        asked(lambda request: httpx.Response(500, content=body)).models()


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (httpx.ConnectTimeout("t"), PreconditionError, "cannot be reached within 5 s"),
        (httpx.ReadTimeout("t"), NotReadyError, "did not answer in time"),
        (httpx.RemoteProtocolError("gone"), ToolError, "broke off the connection: gone"),
        (httpx.ReadError("reset"), ToolError, "broke off the connection: reset"),
        (httpx.UnsupportedProtocol("no scheme"), UsageError, "cannot be asked: no scheme"),
    ],
)
def test_faults(error: httpx.TransportError, kind: type[KivaError], sentence: str) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(kind, match=sentence):
        asked(reply).models()


FOREIGN = replace(ENDPOINT, is_foreign=True)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (refusal_for(FOREIGN, 401, b""), "--token-file FILE"),
        (refusal_for(FOREIGN, 404, b'{"error": {"code": "model_not_found"}}'), "--model NAME"),
        (refusal_for(FOREIGN, 404, b""), "--url https://HOST:PORT/v1"),
        (refusal_for(FOREIGN, 503, b""), ""),
        (refusal_for(FOREIGN, 500, b""), ""),
        (fault_for(FOREIGN, httpx.ConnectError("no")), "curl -v https://kiva/v1/models"),
        (fault_for(FOREIGN, httpx.ReadError("no")), ""),
    ],
)
def test_for_an_endpoint_that_is_no_platform_of_a_spec_no_command_of_one_is_suggested(error: KivaError, hint: str) -> None:
    assert error.hint == hint


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", Secret("hush"), None, "m")
        with open_client(endpoint) as client, pytest.raises(PreconditionError, match=r"nothing answers at .*: connection refused"):
            client.models()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server with a certificate of its own, and that certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kiva")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    body = b'{"data": [{"id": "m"}]}'

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            except OSError:
                plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1", certificate_file
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_trusted_certificate(tls_server: tuple[str, Path]) -> None:
    url, ca = tls_server
    with open_client(Endpoint(url, Secret("hush"), ca, "m")) as client:
        assert client.models() == ["m"]


def test_a_certificate_that_is_not_trusted(tls_server: tuple[str, Path]) -> None:
    url, _ = tls_server
    for is_foreign, hint in ((False, "kivactl status"), (True, "--ca FILE")):
        endpoint = Endpoint(url, Secret("hush"), None, "m", is_foreign)
        with open_client(endpoint) as client, pytest.raises(PreconditionError, match="is not vouched for by any authority") as caught:
            client.models()
        assert caught.value.hint == hint


def test_a_certificate_for_another_name(tls_server: tuple[str, Path]) -> None:
    url, ca = tls_server
    endpoint = Endpoint(url.replace("127.0.0.1", "localhost"), Secret("hush"), ca, "m")
    with open_client(endpoint) as client, pytest.raises(PreconditionError, match="is not vouched for by the authority in"):
        client.models()


def test_a_server_that_speaks_no_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        endpoint = Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}/v1", Secret("hush"), None, "m")
        with open_client(endpoint) as client, pytest.raises(PreconditionError, match="does not speak TLS"):
            client.models()
        thread.join(5)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_text(content)
    with pytest.raises(PreconditionError, match="the authority to trust cannot be read"), open_client(Endpoint("https://kiva/v1", Secret("hush"), ca, "m")):
        pass


def test_proxies_of_the_environment_are_not_used(tls_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    url, ca = tls_server
    with open_client(Endpoint(url, Secret("hush"), ca, "m")) as client:
        assert client.models() == ["m"]

"""Every way a stream can go, against the wire: what the client makes of it, and what it does with its connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from stream_asker import Asker

from kivactl.loadtest import client as client_module
from kivactl.loadtest.answer import Order
from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.server import request_for


def ask(engine: Any, script: Callable[[Any], None], *, token: str = "the-right-token", timeout_s: float = 10.0) -> Record:
    engine.script = script
    client = Asker(engine.url, token, timeout_s=timeout_s)
    try:
        return client.ask(0)
    finally:
        client.close()


def test_role_usage_and_comments_are_no_tokens(engine: Any) -> None:
    def script(answer: Any) -> None:
        answer.head()
        answer.delta(role="assistant", content="")
        answer.chunk(b": keep-alive\n\n")
        answer.delta(content="")
        time.sleep(0.05)
        answer.token("Ber")
        answer.token("lin", finish_reason="stop")
        answer.close(completion_tokens=3)

    record = ask(engine, script)
    assert record.succeeded
    assert (len(record.token_ns), record.completion_tokens, record.prompt_tokens, record.finish_reason) == (2, 3, 7, "stop")
    assert record.ttft_s is not None
    assert record.ttft_s >= 0.05  # the role came at once and did not count
    assert record.token_ns[0] >= engine.truths[0].sent_ns[0]


def test_reasoning_and_tool_calls_are_tokens(engine: Any) -> None:
    def script(answer: Any) -> None:
        answer.head()
        answer.delta(reasoning="Hm")
        answer.delta(reasoning_content="Hm")
        answer.delta(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])
        answer.delta("tool_calls")
        answer.close(3)

    record = ask(engine, script)
    assert record.succeeded
    assert len(record.token_ns) == 3


@pytest.mark.parametrize("by_kernel", [True, False])
def test_a_client_that_reads_late_knows_when_tokens_came(engine: Any, monkeypatch: pytest.MonkeyPatch, by_kernel: bool) -> None:
    may_answer, said = threading.Event(), threading.Event()

    def script(answer: Any) -> None:
        assert may_answer.wait(10)
        answer.head()
        answer.token()
        answer.token(finish_reason="stop")
        answer.close(2)
        said.set()

    if not by_kernel:
        monkeypatch.setattr(client_module, "ask_for", lambda _: None)
    engine.script = script
    ended: list[Record] = []
    asker = Asker(engine.url)
    answer = asker.client.send(Order(0, request_for(asker.server, "/v1/chat/completions", "the-right-token", b"{}"), 10.0), lambda _, one: ended.append(one))
    asker.client.run(lambda: answer.sent_ns is not None)
    may_answer.set()
    assert said.wait(10)
    resumed_ns = time.perf_counter_ns()
    asker.client.run(lambda: bool(ended))
    asker.close()
    (record,) = ended
    assert record.succeeded
    assert record.by_kernel is by_kernel is asker.client.by_kernel
    assert (record.token_ns[-1] < resumed_ns) is by_kernel


def test_without_usage_token_events_are_counted(engine: Any) -> None:
    def script(answer: Any) -> None:
        answer.head()
        answer.token()
        answer.token(finish_reason="length")
        answer.close()

    record = ask(engine, script)
    assert record.succeeded
    assert (record.completion_tokens, record.tokens) == (None, 2)


def _error_in_stream(answer: Any) -> None:
    answer.head()
    answer.token()
    answer.event(error={"message": "the engine is dead", "type": "InternalServerError", "code": 500})
    answer.close()


def _truncated(answer: Any) -> None:
    answer.head()
    answer.token()
    answer.raw(b"40\r\ndata: {")
    answer.hang_up()


def _between_chunks(answer: Any) -> None:
    answer.head()
    answer.token()
    answer.hang_up()


def _short_body(answer: Any) -> None:
    answer.head(transfer_encoding="", content_length="1000")
    answer.raw(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    answer.hang_up()


def _no_finish(answer: Any) -> None:
    answer.head()
    answer.token()
    answer.close(1)


def _half_event(answer: Any) -> None:
    answer.head()
    answer.token()
    answer.chunk(b'data: {"choices": [{"delta": {"cont')
    answer.raw(b"0\r\n\r\n")


def _no_tokens(answer: Any) -> None:
    answer.head()
    answer.delta(role="assistant", content="")
    answer.delta("stop", content="")
    answer.close(1)


def _aborted(answer: Any) -> None:
    answer.head()
    answer.token(finish_reason="abort")
    answer.close(1)


def _not_json(answer: Any) -> None:
    answer.head()
    answer.token()
    answer.chunk(b"data: {oops\n\n")
    answer.token(finish_reason="length")
    answer.close(2)


def _no_stream(answer: Any) -> None:
    body = b'{"choices": []}'
    answer.head(200, "application/json", transfer_encoding="", content_length=str(len(body)))
    answer.raw(body)


def _silent(answer: Any) -> None:
    answer.head()
    answer.token()
    time.sleep(1.0)


def _no_answer(answer: Any) -> None:
    answer.hang_up()


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (_error_in_stream, FailureKind.ERROR_EVENT, "the engine is dead"),
        (_truncated, FailureKind.TRUNCATED, "inside the answer"),
        (_between_chunks, FailureKind.TRUNCATED, "inside the answer"),
        (_short_body, FailureKind.TRUNCATED, "inside the answer"),
        (_no_finish, FailureKind.NO_FINISH, "without a finish reason"),
        (_half_event, FailureKind.NO_FINISH, "inside an event"),
        (_no_tokens, FailureKind.NO_TOKENS, "no token"),
        (_aborted, FailureKind.ERROR_EVENT, "abort"),
        (_not_json, FailureKind.MALFORMED, "JSON"),
        (_no_stream, FailureKind.MALFORMED, "application/json"),
        (_no_answer, FailureKind.CONNECTION, "the connection ended"),
        (lambda answer: answer.refuse(500, "out of memory"), FailureKind.STATUS, "status 500: out of memory"),
        (lambda answer: answer.refuse(429, "slow down"), FailureKind.STATUS, "status 429: slow down"),
    ],
)
def test_failures(engine: Any, script: Callable[[Any], None], kind: FailureKind, reason: str) -> None:
    record = ask(engine, script)
    assert record.failure is kind
    assert reason in record.reason
    assert not record.is_cut


def test_a_wrong_token_is_a_failure_that_does_not_show_it(engine: Any) -> None:
    record = ask(engine, lambda answer: None, token="a-wrong-token")
    assert (record.failure, record.status) == (FailureKind.STATUS, 401)
    assert "a-wrong-token" not in record.to_json()


def test_silence_is_a_timeout(engine: Any) -> None:
    record = ask(engine, _silent, timeout_s=0.2)
    assert record.failure is FailureKind.TIMEOUT
    assert len(record.token_ns) == 1


def test_no_server_is_a_connection_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        record = Asker(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", "token", timeout_s=5.0).ask(0)
    assert (record.failure, record.sent_ns) == (FailureKind.CONNECTION, None)


def test_a_user_who_gave_up_connecting_connects_anew_when_it_is_possible_again() -> None:
    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(1 << 16):
                    events = b'data: {"choices": [{"delta": {"content": "Berlin"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + events)

    with socket.socket() as listener, ExitStack() as others:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Who comes first fills the queue of those to be accepted; whoever comes then is not even refused.
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        client = Asker(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "token", timeout_s=0.5)
        given_up = [client.ask(index) for index in range(3)]
        assert [(record.failure, record.sent_ns) for record in given_up] == [(FailureKind.TIMEOUT, None)] * 3
        others.close()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            # The kernel repeats its attempts ever more rarely, so one more may fail; it is the user's next that counts.
            assert any(client.ask(3 + attempt).succeeded for attempt in range(60))
        finally:
            client.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_what_is_not_http_is_malformed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        record = Asker(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "token", timeout_s=5.0).ask(0)
        thread.join(5)
    assert record.failure is FailureKind.MALFORMED


def test_a_connection_is_kept_after_success_and_renewed_after_failure(engine: Any) -> None:
    client = Asker(engine.url)
    first, second = client.ask(0), client.ask(1)
    assert len(engine.connections) == 1
    assert first.connect_ns > 0
    assert second.connect_ns == 0
    good, engine.script = engine.script, _truncated
    assert not client.ask(2).succeeded
    engine.script = good
    assert client.ask(3).succeeded
    assert len(engine.connections) == 2
    client.close()


def test_a_connection_that_the_server_closed_is_renewed(engine: Any) -> None:
    def script(answer: Any) -> None:
        answer.head()
        answer.token(finish_reason="length")
        answer.close(1)
        answer.hang_up()  # without having said so

    engine.script = script
    client = Asker(engine.url)
    records = []
    for index in range(3):
        records.append(client.ask(index))
        time.sleep(0.05)
    client.close()
    assert [record.failure for record in records] == [None] * 3
    assert len(engine.connections) == 3


def test_an_announced_close_is_respected(engine: Any) -> None:
    def script(answer: Any) -> None:
        answer.head(connection="close")
        for _ in range(3):
            answer.token()
        answer.token(finish_reason="length")
        answer.close(4)

    engine.script = script
    client = Asker(engine.url)
    assert [client.ask(index).failure for index in range(2)] == [None, None]
    client.close()


def test_an_answer_is_whole_at_done_even_if_the_body_does_not_end(engine: Any) -> None:
    def script(answer: Any) -> None:
        answer.head()
        answer.token(finish_reason="length")
        answer.chunk(b"data: [DONE]\n\n")
        answer.hang_up()

    assert ask(engine, script).succeeded


def test_a_generator_that_comes_late_after_done_is_no_timeout(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_AFTER_DONE_NS", -1_000_000_000)

    def script(answer: Any) -> None:
        answer.head()
        answer.token(finish_reason="length")
        answer.chunk(b"data: [DONE]\n\n")
        answer.hang_up()

    assert ask(engine, script).succeeded


def test_being_ended_leaves_records_that_are_cut(engine: Any) -> None:
    engine.script = _silent
    client, kept = Asker(engine.url), []
    for index in range(2):
        order = Order(index, request_for(client.server, "/v1/chat/completions", "the-right-token", b"{}"), 10.0)
        client.client.send(order, lambda _, record: kept.append(record))
    client.client.run(lambda: client.client.token_events == 2)
    client.close()
    assert [(record.is_cut, record.failure, len(record.token_ns)) for record in kept] == [(True, None, 1)] * 2


def test_tls_with_the_given_authority(tls_engine: Any) -> None:
    client = Asker(tls_engine.url, ca=tls_engine.ca)
    assert [client.ask(index).failure for index in range(3)] == [None, None, None]
    assert len(tls_engine.connections) == 1

    def script(answer: Any) -> None:
        answer.head()
        answer.token()
        answer.hang_up()

    tls_engine.script = script
    assert client.ask(3).failure is FailureKind.TRUNCATED
    client.close()


def test_tls_that_is_not_trusted_is_a_connection_failure(tls_engine: Any) -> None:
    record = Asker(tls_engine.url).ask(0)
    assert record.failure is FailureKind.CONNECTION
    assert "certificate" in record.reason

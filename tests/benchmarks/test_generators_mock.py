"""The mock engine of the generators' benchmark: vLLM's wire format, and a truth file that says what was sent and when."""

from __future__ import annotations

import json
import shutil
import socket
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc, which compiles the mock engine, is not installed"),
]

FAST = {"ttft-us": 20_000, "itl-us": 5_000}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from generators import mock

        return mock.build(tmp_path_factory.mktemp("mock"))


@pytest.fixture
def serving(program, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from generators import mock

    @contextmanager
    def with_options(**options):
        with mock.serving(program, tmp_path, {**FAST, **{key.replace("_", "-"): value for key, value in options.items()}}) as engine:
            yield engine

    return with_options


class Client:
    """Raw HTTP over one connection: what was on the wire, in the pieces in which it came."""

    def __init__(self, engine):
        self.socket = socket.create_connection(("127.0.0.1", engine.port), timeout=10)

    def ask(self, path="/v1/chat/completions", **fields):
        body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "stream": True, **fields}).encode()
        self.socket.sendall(b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body))

    def get(self, path):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        return self.whole()

    def pieces(self):
        """What each read brought, until the answer's or the connection's end."""
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            piece = self.socket.recv(1 << 20)
            if not piece:
                break
            seen += piece
            yield piece

    def events(self):
        return parsed(b"".join(self.pieces()))

    def whole(self):
        """Status and JSON of an answer with a content-length."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += self.socket.recv(1 << 16)
        head, _, body = seen.partition(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < size:
            body += self.socket.recv(1 << 16)
        return int(head.split()[1]), json.loads(body or b"null")


def parsed(answer):
    """The data of the events of a chunked answer; checks that each chunk is one event of the size it says."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"text/event-stream" in head
    found = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            assert rest == b"\r\n"
            return found
        event, rest = rest[: int(size, 16)], rest[int(size, 16) :]
        assert rest.startswith(b"\r\n")
        rest = rest[2:]
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        found.append(event[6:-2].decode())


def chunks(events):
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def deltas(found):
    return [chunk["choices"][0]["delta"] for chunk in found if chunk["choices"]]


def test_events_are_vllms_to_the_byte_unless_they_are_to_say_when_they_were_sent(serving):
    with serving() as engine:
        client = Client(engine)
        client.ask(max_tokens=2)
        found = chunks(client.events())
    assert all(set(chunk) <= {"id", "object", "created", "model", "choices", "usage", "prompt_token_ids"} for chunk in found)


def test_a_stream_is_vllms_and_the_truth_says_when_it_was_sent(serving):
    with serving(stamps=True) as engine:
        client = Client(engine)
        for _ in range(2):
            client.ask(max_tokens=4, stream_options={"include_usage": True})
            found = chunks(client.events())
    assert deltas(found) == [{"role": "assistant", "content": ""}, *[{"content": " the"}] * 4]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found if chunk["choices"]] == [None] * 4 + ["length"]
    assert [chunk["usage"]["completion_tokens"] for chunk in found if "usage" in chunk] == [4]
    assert {chunk["model"] for chunk in found} == {"demo"}
    truth = engine.truth()
    assert [(request.connection, request.tokens, request.how) for request in truth.requests[-2:]] == [(1, 4, "finished")] * 2
    last = truth.requests[-1]
    assert [int(chunk["t_ns"]) for chunk in found if "t_ns" in chunk] == list(last.sent_ns)
    assert last.due_ns[0] == last.arrived_ns + 20_000_000
    assert {after - before for before, after in pairwise(last.due_ns)} == {5_000_000}
    assert all(sent >= due for due, sent in zip(last.due_ns, last.sent_ns, strict=True))
    assert last.accepted_ns <= truth.requests[-2].arrived_ns < truth.requests[-2].sent_ns[-1] <= last.arrived_ns


def test_usage_with_every_event_when_asked(serving):
    with serving(tokens_per_event=3) as engine:
        client = Client(engine)
        client.ask(max_tokens=7, stream_options={"include_usage": True, "continuous_usage_stats": True})
        found = chunks(client.events())
    assert [chunk["usage"]["completion_tokens"] for chunk in found] == [0, 3, 6, 7, 7]
    assert [delta["content"] for delta in deltas(found)] == ["", " the the the", " the the the", " the"]


def test_no_usage_unasked(serving):
    with serving() as engine:
        client = Client(engine)
        client.ask(max_completion_tokens=2)
        found = chunks(client.events())
    assert len(found) == 3
    assert not any("usage" in chunk for chunk in found)


def test_the_old_completions(serving):
    with serving() as engine:
        client = Client(engine)
        client.ask("/v1/completions", prompt="Hello", max_tokens=2)
        found = chunks(client.events())
    assert [chunk["choices"][0]["text"] for chunk in found] == [" the", " the"]
    assert {chunk["object"] for chunk in found} == {"text_completion"}
    assert not engine.truth().requests[0].chat


def test_reasoning_comes_first(serving):
    with serving(reasoning=2, reasoning_field="reasoning_content") as engine:
        client = Client(engine)
        client.ask(max_tokens=3)
        found = deltas(chunks(client.events()))
    assert found[1:] == [{"reasoning_content": " the"}, {"reasoning_content": " the"}, {"content": " the"}]


@pytest.mark.parametrize("role_first", [True, False])
def test_the_role_comes_at_once_or_with_the_first_token(serving, role_first):
    with serving(role_first=role_first) as engine:
        client = Client(engine)
        client.ask(max_tokens=1)
        first, *rest = client.pieces()
    assert (b'"role"' in first, b'" the"' in first) == (role_first, False)
    assert (b'"role"' in b"".join(rest), b'" the"' in b"".join(rest)) == (not role_first, True)


def test_an_event_in_two_segments(serving):
    with serving(split_us=3_000, stamps=True) as engine:
        client = Client(engine)
        client.ask(max_tokens=3)
        pieces = list(client.pieces())
    assert sum(piece.endswith(b'"t_ns":"') for piece in pieces) == 3
    found = chunks(parsed(b"".join(pieces)))
    last = engine.truth().requests[-1]
    assert [int(chunk["t_ns"]) for chunk in found if "t_ns" in chunk] == list(last.sent_ns)
    assert [due - last.arrived_ns for due in last.due_ns] == [23_000_000, 28_000_000, 33_000_000]


def test_whole_answers(serving):
    with serving() as engine:
        client = Client(engine)
        client.ask(max_tokens=3, stream=False)
        status, answer = client.whole()
    assert (status, answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]) == (200, " the the the", 3)
    (request,) = engine.truth().requests
    assert request.due_ns == (request.arrived_ns + 30_000_000,)


def test_other_paths(serving):
    with serving() as engine:
        client = Client(engine)
        assert client.get("/v1/models")[1]["data"][0]["id"] == "demo"
        assert client.get("/health") == (200, None)
        assert client.get("/metrics")[0] == 404
    assert engine.truth().requests == ()


def test_a_prompt_of_many_tokens(serving):
    with serving() as engine:
        client = Client(engine)
        client.ask(messages=[{"role": "user", "content": 'word "max_tokens": 9 ' * 20_000}], max_tokens=2)
        assert len(chunks(client.events())) == 3
    assert engine.truth().requests[0].bytes > 400_000


FAULTS = {
    "error": lambda events: "EngineCore" in json.loads(events[-2])["error"]["message"] and events[-1] == "[DONE]",
    "garbage": lambda events: events[-1] == "[DONE]" and any(not event.endswith(("}", "]")) for event in events),
    "unfinished": lambda events: json.loads(events[-1])["choices"][0]["finish_reason"] is None,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_inside_a_stream(serving, kind):
    with serving(fault=f"{kind}:100") as engine:
        client = Client(engine)
        client.ask(max_tokens=4)
        assert FAULTS[kind](client.events())
    (request,) = engine.truth().requests
    assert (request.fault, request.how, len(request.sent_ns)) == (kind, "fault", 4 if kind == "garbage" else 2)


def test_truncated_refused_silent(serving):
    with serving(fault="truncated:100") as engine:
        client = Client(engine)
        client.ask(max_tokens=4)
        assert not b"".join(client.pieces()).endswith(b"0\r\n\r\n")
    with serving(fault="refused:100") as engine:
        client = Client(engine)
        client.ask(max_tokens=4)
        assert client.whole()[0] == 503
    with serving(fault="silent:100") as engine:
        client = Client(engine)
        client.socket.settimeout(0.3)
        client.ask(max_tokens=4)
        with pytest.raises(TimeoutError):
            client.events()
    assert len(engine.truth().requests[0].sent_ns) == 2


def test_so_many_requests_are_faulty_and_always_the_same(serving):
    with serving(fault=["refused:10", "error:20"]) as engine:
        client = Client(engine)
        for _ in range(20):
            client.ask(max_tokens=1, stream=False)
            client.whole()
    kinds = [request.fault for request in engine.truth().requests]
    assert [number for number, kind in enumerate(kinds) if kind == "refused"] == [6, 16]
    assert [number for number, kind in enumerate(kinds) if kind == "error"] == [5, 10, 15]


def test_beyond_the_capacity_requests_wait_in_order(serving):
    with serving(capacity=2, tokens=60) as engine:
        clients = [Client(engine) for _ in range(5)]
        for client in clients:
            client.ask()
        for client in clients:
            client.events()
    requests = engine.truth().requests
    served = (20 + 59 * 5) * 1_000_000
    assert [request.due_ns[-1] - request.arrived_ns for request in requests[:2]] == [served] * 2
    # The third is served from the moment when the first is over, whenever it came; the fifth when the third is.
    assert [requests[later].due_ns[-1] - requests[earlier].due_ns[-1] for earlier, later in ((0, 2), (1, 3), (2, 4))] == [served] * 3


def test_a_freeze_puts_every_schedule_off(serving):
    with serving(freeze="0.05:0.3", tokens=150) as engine:
        clients = [Client(engine) for _ in range(11)]
        for client in clients[:-1]:
            client.ask()
        time.sleep(0.1)  # the engine's own time: within the freeze another request comes
        clients[-1].ask()
        for client in clients:
            assert len(chunks(client.events())) == 151
    requests = engine.truth().requests
    frozen_ns = requests[9].arrived_ns + 50_000_000
    for request in requests[:10]:
        assert all(due < frozen_ns or due >= frozen_ns + 300_000_000 for due in request.due_ns)
        assert sorted(after - before for before, after in pairwise(request.due_ns))[-2:] == [5_000_000, 305_000_000]
    if frozen_ns <= requests[10].arrived_ns < frozen_ns + 300_000_000:
        assert requests[10].due_ns[0] == frozen_ns + 300_000_000 + 20_000_000


def test_spread_streams_begin_at_different_moments(serving):
    with serving(spread_us=10_000, tokens=1) as engine:
        client = Client(engine)
        for _ in range(8):
            client.ask()
            client.events()
    late = [(request.due_ns[0] - request.arrived_ns - 20_000_000) / 10_000_000 for request in engine.truth().requests]
    assert all(0 <= one < 1 for one in late)
    assert min(after - before for before, after in pairwise(sorted(late))) > 0.05

"""Counting: a record for each request, from the answer's usage or the engine's books, and answers that pass untouched."""

import asyncio
import json
import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.usage.count import Counts, CountUsage, Record, parse_usage

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 11, "total_tokens": 18, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
COUNTED = (11, 4, 7)


def text_of(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(value):
    return b"data: " + text_of(value) + b"\n\n"


class Processor:
    """As much of vLLM's output processor as is read."""

    def __init__(self):
        self.request_states = {}

    def add_request(self, request, prompt, parent_req=None, request_index=0, queue=None):
        self.request_states[request.request_id] = request.state
        request.state.parent_req = parent_req


def sub_request(name, *, prompt=10, cached=0, made=0, prefilling=False, pooling=False):
    detokenizer = None if pooling else SimpleNamespace(made=made, num_output_tokens=lambda: detokenizer.made)
    state = SimpleNamespace(prompt_len=prompt, num_cached_tokens=cached, is_prefilling=prefilling, detokenizer=detokenizer, parent_req=None)
    return SimpleNamespace(request_id=name, state=state)


@pytest.fixture
def served(tmp_path, monkeypatch):
    log = tmp_path / "usage.jsonl"
    monkeypatch.setenv("KIVA_USAGE_LOG", str(log))
    monkeypatch.setenv("KIVA_REPLICA", "tiny-0")
    monkeypatch.setenv("KIVA_MODEL", "tiny")

    def serve(inner, *, path=CHAT, processor=None, receives=(), headers=((b"x-request-id", b"r1"),), method="POST"):
        """What the client gets and what was written down."""
        sent, waiting = [], list(receives)
        processor = processor or Processor()
        client = SimpleNamespace(output_processor=processor) if processor != "elsewhere" else SimpleNamespace()

        async def receive():
            return waiting.pop(0)

        async def send(message):
            sent.append(message)

        async def go():
            app = CountUsage(inner)
            scope = {
                "type": "http",
                "method": method,
                "path": path,
                "headers": list(headers),
                "app": SimpleNamespace(state=SimpleNamespace(engine_client=client)),
            }
            try:
                await app(scope, receive, send)
            finally:
                await asyncio.gather(*app._settling)

        asyncio.run(go())
        return sent, [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return serve


def answering(chunks, *, status=200, adds=(), processor=None, parent=None):
    async def inner(scope, receive, send):
        for request in adds:
            # vLLM serves in tasks of its own; they inherit whose request it is
            await asyncio.create_task(add(processor, request, parent))
        await send({"type": "http.response.start", "status": status, "headers": []})
        for request in adds:
            processor.request_states.pop(request.request_id, None)
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return inner


async def add(processor, request, parent):
    processor.add_request(request, "text", parent)


def numbers(record):
    return record["prompt_tokens"], record["cached_tokens"], record["completion_tokens"]


def test_a_plain_answer(served):
    body = text_of({"choices": [{"message": {"content": 'x"usage":{"prompt_tokens":9}'}}], "usage": USAGE, "metrics": None})
    sent, (record,) = served(answering([body]))
    assert record.pop("at").endswith("Z")
    origin = {"request_id": "r1", "replica": "tiny-0", "model": "tiny"}
    assert record == origin | {"prompt_tokens": 11, "cached_tokens": 4, "completion_tokens": 7, "finished": True}
    assert [message.get("body") for message in sent] == [None, body, b""]


@given(texts=st.lists(st.text() | st.just('","usage":{"prompt_tokens":1},'), max_size=5), places=st.lists(st.integers(0, 10_000), max_size=6))
def test_streams_pass_untouched_however_they_are_split(served, texts, places):
    stream = b"".join([*(event({"choices": [{"delta": {"content": text}}]}) for text in texts), event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"])
    cuts = sorted(place % len(stream) for place in places)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    processor, request = Processor(), sub_request("chatcmpl-r1", prompt=11, cached=4, made=7)
    sent, (*_, record) = served(answering(pieces, adds=[request], processor=processor), processor=processor)
    assert [message["body"] for message in sent[1:]] == [*pieces, b""]
    assert (*numbers(record), record["finished"]) == (*COUNTED, True)


def test_a_stream_whose_client_did_not_ask(served):
    processor = Processor()
    requests = [sub_request("cmpl-r1-0", prompt=11, cached=4, made=7), sub_request("cmpl-r1-1", prompt=5, made=2)]
    _, (record,) = served(answering([event({"choices": [{}]}), b"data: [DONE]\n\n"], adds=requests, processor=processor), processor=processor)
    assert (*numbers(record), record["finished"]) == (16, 4, 9, True)


def test_several_samples_share_their_prompt(served):
    processor, parent = Processor(), object()
    samples = [sub_request(f"{n}_r1", prompt=11, cached=4, made=n) for n in range(3)]
    _, (record,) = served(answering([b"data: [DONE]\n\n"], adds=samples, processor=processor, parent=parent), processor=processor)
    assert numbers(record) == (11, 4, 3)


@pytest.mark.parametrize(("prefilling", "expected"), [(False, (10, 0, 6)), (True, (0, 0, 6))])
def test_a_client_that_leaves_is_counted_when_the_engine_lets_go(served, prefilling, expected):
    processor, request = Processor(), sub_request("r", made=4, prefilling=prefilling)

    async def inner(scope, receive, send):
        processor.add_request(request, "text")
        assert (await receive())["type"] == "http.disconnect"

        async def abort():
            await asyncio.sleep(0)
            request.state.detokenizer.made = 6  # came in before the engine let go
            del processor.request_states["r"]

        inner.abort = asyncio.create_task(abort())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"null", "more_body": False})

    _, (record,) = served(inner, processor=processor, receives=[{"type": "http.disconnect"}])
    assert (*numbers(record), record["finished"]) == (*expected, False)


def test_an_engine_that_dies_in_the_middle(served, tmp_path):
    processor, request = Processor(), sub_request("r", made=4)

    async def inner(scope, receive, send):
        processor.add_request(request, "text")
        del processor.request_states["r"]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        served(inner, processor=processor)
    (record,) = [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    assert (*numbers(record), record["finished"]) == (10, 0, 4, False)


@pytest.mark.parametrize("chunks", [[b'data: {"error":{"message":"x"}}\n\n', b"data: [DONE]\n\n"]])
def test_an_error_in_a_stream_is_no_end(served, chunks):
    assert served(answering(chunks))[1][0]["finished"] is False


@pytest.mark.parametrize(("status", "finished"), [(400, True), (500, False)])
def test_errors_cost_nothing(served, status, finished):
    _, (record,) = served(answering([b'{"error":{}}'], status=status))
    assert (*numbers(record), record["finished"]) == (0, 0, 0, finished)


def test_an_engine_whose_books_are_elsewhere(served):
    _, (record,) = served(answering([event({"choices": [{}]}), event({"choices": [{}]})]), processor="elsewhere")
    assert (*numbers(record), record["finished"]) == (0, 0, 2, False)
    _, (_, record) = served(answering([text_of({"usage": USAGE})]), processor="elsewhere")
    assert (*numbers(record), record["finished"]) == (*COUNTED, True)


def test_books_of_another_form(served):
    processor, request = Processor(), sub_request("r", made=4)
    del request.state.prompt_len
    _, (record,) = served(answering([b"data: a\n\n"], adds=[request], processor=processor), processor=processor)
    assert (*numbers(record), record["finished"]) == (0, 0, 1, False)


def test_embeddings_by_their_states(served):
    processor = Processor()
    requests = [sub_request(f"embd-{n}", prompt=3, pooling=True) for n in range(4)]
    _, (record,) = served(answering([b"\x00\x01"], adds=requests, processor=processor), path="/v1/embeddings", processor=processor)
    assert numbers(record) == (12, 0, 0)


def test_a_request_gets_an_id_where_no_gateway_gave_one(served):
    seen = []

    async def inner(scope, receive, send):
        seen.extend(scope["headers"])

    (record,) = served(inner, headers=())[1]
    assert seen == [(b"x-request-id", record["request_id"].encode())]


def test_what_does_not_compute_leaves_no_record(served):
    assert served(answering([b"{}"]), path="/tokenize")[1] == []
    assert served(answering([b"{}"]), method="GET")[1] == []


@pytest.mark.parametrize(
    ("path", "tail", "expected"),
    [
        (CHAT, text_of({"usage": USAGE}), COUNTED),
        (CHAT, event({"choices": [{}], "usage": {**USAGE, "completion_tokens": 1}}) + event({"choices": [], "usage": USAGE}), COUNTED),
        (CHAT, b'{"usage":{"prompt_tokens":1', None),
        (CHAT, b'{"usage":{}}', None),
        (CHAT, b'{"usage":{"prompt_tokens":null}}', None),
        (CHAT, b'{"usage":null}', None),
        (
            "/v1/embeddings",
            text_of({"data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": None}}),
            (9, 0, 0),
        ),
        ("/v1/rerank", text_of({"usage": {"prompt_tokens": 9, "total_tokens": 9}, "results": [{"document": {"usage": USAGE}}]}), (9, 0, 0)),
        ("/v1/rerank", b"[1]", None),
        (
            "/v1/responses",
            text_of(
                {"tools": [{"parameters": {"usage": USAGE}}], "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2}}
            ),
            (1, 0, 2),
        ),
        ("/v1/responses", text_of({"status": "queued", "usage": None, "tools": [{"usage": USAGE}]}), None),
        (
            "/v1/responses",
            b"event: response.output_text.done\ndata: {}\n\nevent: response.completed\n"
            + event({"response": {"usage": {"input_tokens": 1, "output_tokens": 2}, "tools": [{"usage": USAGE}]}}),
            (1, 0, 2),
        ),
        ("/v1/responses", b"event: response.completed\ndata: {\n\n", None),
        ("/v1/messages", text_of({"usage": {"input_tokens": 1, "output_tokens": 1}}), None),
    ],
)
def test_usage_in_an_answer(path, tail, expected):
    assert parse_usage(path, tail) == (Counts(*expected) if expected else None)


@given(st.binary())
def test_no_answer_is_too_strange(tail):
    for path in (CHAT, "/v1/responses", "/v1/rerank"):
        assert parse_usage(path, b'{"usage":{' + tail) is None or b"_tokens" in tail


def test_records_survive_a_missing_folder_and_a_renamed_file(tmp_path, caplog):
    folder = tmp_path / "usage"
    record = Record(str(folder / "a.jsonl"))
    record.append({"n": 1})
    assert "1 usage records wait" in caplog.text
    folder.mkdir()
    record.append({"n": 2})
    assert (folder / "a.jsonl").read_text() == '{"n":1}\n{"n":2}\n'
    assert (folder / "a.jsonl").stat().st_mode & 0o777 == 0o600
    (folder / "a.jsonl").rename(folder / "b.jsonl")
    record.append({"n": 3})
    assert (folder / "a.jsonl").read_text() == '{"n":3}\n'


def test_a_full_disk_tears_no_line_apart(tmp_path, monkeypatch):
    path = tmp_path / "a"
    record = Record(str(path))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:3]))
    record.append({"n": 1})
    monkeypatch.undo()
    record.append({"n": 2})
    assert path.read_text() == '{"n\n{"n":1}\n{"n":2}\n'

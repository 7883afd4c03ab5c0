"""What an answer's bytes say: learning what stands around a word changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.answer import Answer, Order, Progress
from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.sse import created_span, parse_chunk, text_of, word_span

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = st.sampled_from(["", " the", "\n", 'say "yes"', "back\\slash\\", "Straße", '"},"logprobs":null', "data: x", "\u2028", "{", "x" * 400])
FIELDS = st.sampled_from(["content", "content", "content", "reasoning", "reasoning_content"])


def event(**fields: Any) -> bytes:
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m", **fields}
    return json.dumps(whole, separators=(",", ":")).encode()


def word(text: str, field: str = "content", **more: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {field: text}, "logprobs": None, "finish_reason": None}], **more)


def chunk(data: bytes) -> bytes:
    body = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(body), body)


def finish(tokens: int) -> list[bytes]:
    last = event(choices=[{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}])
    return [last, event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": tokens}), b"[DONE]"]


def answer_to(parts: list[bytes], **order: Any) -> Record:
    answer = Answer(Order(0, b"", 10.0, **order), 0)
    answer.sent_ns = 0
    for stamp_ns, part in enumerate(parts):
        if answer.feed(part, stamp_ns) is Progress.ENDED:
            return answer.record(stamp_ns)
    answer.connection_ended(len(parts))
    return answer.record(len(parts))


@given(st.lists(st.tuples(WORDS, FIELDS, st.sampled_from([1_796_000_000, 1_796_000_001, 17, 0, "0179600000", None])), max_size=30))
def test_each_event_alone_is_seen_as_if_it_were_parsed(words: list[tuple[str, str, Any]]) -> None:
    events = [word(text, field, created=created) for text, field, created in words]
    parts = [HEAD, *(chunk(data) for data in events), *(chunk(data) for data in finish(len(events))), b"0\r\n\r\n"]
    record = answer_to(parts)
    assert list(record.token_ns) == [number for number, data in enumerate(events, 1) if parse_chunk(data).has_tokens]
    outputs = [number for number, data in enumerate(events, 1) if parse_chunk(data).is_output]
    assert record.first_output_ns == (outputs[0] if outputs else record.token_ns[0] if record.token_ns else None)
    assert record.failure is (None if record.token_ns else FailureKind.NO_TOKENS)


@given(st.lists(WORDS, min_size=1, max_size=20), st.data())
def test_any_split_of_the_bytes_counts_the_same_tokens(words: list[str], data: st.DataObject) -> None:
    wire = b"".join([HEAD, *(chunk(word(text)) for text in words), *(chunk(part) for part in finish(len(words))), b"0\r\n\r\n"])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    parts = [wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True) if end > begin]
    record = answer_to(parts)
    assert len(record.token_ns) == sum(bool(text) for text in words)
    assert list(record.token_ns) == sorted(record.token_ns)
    assert (record.completion_tokens, record.prompt_tokens, record.finish_reason) == (len(words), 3, "length")


def test_an_engine_that_says_when_each_event_was_made_costs_no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr("kivactl.loadtest.answer.parse_chunk", lambda data: parsed.append(data) or parse_chunk(data))
    events = [word(str(number), created=1_796_000_000 + number // 2) for number in range(20)]
    record = answer_to([HEAD, *map(chunk, events), *(chunk(part) for part in finish(20)), b"0\r\n\r\n"])
    assert len(record.token_ns) == 20
    assert parsed == [events[0], *finish(20)]


@pytest.mark.parametrize(
    ("data", "span"),
    [
        (b'{"created":17,"x":1}', (11, 13)),
        (b'{"created": 17}', (12, 14)),
        (b'{"created":0}', None),
        (b'{"created":null}', None),
        (b'{"created":1,"created":2}', None),
        (b'{"x":"                   ","created":1}', None),  # behind the end that is asked for
    ],
)
def test_where_the_moment_of_an_event_stands(data: bytes, span: tuple[int, int] | None) -> None:
    assert created_span(data, 25) == span


@given(st.text(max_size=20), FIELDS, st.booleans())
def test_what_is_learned_is_the_word_and_nothing_else(text: str, field: str, is_spaced: bool) -> None:
    data = json.dumps(
        {"choices": [{"index": 0, "delta": {"role": "assistant", field: text}, "finish_reason": None}]}, separators=None if is_spaced else (",", ":")
    ).encode()
    span = word_span(data)
    assert (span is None) == (not text)
    if span is not None:
        assert json.loads(b'"' + data[slice(*span)] + b'"') == text


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}',
        b'{"choices":[{"delta":{"content":"a","tool_calls":[1]}}]}',
        b'{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}',
        b'{"choices":[{"delta":{"x":{"content":"a"}}}]}',
        b'{"choices":[],"content":"a"}',
        b'{"choices":[{"text":"a"}]}',
        b"[]",
        b"{",
    ],
)
def test_nothing_is_learned_where_it_is_not_sure(data: bytes) -> None:
    assert word_span(data) is None


def test_a_word_that_looks_like_an_error_is_a_word() -> None:
    text = '"error": {"message": "no"}, "finish_reason": "abort"'
    record = answer_to([HEAD, *(chunk(word(part)) for part in ("a", "b", text, "c")), *(chunk(part) for part in finish(4)), b"0\r\n\r\n"])
    assert record.failure is None
    assert len(record.token_ns) == 4


def test_an_error_between_words_is_seen() -> None:
    error = event(error={"message": "the engine is dead"})
    record = answer_to([HEAD, chunk(word("a")), chunk(word("b")), chunk(error), chunk(word("c")), *(chunk(part) for part in finish(3)), b"0\r\n\r\n"])
    assert (record.failure, record.reason) == (FailureKind.ERROR_EVENT, "the engine is dead")


def test_an_engine_that_counts_with_each_event_says_how_many_tokens_it_brought() -> None:
    events = [word("a", usage={"completion_tokens": 4}), word("b", usage={"completion_tokens": 6}), word("c", usage={"completion_tokens": 7})]
    record = answer_to([HEAD, *map(chunk, events), *(chunk(part) for part in finish(7)), b"0\r\n\r\n"])
    assert record.token_counts == (4, 2, 1)
    assert record.itls_s == pytest.approx((0.5e-9, 0.5e-9, 1e-9))
    assert record.tpot_s == pytest.approx(2e-9 / 3)


def test_an_answer_in_one_piece_has_an_end_and_no_first_token() -> None:
    body = json.dumps(
        {"choices": [{"message": {"content": "Berlin"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2, "prompt_tokens": 5}}
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    record = answer_to([head, body[:10], body[10:]], is_streamed=False)
    assert record.succeeded
    assert (record.completion_tokens, record.prompt_tokens, record.token_ns) == (2, 5, (2,))
    assert (record.ttft_s, record.tpot_s, record.e2e_s) == (None, None, pytest.approx(2e-9))


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"{}", FailureKind.NO_FINISH), (b"oops", FailureKind.MALFORMED), (b'{"error": "dead"}', FailureKind.ERROR_EVENT)],
)
def test_an_answer_in_one_piece_that_is_none(body: bytes, kind: FailureKind) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert answer_to([head + body], is_streamed=False).failure is kind


def test_a_text_is_kept_for_the_next_turn() -> None:
    answer = Answer(Order(0, b"", 10.0, keeps_text=True), 0)
    for part in [HEAD, *(chunk(word(text)) for text in ("Ber", 'l"i', "n")), *(chunk(part) for part in finish(3)), b"0\r\n\r\n"]:
        progress = answer.feed(part, 1)
    assert progress is Progress.ENDED
    assert answer.text == 'Berl"in'
    assert text_of(b"oops") == ""


def test_cached_tokens_and_the_engines_last_word() -> None:
    usage = event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}})
    record = answer_to([HEAD, chunk(word("a")), chunk(finish(1)[0]), chunk(usage), chunk(b"[DONE]"), b"0\r\n\r\n"])
    assert (record.cached_tokens, record.prompt_tokens) == (8, 9)

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.sse import Chunk, EventParser, parse_chunk

texts = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A stream of events with mixed line ends, comments and other fields, and the data they carry."""
    wire, expected = b"", []
    if draw(st.booleans()):
        wire += b"\xef\xbb\xbf"
    for _ in range(draw(st.integers(0, 6))):
        end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
        lines = draw(st.lists(texts, max_size=3))
        if draw(st.booleans()):
            wire += b": a comment" + end
        if draw(st.booleans()):
            wire += b"event: message" + end
        for line in lines:
            wire += draw(st.sampled_from([b"data: ", b"data:"] if not line.startswith(" ") else [b"data: "])) + line.encode() + end
        wire += end
        if lines:
            expected.append("\n".join(lines))
    return wire, expected


@given(streams(), st.data())
def test_any_split_gives_the_same_events(stream: tuple[bytes, list[str]], data: st.DataObject) -> None:
    wire, expected = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    parser, events = EventParser(), []
    for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        events += parser.feed(wire[begin:end])
    assert events == [data.encode() for data in expected]
    assert parser.is_inside_event == (wire == b"\xef\xbb\xbf")


@given(streams())
def test_byte_by_byte_gives_the_same_events(stream: tuple[bytes, list[str]]) -> None:
    wire, expected = stream
    parser = EventParser()
    assert [event for position in range(len(wire)) for event in parser.feed(wire[position : position + 1])] == [data.encode() for data in expected]


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_bytes_are_survived(chunks: list[bytes]) -> None:
    parser = EventParser()
    for chunk in chunks:
        for event in parser.feed(chunk):
            parse_chunk(event)


def test_a_half_event_is_not_delivered() -> None:
    parser = EventParser()
    assert parser.feed(b"data: whole\n\ndata: ha") == [b"whole"]
    assert parser.is_inside_event
    assert parser.feed(b"lf\n") == []
    assert parser.is_inside_event
    assert parser.feed(b"\n") == [b"half"]
    assert not parser.is_inside_event


def _delta(**delta: object) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


@pytest.mark.parametrize(
    ("data", "chunk"),
    [
        (_delta(content="Ber"), Chunk(has_tokens=True, is_output=True)),
        (_delta(content=" "), Chunk(has_tokens=True, is_output=True)),
        (_delta(reasoning="Hm"), Chunk(has_tokens=True)),
        (_delta(reasoning_content="Hm"), Chunk(has_tokens=True)),
        (_delta(tool_calls=[{"index": 0}]), Chunk(has_tokens=True, is_output=True)),
        (_delta(role="assistant", content=""), Chunk()),
        (_delta(role="assistant"), Chunk()),
        (_delta(content=""), Chunk()),
        (_delta(content=None, tool_calls=[]), Chunk()),
        (_delta(), Chunk()),
        ('{"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}', Chunk(has_tokens=True, is_output=True, finish_reason="stop")),
        ('{"choices": [{"delta": null, "finish_reason": "length"}]}', Chunk(finish_reason="length")),
        ('{"choices": [], "usage": {"completion_tokens": 9, "prompt_tokens": 4}}', Chunk(completion_tokens=9, prompt_tokens=4)),
        ('{"choices": null, "usage": {"completion_tokens": true}}', Chunk()),
        ("[DONE]", Chunk(done=True)),
        (" [DONE] ", Chunk(done=True)),
        ('{"error": {"message": "dead", "code": 500}}', Chunk(error="dead")),
        ('{"error": "dead"}', Chunk(error="dead")),
        ('{"object": "error", "message": "dead"}', Chunk(error="dead")),
        ('{"choices": [{"delta": {}, "finish_reason": "abort"}]}', Chunk(finish_reason="abort", error="the engine ended the answer with 'abort'")),
        ("{", Chunk(malformed=True)),
        ("[]", Chunk(malformed=True)),
        ('{"choices": [1]}', Chunk(malformed=True)),
        ('{"choices": 1}', Chunk(malformed=True)),
    ],
)
def test_what_an_event_says(data: str, chunk: Chunk) -> None:
    assert parse_chunk(data.encode()) == chunk

"""The gateway's priority wins over the client's, whatever the client writes, and nothing else of a request changes."""

import asyncio
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.stack.priority import Priority, with_priority

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
OBJECT = st.dictionaries(st.text(), JSON, min_size=1)


def asked(messages, headers, path="/v1/chat/completions"):
    """What the application gets: its scope and messages."""
    got, waiting = [], list(messages)

    async def app(scope, receive, send):
        got.append(scope)
        while waiting:
            got.append(await receive())

    async def receive():
        return waiting.pop(0)

    asyncio.run(Priority(app)({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, None))
    return got


def chunk(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


KIND = (b"content-type", b"application/json")
SAYS_3 = (b"x-kiva-priority", b"3")


@given(OBJECT, st.integers(-(10**6), 10**6), st.sampled_from(["", " ", "\n", "\r\n\t "]), st.none() | st.integers(1, 3))
def test_the_last_key_wins(value, priority, after, indent):
    for own in ({}, {"priority": -99}):
        got = json.loads(with_priority((json.dumps({**value, **own}, indent=indent) + after).encode(), priority))
        assert got == {**value, "priority": priority}


@given(OBJECT, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]))
def test_no_encoding_is_a_way_around(value, encoding):
    text = json.dumps({**value, "priority": -99}, ensure_ascii=True)
    assert json.loads(with_priority(text.encode(encoding), 5)) == {**value, "priority": 5}


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b" { } ", b"[]", b'[{"a":1}]', b"1", b"null", b'{"a":1', b"}", b"{\x00\xd8}\x00"])
def test_what_is_no_filled_object_stays(body):
    assert with_priority(body, 1) == body


@given(st.binary(max_size=20).map(lambda noise: noise + b"}"))
def test_nothing_invalid_becomes_valid(body):
    try:
        json.loads(body)
    except ValueError:
        with pytest.raises(ValueError):
            json.loads(with_priority(body, 1))


@given(OBJECT, st.lists(st.integers(0, 200), max_size=4))
def test_chunks_arrive_whole(value, cuts):
    body = json.dumps(value).encode()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [chunk(body[a:b], more=True) for a, b in itertools.pairwise(edges)]
    gone = {"type": "http.disconnect"}
    _, whole, last = asked([*chunks, chunk(b""), gone], [KIND, SAYS_3])
    assert json.loads(whole["body"]) == {**value, "priority": 3}
    assert whole["more_body"] is False
    assert last == gone


def test_a_client_that_leaves_while_it_sends():
    gone = {"type": "http.disconnect"}
    assert asked([chunk(b'{"a"', more=True), gone], [KIND, SAYS_3])[1] == gone


def test_the_headers_say_nothing_of_priority_and_the_length_is_not_the_old_one():
    scope, _ = asked([chunk(b'{"a":1}')], [KIND, SAYS_3, (b"x-vllm-priority", b"-9"), (b"content-length", b"7"), (b"x-request-id", b"r")])
    assert scope["headers"] == [KIND, (b"x-request-id", b"r")]


@pytest.mark.parametrize("said", [b"", b"high", b"1.5", b"99999999999999", b'1,"n":2'])
def test_what_is_no_number_counts_as_none(said):
    assert json.loads(asked([chunk(b'{"priority":-9}')], [KIND, (b"x-kiva-priority", said)])[1]["body"]) == {"priority": 0}


def test_without_the_gateways_header_nothing_changes():
    assert asked([chunk(b'{"priority":-9}')], [KIND])[1:] == [chunk(b'{"priority":-9}')]


def test_other_paths_and_other_contents_pass():
    assert asked([chunk(b'{"a":1}')], [KIND, SAYS_3], path="/tokenize")[1:] == [chunk(b'{"a":1}')]
    form = (b"content-type", b"multipart/form-data; boundary=x")
    assert asked([chunk(b"a", more=True), chunk(b"}")], [form, SAYS_3], path="/v1/audio/transcriptions")[1:] == [chunk(b"a", more=True), chunk(b"}")]

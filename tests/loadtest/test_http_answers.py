"""Answers of HTTP, cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.http1 import AnswerParser, MalformedAnswerError

bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


def split(wire: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    return [wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


@given(bodies, st.sampled_from([b"", b"x-end: 1\r\n"]), st.data())
def test_chunks_cut_anywhere_give_the_same_body(pieces: list[bytes], trailer: bytes, data: st.DataObject) -> None:
    parser = AnswerParser()
    found = [piece for part in split(chunked(pieces, trailer), data) for piece in parser.feed(part)]
    assert b"".join(found) == b"".join(pieces)
    assert parser.is_whole
    assert parser.keeps_connection
    assert parser.status == 200


@given(st.binary(max_size=300), st.data())
def test_a_length_cut_anywhere_gives_the_same_body(body: bytes, data: st.DataObject) -> None:
    parser = AnswerParser()
    wire = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    assert b"".join(piece for part in split(wire, data) for piece in parser.feed(part)) == body
    assert parser.is_whole


@given(st.binary(max_size=300), st.data())
def test_without_a_length_the_end_of_the_connection_is_the_end(body: bytes, data: st.DataObject) -> None:
    parser = AnswerParser()
    wire = b"HTTP/1.1 200 OK\r\n\r\n" + body
    assert b"".join(piece for part in split(wire, data) for piece in parser.feed(part)) == body
    assert not parser.is_whole
    assert parser.end()
    assert not parser.keeps_connection


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_are_survived(parts: list[bytes]) -> None:
    parser = AnswerParser()
    try:
        for part in parts:
            parser.feed(part)
    except MalformedAnswerError:
        return
    parser.end()


@given(bodies, st.data())
def test_a_body_that_is_cut_off_is_not_whole(pieces: list[bytes], data: st.DataObject) -> None:
    wire = chunked(pieces)
    parser = AnswerParser()
    parser.feed(wire[: data.draw(st.integers(0, len(wire) - 1))])
    assert not parser.end()


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"220 mail.example.org ESMTP\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "length is not a number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "size is not a number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", "size is not a number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 5000, "no size"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "head does not end"),
    ],
)
def test_what_is_no_answer_is_refused(wire: bytes, words: str) -> None:
    with pytest.raises(MalformedAnswerError, match=words):
        AnswerParser().feed(wire)


def test_informational_answers_are_passed_over() -> None:
    parser = AnswerParser()
    parser.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert (parser.status, parser.is_whole) == (204, True)


@pytest.mark.parametrize(("head", "keeps"), [(b"HTTP/1.1 200 OK\r\nConnection: close", False), (b"HTTP/1.0 200 OK", False), (b"HTTP/1.1 200 OK", True)])
def test_whether_the_connection_can_be_used_again(head: bytes, keeps: bool) -> None:
    parser = AnswerParser()
    parser.feed(head + b"\r\ncontent-length: 0\r\n\r\n")
    assert parser.is_whole
    assert parser.keeps_connection is keeps

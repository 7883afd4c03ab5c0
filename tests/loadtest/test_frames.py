"""Messages between two machines, among whatever else a login prints, and records on their way."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.frames import LARGEST_BODY_BYTES, MARK, Frame, FrameReader
from kivactl.loadtest.record import Record, read_records
from kivactl.loadtest.spool import Arriving, packed

bodies = st.binary(max_size=300) | st.just(MARK + b'{"kind":"inner","bytes":0}\n')
facts = st.dictionaries(st.text().filter(lambda key: key not in ("kind", "bytes")), st.text() | st.integers())
frames = st.builds(Frame, kind=st.text(), facts=facts, body=bodies)
garbage = st.binary(max_size=100).filter(lambda noise: MARK[:1] not in noise)


def read(stream: bytes, cuts: list[int]) -> list[Frame]:
    reader = FrameReader()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [frame for begin, end in pairwise(edges) for frame in reader.feed(stream[begin:end])]


@given(st.lists(st.tuples(garbage, frames)), garbage, st.lists(st.integers(0)))
def test_frames_are_found_among_garbage_however_they_are_cut(sent: list[tuple[bytes, Frame]], rest: bytes, cuts: list[int]) -> None:
    stream = b"".join(noise + frame.encoded() for noise, frame in sent) + rest
    assert read(stream, cuts) == [frame for _, frame in sent]


@given(st.binary(max_size=2000), st.lists(st.integers(0)))
def test_garbage_alone_is_no_frame(noise: bytes, cuts: list[int]) -> None:
    assert read(noise, cuts) == []


@pytest.mark.parametrize(
    "begun",
    [
        MARK,
        MARK + b"{}\n",
        MARK + b"[1]\n",
        MARK + b'{"kind":"x"}\n',
        MARK + b'{"kind":"x","bytes":-1}\n',
        MARK + b'{"kind":"x","bytes":true}\n',
        MARK + b'{"kind":7,"bytes":0}\n',
        MARK + b'{"kind":"x","bytes":%d}\n' % (LARGEST_BODY_BYTES + 1),
        MARK + b"x" * 100_000,
        MARK[:-1],
    ],
)
def test_what_only_looks_like_a_frame_hides_none(begun: bytes) -> None:
    frame = Frame("hello", {"version": "1"}, b"body")
    assert read(begun + frame.encoded(), []) == [frame]
    assert read(begun + frame.encoded(), list(range(0, len(begun) + 50, 7))) == [frame]


def test_what_is_kept_of_garbage_is_little() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert list(reader.feed(b"noise" * 1000)) == []
    assert len(reader._kept) < len(MARK)


def some(count: int) -> list[Record]:
    return [Record(index, 10 * index, 10 * index + 5, sent_ns=10 * index + 1, token_ns=(10 * index + 2,), reason="ü\u2028") for index in range(count)]


def pieces_of(spool: Path, text: str) -> Iterator[bytes]:
    spool.write_text(text)
    return packed(spool)


def test_records_come_in_the_clock_of_this_machine(tmp_path: Path) -> None:
    sent = some(5000)
    pieces = list(pieces_of(tmp_path / "there", "".join(record.shifted(777).to_json() + "\n" for record in sent)))
    assert all(len(piece) <= LARGEST_BODY_BYTES for piece in pieces)
    arriving = Arriving(tmp_path / "here", 777)
    whole = b"".join(pieces)
    for begin in range(0, len(whole), 1000):
        arriving.take(whole[begin : begin + 1000])
    assert arriving.close()
    assert read_records(tmp_path / "here") == sent
    assert stat.S_IMODE((tmp_path / "here").stat().st_mode) == 0o600


def test_a_half_written_record_is_left_out(tmp_path: Path) -> None:
    first, second = (record.to_json() for record in some(2))
    arriving = Arriving(tmp_path / "here", 0)
    for piece in pieces_of(tmp_path / "there", f"{first}\n{second[:30]}"):
        arriving.take(piece)
    assert arriving.close()
    assert read_records(tmp_path / "here") == some(1)


def test_records_that_break_off_are_not_whole(tmp_path: Path) -> None:
    piece = b"".join(pieces_of(tmp_path / "there", "".join(record.to_json() + "\n" for record in some(50))))
    arriving = Arriving(tmp_path / "here", 0)
    arriving.take(piece[:-10])
    assert not arriving.close()
    assert set(read_records(tmp_path / "here")) <= set(some(50))


@pytest.mark.parametrize("text", ["nonsense\n", "{}\n"])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    arriving = Arriving(tmp_path / "here", 0)
    piece = b"".join(pieces_of(tmp_path / "there", text))
    with pytest.raises(ValueError):
        arriving.take(piece)
    with pytest.raises(ValueError, match="not compressed"):
        Arriving(tmp_path / "plain", 0).take(b"plain text that is not compressed")

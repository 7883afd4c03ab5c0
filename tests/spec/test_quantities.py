from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.spec.quantities import format_bytes, format_duration, parse_bytes, parse_duration, write_bytes, write_duration


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0B", 0), ("16GiB", 16 * 2**30), ("500MB", 500_000_000), ("1.5 KiB", 1536), (" 2TB ", 2 * 10**12), ("1kB", 1000), ("9007199254740993B", 2**53 + 1)],
)
def test_sizes_are_read(text: str, size_bytes: int):
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "16", "GiB", "16gb", "16 G", "-1GiB", "1e3MB", "16GiB free", "1,5GiB", "٣GiB", "9" * 400 + "GiB"])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "duration_s"), [("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("1.5m", 90), ("2d", 172_800), ("1m500ms", 60.5)])
def test_durations_are_read(text: str, duration_s: float):
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize("text", ["", "90", "s", "1h 30m", "-5s", "soon", "1h30", "1H", "5s!", "٣s", "9" * 400 + "s"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(0, 10**15 - 1))
def test_a_written_size_is_read_back_exactly(size_bytes: int):
    assert parse_bytes(write_bytes(size_bytes)) == size_bytes


@given(st.one_of(st.integers(0, 10**9).map(lambda ms: ms / 1000), st.decimals(0, 10**6, places=6).map(float)))
def test_a_written_duration_is_read_back_exactly(duration_s: float):
    assert parse_duration(write_duration(duration_s)) == duration_s


@given(st.integers(0, 2**50))
def test_a_shown_size_is_near(size_bytes: int):
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.06)


@given(st.floats(0.01, 10**7))
def test_a_shown_duration_is_near(duration_s: float):
    assert parse_duration(format_duration(duration_s)) == pytest.approx(duration_s, abs=0.51)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0B"), (12, "12B"), (500_000_000, "500MB"), (4 * 2**20, "4MiB"), (1000, "1kB"), (1536 * 2**20, "1536MiB")]
)
def test_sizes_are_written_short(size_bytes: int, text: str):
    assert write_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"), [(0.0, "0ms"), (0.0005, "0.5ms"), (1.0, "1s"), (60.0, "1m"), (90.25, "1m30.25s"), (5400.0, "1h30m"), (86_400.0, "1d")]
)
def test_durations_are_written_short(duration_s: float, text: str):
    assert write_duration(duration_s) == text


def test_almost_a_second_is_shown_as_a_second():
    assert format_duration(0.9999) == "1s"

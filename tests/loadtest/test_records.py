from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.record import FailureKind, Record, parse_record, read_records

MS = 1_000_000


def test_figures_follow_the_definitions() -> None:
    record = Record(0, 0, 500 * MS, sent_ns=10 * MS, token_ns=(110 * MS, 130 * MS, 190 * MS), completion_tokens=5)
    assert record.ttft_s == pytest.approx(0.100)
    assert record.e2e_s == pytest.approx(0.180)
    assert record.tpot_s == pytest.approx(0.080 / 4)  # N as the engine counts, not the three events
    assert record.gaps_s == pytest.approx((0.020, 0.060))
    assert record.tokens == 5


def test_a_single_token_has_no_tpot() -> None:
    record = Record(0, 0, 20, sent_ns=1, token_ns=(10,), completion_tokens=1)
    assert (record.tpot_s, record.gaps_s) == (None, ())


def test_no_token_has_no_times() -> None:
    record = Record(0, 0, 20, sent_ns=1)
    assert (record.ttft_s, record.e2e_s, record.tpot_s, record.tokens_within(0, 100)) == (None, None, None, 0.0)


def test_tokens_are_shared_among_the_events_of_a_window() -> None:
    record = Record(0, 0, 50, sent_ns=1, token_ns=(10, 20, 30, 40), completion_tokens=8)
    assert record.tokens_within(20, 40) == 4.0


records = st.builds(
    Record,
    index=st.integers(0),
    start_ns=st.integers(0),
    end_ns=st.integers(0),
    sent_ns=st.none() | st.integers(0),
    connect_ns=st.integers(0),
    token_ns=st.lists(st.integers(0)).map(tuple),
    completion_tokens=st.none() | st.integers(0),
    prompt_tokens=st.none() | st.integers(0),
    status=st.none() | st.integers(100, 599),
    finish_reason=st.none() | st.text(),
    failure=st.none() | st.sampled_from(FailureKind),
    reason=st.text(),
    is_cut=st.booleans(),
)


@given(records)
def test_a_record_survives_its_line(record: Record) -> None:
    line = record.to_json()
    assert "\n" not in line
    assert parse_record(line) == record


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"index": 1, "failure": null, "token_ns": []}', '{"failure": "bad luck"}', "null"])
def test_a_broken_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_record(line)


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_records(path) == []
    record = Record(1, 2, 3, reason="a line\u2028that is one")
    path.write_text(record.to_json() + "\n" + record.to_json()[:20])
    assert read_records(path) == [record]
    path.write_text(record.to_json()[:20] + "\n" + record.to_json() + "\n")
    with pytest.raises(ValueError):
        read_records(path)

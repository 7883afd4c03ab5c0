"""Lines of the logs, whole and broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import NOON_S, access_line, count_line

from kivactl.usage.records import parse_access, parse_count


def test_an_access_line():
    access = parse_access(access_line())
    assert (access.request_id, access.at_ms, access.tenant, access.token_name) == ("r1", NOON_S * 1000, "lab", "ci")
    assert (access.model, access.version, access.status, access.first_byte_ms, access.sent_bytes) == ("chat", "m", 200, 40, 2400)
    assert "10.0.0.7" not in access


def test_a_usage_line():
    count = parse_count(count_line())
    assert count == ("r1", NOON_S * 1000, "m-0", "m", 100, 20, 10, True)


@pytest.mark.parametrize("parse", [parse_access, parse_count])
@pytest.mark.parametrize(
    "line", ["", "\n", "{", "null", "[]", "7", '"x"', "not json", "{}", '{"at": 7}', "[" * 100_000, "\x00\x00", '{"at": "yesterday"}', "}{"]
)
def test_what_is_no_line(parse, line):
    assert parse(line) is None


@pytest.mark.parametrize("changes", [{"status": None}, {"status": "200"}, {"status": True}, {"status": -1}, {"at": None}, {"at": "2026-13-01T00:00:00Z"}])
def test_access_lines_without_what_matters(changes):
    assert parse_access(access_line(**changes)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": None},
        {"request_id": ""},
        {"prompt_tokens": -1},
        {"prompt_tokens": 2**60},
        {"completion_tokens": 1.5},
        {"finished": None},
        {"finished": 1},
    ],
)
def test_usage_lines_without_what_matters(changes):
    assert parse_count(count_line(**changes)) is None


def test_what_is_missing_beside_that_does_not_matter():
    access = parse_access(json.dumps({"at": "2026-11-23T12:00:00Z", "status": 400}))
    assert (access.request_id, access.tenant, access.duration_ms, access.sent_bytes) == ("", None, 0, 0)


def test_cached_tokens_are_part_of_the_prompt():
    assert parse_count(count_line(prompt_tokens=5, cached_tokens=9)).cached_tokens == 5


def test_of_two_lines_run_together_the_last_counts():
    assert parse_count(count_line("lost")[:40] + count_line("r2")).request_id == "r2"


def test_times_without_a_zone_are_utc():
    assert parse_count(count_line(at="2026-11-23T12:00:00")).at_ms == NOON_S * 1000


@pytest.mark.parametrize(
    ("model", "taken"), [("a\x00b", "a?b"), ("\ud800", "?"), ("x" * 5000, "x" * 200), ("größe", "größe"), ("a\nb", "a?b"), (7, None), ({}, None)]
)
def test_the_clients_choice_of_a_model_harms_no_database(model, taken):
    assert parse_access(access_line(model=model)).model == taken


@given(st.text())
def test_no_text_is_too_odd(text):
    parse_access(text)
    parse_count(text)
    assert parse_access(access_line(path=text)).path == parse_access(access_line(path=text)).path


@given(
    st.dictionaries(
        st.sampled_from(["at", "request_id", "status", "tenant", "prompt_tokens", "completion_tokens", "finished"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    )
)
def test_no_value_is_too_odd(row):
    line = json.dumps(json.loads(access_line()) | row)
    parse_access(line)
    parse_count(json.dumps(json.loads(count_line()) | row))

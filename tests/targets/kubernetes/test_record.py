"""The record in the cluster: what is written is read, and what is broken or newer stops nobody."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import UsageError
from kivactl.targets.kubernetes.history import deploy_of
from kivactl.targets.kubernetes.record import Deploy, Record, Unfinished, format_record, parse_record, record_name

names = st.text("abc-", min_size=1, max_size=8)
deploys = st.builds(Deploy, st.integers(1, 99), names, names, names, names, st.dictionaries(names, st.integers(1, 50), max_size=3), names)
records = st.builds(
    Record,
    platform=names,
    endpoint=names,
    deploys=st.lists(deploys, max_size=4, unique_by=lambda one: one.number).map(lambda found: tuple(sorted(found, key=lambda one: one.number))),
    unfinished=st.none() | st.builds(Unfinished, names, names, names, st.lists(names, max_size=3).map(tuple)),
    ready_s=st.dictionaries(names, st.floats(0, 1000), max_size=3),
    stopped_at=names,
)


@given(records)
def test_what_is_written_is_read(record):
    assert parse_record(format_record(record), "other") == record


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '"x"'])
def test_a_broken_record_is_an_empty_one(text):
    assert parse_record(text, "kiva") == Record("kiva")


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner)),
    st.sampled_from(["deploys", "unfinished", "ready_s", "stopped_at", "endpoint"]),
)
def test_nothing_that_lies_there_is_an_error(value, key):
    parse_record(json.dumps({"platform": "kiva", key: value, "of a newer version": 1}), "kiva")


def test_entries_of_a_newer_version_are_read_as_far_as_they_are_known():
    data = {"platform": "kiva", "later": {}, "deploys": [{"number": 3, "releases": {"a": 2}, "signed": True}, {"no": "number"}, 7]}
    assert parse_record(json.dumps(data), "kiva").deploys == (Deploy(3, "", releases={"a": 2}),)


def test_deploys_are_counted_on_and_ten_are_kept():
    record = Record("kiva", unfinished=Unfinished("deploy", "a", "b"))
    for number in range(1, 15):
        record = record.with_deploy(Deploy(0, f"at {number}"))
    assert [one.number for one in record.deploys] == list(range(5, 15))
    assert record.unfinished is None
    assert record.last is not None
    assert record.last.at == "at 14"


def test_the_deploy_to_go_back_to():
    record = Record("kiva", deploys=(Deploy(4, "a"), Deploy(5, "b")))
    assert (deploy_of(record, None).number, deploy_of(record, 5).number) == (4, 5)
    with pytest.raises(UsageError, match="there is no deploy 9"):
        deploy_of(record, 9)
    with pytest.raises(UsageError, match="no deploy to go back to"):
        deploy_of(Record("kiva"), None)


def test_platforms_whose_names_resemble_each_other_have_records_of_their_own():
    assert record_name("kiva.land") == "kiva.land-kivactl"
    assert record_name("kiva.land") != record_name("kiva-land")

"""Joining what gateway and engines say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import NOON_S, access_line, count_line, refused_line

from kivactl.usage.join import Counted, StreamAverages, Sums, day_of, joined, key_of, sums_of
from kivactl.usage.records import parse_access, parse_count


def access(*arguments, **changes):
    return parse_access(access_line(*arguments, **changes))


def count(*arguments, **changes):
    return parse_count(count_line(*arguments, **changes))


def join(*records, averages=None):
    entry = None
    for record in records:
        is_access = hasattr(record, "status")
        entry = joined(entry, record if is_access else None, None if is_access else record, "4711", averages or StreamAverages({}))
    return entry


def test_a_finished_request():
    entry = join(access(), count())
    assert (entry.tenant, entry.cost_centre, entry.model, entry.version, entry.replica) == ("lab", "4711", "chat", "m", "m-0")
    assert (entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens, entry.counted) == (100, 20, 10, Counted.ENGINE)
    assert (entry.at_ms, entry.ended_ms) == (NOON_S * 1000, NOON_S * 1000 + 500)


def test_a_client_that_went_away():
    entry = join(access(flags="DC", status=0, sent_bytes=0), count(finished=False, completion_tokens=3))
    assert (entry.counted, entry.completion_tokens, entry.failed) == (Counted.AT_CANCEL, 3, False)


def test_a_retry_counts_where_it_was_finished():
    finished, cancelled = count(replica="m-1", completion_tokens=10), count(replica="m-0", completion_tokens=99, finished=False)
    assert join(finished, access(), cancelled) == join(cancelled, finished, access()) == join(access(), finished)


def test_an_engine_that_died_is_estimated_by_the_bytes_sent():
    entry = join(access(flags="UC", sent_bytes=2400))
    assert (entry.counted, entry.prompt_tokens, entry.completion_tokens, entry.failed) == (Counted.ESTIMATED, 0, 10, True)
    assert join(access(flags="UC", sent_bytes=2400), averages=StreamAverages({"m": (1000, 10)})).completion_tokens == 24


def test_an_estimate_gives_way_to_any_count():
    assert join(access(), count(finished=False, completion_tokens=1)).completion_tokens == 1


@pytest.mark.parametrize(
    "line",
    [
        refused_line(),
        refused_line(status=503),
        access_line(status=500),
        access_line(sent_bytes=0),
        access_line(path="/tokenize"),
        access_line(status=0, flags="DC"),
    ],
)
def test_what_generated_nothing_counts_nothing(line):
    entry = join(parse_access(line))
    assert (entry.tokens, entry.counted) == (0, Counted.NONE)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, 0),
        ({"status": 429}, 1),
        ({"status": 503}, 1),
        ({"flags": "UC"}, 1),
        ({"flags": "DC"}, 0),
        ({"status": 0, "flags": "DC"}, 0),
        ({"status": 0}, 1),
        ({"flags": "DC,UT"}, 0),
    ],
)
def test_which_requests_failed(changes, failed):
    assert sums_of(join(access(**changes))).failed == failed


def test_only_an_engine_spoke_of_it():
    entry = join(count())
    assert (entry.tenant, entry.status, entry.version, entry.tokens) == (None, None, "m", 110)
    assert sums_of(entry) == Sums(0, 0, 100, 20, 10)
    assert key_of(entry) == ("2026-11-23", "", "", "", "m")


def test_a_second_word_of_the_gateway_changes_nothing():
    first = join(access(), count())
    assert joined(first, access(tenant="hall", status=500), None, None, StreamAverages({})) is first


def test_a_model_that_nobody_serves_has_no_sum_of_its_own():
    assert key_of(join(parse_access(refused_line(model="made-up", status=404)))).model == ""


def test_nothing_to_join_is_the_callers_mistake():
    with pytest.raises(ValueError):
        joined(None, None, None, None, StreamAverages({}))


COUNTS = st.builds(
    lambda tokens, finished, replica, late: count(completion_tokens=tokens, prompt_tokens=7, finished=finished, replica=f"m-{replica}", at_s=NOON_S + late),
    st.integers(0, 50),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 9),
)


@given(st.lists(COUNTS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(counts, random):
    records = [access(), *counts]
    expected = join(*records)
    shuffled = records + random.choices(records, k=3)
    random.shuffle(shuffled)
    assert join(*shuffled) == expected


@pytest.mark.parametrize(
    ("at_s", "day"), [(NOON_S, "2026-11-23"), (NOON_S + 43_199.999, "2026-11-23"), (NOON_S + 43_200, "2026-11-24"), (NOON_S - 43_200, "2026-11-23")]
)
def test_days_are_utc(at_s, day):
    assert day_of(round(at_s * 1000)) == day


def test_averages_learn_from_streams_only():
    averages = StreamAverages({})
    assert averages.learn(join(access(sent_bytes=2000), count())) == (2000, 10)
    assert averages.learn(join(access(sent_bytes=60), count())) is None
    assert averages.learn(join(access(), count(completion_tokens=0))) is None
    assert averages.learn(join(access(), count(finished=False))) is None
    assert averages.tokens("m", 1000) == 5
    assert averages.tokens("other", 1) == 1

"""From what was seen during a run to its figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.record import FailureKind, Record
from kivactl.runbooks.figures import Gap, Look, Story, changes_in, figures_for, gaps_in, outage_s, phases_for, story_for

UP = {"gateway": ("serving", 1), "m-0": ("serving", 2), "m-1": ("serving", 3)}
DOWN = UP | {"m-0": ("restarting", 0)}
BACK = UP | {"m-0": ("serving", 9)}
S = 1_000_000_000


def looks(*seen):
    return [Look(at_s, components) for at_s, components in seen]


def answered(index, start_s, end_s):
    return Record(index, round(start_s * S), round(end_s * S), sent_ns=round(start_s * S), token_ns=(round(end_s * S),), status=200, has_body=True)


def failed(index, start_s, end_s, kind=FailureKind.CONNECTION, status=None, *, has_body=False):
    return Record(index, round(start_s * S), round(end_s * S), failure=kind, status=status, has_body=has_body)


def story(fault=10.0, noticed=11.0, back=15.0):
    return Story(0.0, 20.0, fault, noticed, back, 5.0)


def test_a_fault_is_noticed_and_healed():
    found = story_for(looks((0, UP), (9, UP), (11, DOWN), (12, DOWN), (15, BACK), (19, BACK)), [("steps", 9.5), ("fault", 10.0)], 0, 20)
    assert (found.fault_s, found.noticed_s, found.recovered_s) == (10.0, 11, 15)
    assert found.degraded_s == 5


def test_capacity_is_missing_from_the_fault_on_though_nobody_has_noticed():
    found = story_for(looks((0, UP), (9, UP), (12, UP), (13, DOWN), (15, BACK)), [("fault", 10.0)], 0, 20)
    assert found.degraded_s == 5


def test_a_component_that_was_started_anew_between_two_looks_was_noticed():
    found = story_for(looks((0, UP), (9, UP), (10.2, UP), (10.4, BACK), (11, BACK)), [("fault", 10.0)], 0, 20)
    assert (found.noticed_s, found.recovered_s) == (10.4, 10.4)
    assert found.degraded_s == pytest.approx(0.4)


def test_what_breaks_again_has_not_recovered_before():
    found = story_for(looks((9, UP), (11, DOWN), (13, BACK), (14, DOWN), (16, BACK), (19, BACK)), [("fault", 10.0)], 0, 20)
    assert found.recovered_s == 16
    assert found.degraded_s == 1 + 2 + 2


def test_what_never_comes_back_has_no_recovery():
    found = story_for(looks((9, UP), (11, DOWN), (19, DOWN)), [("fault", 10.0)], 0, 20)
    assert found.recovered_s is None
    assert found.degraded_s == 10
    assert "recovery" not in figures_for(found, [])


def test_a_fault_that_nobody_notices_has_no_detection_and_no_recovery():
    found = story_for(looks((9, UP), (11, UP), (19, UP)), [("fault", 10.0)], 0, 20)
    assert (found.noticed_s, found.recovered_s, found.degraded_s) == (None, None, 10)
    assert figures_for(found, []) == {"degraded": 10}


def test_without_a_fault_there_is_only_time_with_less_than_full_capacity():
    found = story_for(looks((0, UP), (5, DOWN), (7, UP), (12, DOWN), (13, UP)), [("steps", 4.0), ("end", 15.0)], 0, 20)
    assert (found.fault_s, found.noticed_s, found.recovered_s) == (None, None, None)
    assert found.degraded_s == 3


def test_nothing_deployed_is_not_full_capacity():
    assert not Look(0, {}).full


def test_a_request_is_lost_before_anything_of_its_answer_came_and_cut_afterwards():
    records = [
        answered(1, 1, 2),
        failed(2, 10, 11),
        failed(3, 10, 11, FailureKind.STATUS, 503, has_body=False),
        failed(4, 10, 11, FailureKind.TRUNCATED, 200, has_body=False),
        failed(5, 10, 11, FailureKind.TIMEOUT, 200),
        failed(6, 10, 11, FailureKind.TRUNCATED, 200, has_body=True),
        failed(7, 10, 11, FailureKind.ERROR_EVENT, 200, has_body=True),
    ]
    figures = figures_for(story(), records)
    assert (figures["lost_requests"], figures["cut_streams"]) == (4, 2)
    assert figures["error_ratio"] == pytest.approx(6 / 7, abs=1e-6)


def test_a_refusal_with_a_text_is_lost_though_something_came():
    assert figures_for(story(), [failed(1, 10, 11, FailureKind.STATUS, 503, has_body=True)])["lost_requests"] == 1


def test_what_the_end_cut_off_counts_nowhere():
    records = [answered(1, 1, 2), Record(2, 19 * S, 20 * S, is_cut=True)]
    assert figures_for(story(), records)["error_ratio"] == 0
    assert sum(phase.answered + phase.lost + phase.cut for phase in phases_for(story(), records)) == 1


def test_without_requests_nothing_is_said_of_them():
    assert figures_for(story(), []) == {"degraded": 5.0, "detection": 1.0, "recovery": 5.0}


def test_the_outage_is_the_longest_time_without_a_finished_answer():
    assert outage_s(story(), [answered(1, 1, 2), answered(2, 2, 3), answered(3, 3, 12), answered(4, 12, 19)]) == 9


@pytest.mark.parametrize(("records", "expected"), [([], 20), ([answered(1, 0, 1)], 19), ([answered(1, 18, 19)], 19), ([failed(1, 9, 10)], 20)])
def test_the_outage_counts_begin_and_end_and_no_failures(records, expected):
    assert outage_s(story(), records) == expected


def test_phases_split_at_fault_and_recovery_and_what_the_fault_meets_is_during():
    records = [answered(1, 1, 2), answered(2, 9, 12), answered(3, 12, 16), answered(4, 15.5, 17)]
    before, during, after = phases_for(story(), records)
    assert [phase.answered for phase in (before, during, after)] == [1, 2, 1]
    assert (before.start_s, before.end_s, during.end_s, after.end_s) == (0, 10, 15, 20)
    assert before.ttft_s.p50 == 1


def test_without_recovery_there_is_no_after():
    assert [phase.name for phase in phases_for(story(back=None), [])] == ["before", "during"]


def test_only_changes_of_health_are_kept():
    assert [look.at_s for look in changes_in(looks((0, UP), (1, UP), (2, DOWN), (3, DOWN), (4, BACK)))] == [0, 2, 4]


def test_gaps_are_the_long_times_without_a_look_from_begin_to_end():
    assert gaps_in(looks((-1, UP), (1, UP), (2, UP), (9, UP)), 0, 10, 3) == (Gap(2, 9),)
    assert gaps_in(looks((4, UP)), 0, 10, 3) == (Gap(0, 4), Gap(4, 10))
    assert gaps_in(looks((3, UP), (6, UP), (9, UP)), 0, 10, 3) == ()
    assert gaps_in([], 0, 10, 3) == (Gap(0, 10),)


@pytest.mark.parametrize(
    ("seen", "gap", "noticed", "recovered", "degraded"),
    [
        pytest.param([(9, UP), (11, DOWN), (15, BACK), (19, BACK)], Gap(2, 6), 11, 15, 5 + 4, id="before the fault"),
        pytest.param([(9, UP), (14, DOWN), (16, BACK), (19, BACK)], Gap(9, 14), 14, 16, 7, id="about the fault"),
        pytest.param([(9, UP), (14, BACK), (19, BACK)], Gap(9, 14), 14, 14, 5, id="all of it unseen"),
        pytest.param([(9, UP), (11, DOWN), (15, BACK), (19, BACK)], Gap(11, 15), 11, 15, 5, id="while it was down"),
        pytest.param([(9, UP), (11, DOWN), (12, BACK), (16, BACK), (19, BACK)], Gap(12, 16), 11, 16, 6, id="after it was back"),
        pytest.param([(9, UP), (11, DOWN), (12, BACK), (16, DOWN), (17, BACK)], Gap(12, 16), 11, 17, 7, id="down again after it"),
        pytest.param([(9, UP), (11, DOWN), (12, BACK), (16, BACK)], Gap(16, 20), 11, None, 2 + 4, id="until the end"),
        pytest.param([(9, UP), (11, DOWN), (12, BACK), (16, BACK), (20.5, BACK)], Gap(16, 20), 11, 20.5, 2 + 4, id="until after the end"),
        pytest.param([(9, UP), (19, UP)], Gap(9, 19), None, None, 11, id="never noticed"),
    ],
)
def test_what_was_not_seen_counts_as_degraded_and_nothing_has_healed_before_it(seen, gap, noticed, recovered, degraded):
    found = story_for(looks((0, UP), *seen), [("fault", 10.0)], 0, 20, [gap])
    assert (found.noticed_s, found.recovered_s, found.degraded_s) == (noticed, recovered, degraded)


def test_gaps_count_without_a_fault_and_no_second_counts_twice():
    found = story_for(looks((0, UP), (5, DOWN), (7, UP), (19, UP)), [], 0, 20, [Gap(4, 8), Gap(16, 20)])
    assert found.degraded_s == 8


def test_what_is_down_when_the_load_begins_is_down_from_its_begin_on():
    assert story_for(looks((-1, DOWN), (1, DOWN), (2, UP), (19, UP)), [], 0, 20).degraded_s == 2


def in_order(pairs):
    return looks(*sorted(pairs, key=lambda pair: pair[0]))


seen = st.lists(st.tuples(st.floats(0, 100), st.sampled_from([UP, DOWN, BACK, {}])), max_size=30).map(
    lambda pairs: looks(*sorted(pairs, key=lambda pair: pair[0]))
)
requests = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20), st.integers(0, 4)), max_size=30)


def record_of(index, start_s, took_s, fate):
    match fate:
        case 0 | 1:
            return answered(index, start_s, start_s + took_s)
        case 2:
            return failed(index, start_s, start_s + took_s)
        case 3:
            return failed(index, start_s, start_s + took_s, FailureKind.TRUNCATED, 200, has_body=True)
    return Record(index, round(start_s * S), round((start_s + took_s) * S), is_cut=True)


@given(seen, st.one_of(st.none(), st.floats(0, 100)))
def test_moments_are_in_order_and_times_are_within_the_run(seen, fault_s):
    found = story_for(seen, [] if fault_s is None else [("fault", fault_s)], 0, 100)
    assert 0 <= found.degraded_s <= 100 + 1e-9
    moments = [at_s for at_s in (found.fault_s, found.noticed_s, found.recovered_s) if at_s is not None]
    assert moments == sorted(moments)
    if found.recovered_s is not None:
        assert all(look.full for look in seen if look.at_s > found.recovered_s)
        assert found.degraded_s >= found.noticed_s - found.fault_s - 1e-9


@given(seen, st.one_of(st.none(), st.floats(0, 100)), st.floats(0.1, 50))
def test_figures_with_gaps_counted_are_never_smaller_than_without(seen, fault_s, longer_than_s):
    marks, gaps = [] if fault_s is None else [("fault", fault_s)], gaps_in(seen, 0, 100, longer_than_s)
    counted, uncounted = story_for(seen, marks, 0, 100, gaps), story_for(seen, marks, 0, 100)
    assert counted.degraded_s >= uncounted.degraded_s - 1e-9
    assert 100 + 1e-9 >= counted.degraded_s >= sum(gap.length_s for gap in gaps) - 1e-9
    assert counted.noticed_s == uncounted.noticed_s
    assert counted.recovered_s is None or counted.recovered_s >= uncounted.recovered_s
    if counted.recovered_s is not None:
        assert not [gap for gap in gaps if gap.end_s > counted.recovered_s]
        assert all(look.full for look in seen if look.at_s > counted.recovered_s)
    if not gaps:
        assert counted == uncounted


@given(requests, st.sampled_from([story(), story(back=None), story(noticed=None, back=None), story(fault=None, noticed=None, back=None)]))
def test_every_request_is_in_exactly_one_phase_and_counted_once(raw, told):
    records = [record_of(index, *one) for index, one in enumerate(raw)]
    phases, figures = phases_for(told, records), figures_for(told, records)
    counted = [record for record in records if not record.is_cut]
    assert sum(phase.answered + phase.lost + phase.cut for phase in phases) == len(counted)
    assert sum(phase.answered for phase in phases) == sum(record.succeeded for record in records)
    if counted:
        assert sum(phase.lost for phase in phases) == figures["lost_requests"]
        assert sum(phase.cut for phase in phases) == figures["cut_streams"]
        assert 0 <= figures["error_ratio"] <= 1
        assert 0 <= figures["outage"] <= told.ended_s - told.began_s


@given(requests)
def test_one_more_answer_never_makes_an_outage_longer(raw):
    records = [record_of(index, *one) for index, one in enumerate(raw)]
    assert outage_s(story(), [*records, answered(99, 5, 6)]) <= outage_s(story(), records)

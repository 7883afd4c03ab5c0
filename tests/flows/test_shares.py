"""How requests are shared out: the arithmetic of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import UsageError
from kivactl.flows.shares import percentages, shares_for, shown

weights = st.dictionaries(st.sampled_from(["v0", "v1", "v2", "v3"]), st.integers(0, 1_000_000), min_size=1).filter(lambda shares: sum(shares.values()) > 0)


def test_a_new_version_takes_its_share_from_the_others():
    assert shares_for({"v1": 100}, "v2", 10) == {"v1": 90, "v2": 10}
    assert shares_for({"v0": 1, "v1": 2}, "v2", 10) == {"v0": 30, "v1": 60, "v2": 10}
    assert shares_for({"v1": 50, "v2": 50}, "v2", 100) == {"v1": 0, "v2": 100}


def test_others_without_a_share_get_the_same_each():
    assert shares_for({"v0": 0, "v1": 0, "v2": 1}, "v2", 50) == {"v0": 25, "v1": 25, "v2": 50}


def test_where_nobody_else_is_nothing_can_be_shared_out():
    assert shares_for({"v1": 7}, "v1", 100) == {"v1": 100}
    with pytest.raises(UsageError, match="'v1' is the only model"):
        shares_for({"v1": 100}, "v1", 50)


@given(spec=weights, percent=st.integers(0, 100))
def test_percentages_add_up_and_come_out_the_same_however_often(spec, percent):
    shares = shares_for(spec, "new", percent)
    assert sum(shares.values()) == 100
    assert shares["new"] == percent
    assert list(shares)[: len(spec)] == list(spec)
    assert shares_for(spec, "new", percent) == shares


@given(shares=weights)
def test_percentages_are_whole_and_near_the_truth(shares):
    found = percentages(shares)
    assert sum(found.values()) == 100
    assert all(abs(found[name] - 100 * weight / sum(shares.values())) < 1 for name, weight in shares.items())


def test_shares_in_a_sentence():
    assert shown({"v1": 90, "v2": 10}) == "v1 90, v2 10"

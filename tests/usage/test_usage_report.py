"""Adding up."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.stack.metering import Tariff
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import PriceList
from kivactl.usage.report import By, lines_for, total_of

LISTS = {"2026-11": PriceList("EUR", {"m": Tariff(input=Decimal(1), flat=Decimal(2), free_tokens=10), "n": Tariff(output=Decimal(3))})}
DAYS = [
    (DayKey("2026-11-01", "", "", "", ""), Sums(3, 3)),
    (DayKey("2026-11-01", "hall", "", "n", "n"), Sums(1, 0, 5, 0, 1_000_000)),
    (DayKey("2026-11-01", "lab", "4711", "chat", "m"), Sums(2, 1, 1_000_000, 0, 10)),
    (DayKey("2026-11-02", "lab", "4712", "m", "m"), Sums(1, 0, 1_000_000, 0, 10)),
    (DayKey("2026-11-02", "lab", "4712", "moved", "m"), Sums()),
]


@pytest.mark.parametrize(
    ("by", "names"),
    [(By.TENANT, ["hall", "lab", ""]), (By.COST_CENTRE, ["4711", "4712", ""]), (By.MODEL, ["m", "n", ""]), (By.DAY, ["2026-11-01", "2026-11-02"])],
)
def test_lines_in_order_what_belongs_to_none_last(by, names):
    lines = lines_for(DAYS, LISTS, by)
    assert [line.name for line in lines] == names
    (total,) = total_of(lines)
    assert total.sums == Sums(7, 4, 2_000_005, 0, 1_000_020)
    assert total.amount == sum((line.amount for line in lines), Decimal(0)) == Decimal("6.999990")


def test_nothing_gives_no_lines():
    assert lines_for([], {}, By.TENANT) == ()
    assert total_of(()) == ()


def test_currencies_are_not_added_up():
    lists = LISTS | {"2026-12": PriceList("CHF", {})}
    lines = lines_for([*DAYS, (DayKey("2026-12-01", "lab", "", "m", "m"), Sums(1, 0, 1))], lists, By.TENANT)
    assert [(line.name, line.currency) for line in lines] == [("hall", "EUR"), ("lab", "CHF"), ("lab", "EUR"), ("", "EUR")]
    assert [line.currency for line in total_of(lines)] == ["CHF", "EUR"]


KEYS = st.builds(
    DayKey,
    st.sampled_from(["2026-11-01", "2026-11-02", "2026-12-01"]),
    st.sampled_from(["", "lab", "hall"]),
    st.sampled_from(["", "1"]),
    st.just("c"),
    st.sampled_from(["m", "n"]),
)


@given(st.dictionaries(KEYS, st.builds(Sums, st.integers(0, 5), st.integers(0, 5), st.integers(0, 10**6), st.just(0), st.integers(0, 10**6))))
def test_every_grouping_adds_up_to_the_same(days):
    totals = {total_of(lines_for(sorted(days.items()), LISTS, by)) for by in By}
    assert len(totals) == 1

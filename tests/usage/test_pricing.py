"""What a month costs."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.stack.metering import OPERATOR, Tariff
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import PriceList
from kivactl.usage.pricing import SMALLEST, amount_for, price_list_of, priced, spent_by_tenant

D = Decimal
TARIFF = Tariff(input=D("2"), cached=D("0.5"), output=D("6"))


@pytest.mark.parametrize(
    ("tariff", "sums", "amount"),
    [
        (TARIFF, Sums(1, 0, 1_000_000, 0, 0), "2"),
        (TARIFF, Sums(1, 0, 1_000_000, 1_000_000, 0), "0.5"),
        (TARIFF, Sums(1, 0, 0, 0, 500_000), "3"),
        (TARIFF, Sums(1, 0, 1, 0, 0), "0.000002"),
        (Tariff(input=D("0.4")), Sums(1, 0, 1, 0, 0), "0"),
        (Tariff(input=D("0.5")), Sums(1, 0, 1, 0, 0), "0.000001"),
        (Tariff(flat=D("9.90")), Sums(1, 0, 1, 0, 0), "9.90"),
        (Tariff(flat=D("9.90")), Sums(7, 7, 0, 0, 0), "0"),
        (Tariff(input=D(2), free_tokens=500_000), Sums(1, 0, 1_000_000, 0, 0), "1"),
        (Tariff(input=D(2), free_tokens=500_000), Sums(1, 0, 500_000, 0, 0), "0"),
        (Tariff(input=D(2), flat=D(1), free_tokens=500_000), Sums(1, 0, 500_000, 0, 0), "1"),
        (Tariff(), Sums(9, 0, 10**12, 0, 10**12), "0"),
        (TARIFF, Sums(), "0"),
    ],
)
def test_amounts(tariff, sums, amount):
    assert amount_for(tariff, sums) == D(amount)


PRICE = st.decimals(0, 10_000, places=9)
TARIFFS = st.builds(Tariff, input=PRICE, cached=PRICE, output=PRICE, flat=PRICE, free_tokens=st.integers(0, 10**7))
SUMS = st.builds(
    lambda requests, prompt, cached, completion: Sums(requests, 0, prompt, min(cached, prompt), completion),
    st.integers(0, 100),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
)


@given(TARIFFS, st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["a", "b"]), SUMS), max_size=20))
def test_splitting_use_over_days_and_names_never_changes_the_months_amount(tariff, parts):
    lists = {"2026-11": PriceList("EUR", {"m": tariff})}
    days = sorted((DayKey(f"2026-11-{day:02}", "lab", centre, "chat", "m"), sums) for day, centre, sums in parts)
    whole = Sums()
    for _, sums in days:
        whole = whole.plus(sums)
    amounts = [amount for _, _, amount, _ in priced(days, lists)]
    assert sum(amounts, D(0)) == amount_for(tariff, whole)
    assert all(amount >= 0 for amount in amounts) or tariff.cached > tariff.input
    assert spent_by_tenant({("lab", "m"): whole}, {"m": tariff}) == {"lab": amount_for(tariff, whole)}


@given(TARIFFS, SUMS, SUMS)
def test_more_use_never_costs_less(tariff, one, other):
    assert amount_for(tariff, one.plus(other)) >= amount_for(tariff, one)


@given(TARIFFS, SUMS)
def test_amounts_are_exact_to_the_smallest(tariff, sums):
    amount = amount_for(tariff, sums)
    assert amount == amount.quantize(SMALLEST)
    assert amount <= tariff.flat + (sums.prompt_tokens * max(tariff.input, tariff.cached) + sums.completion_tokens * tariff.output) / 1_000_000 + SMALLEST


def test_every_month_begins_anew():
    tariff = Tariff(input=D(2), flat=D(10), free_tokens=1_000_000)
    keys = [DayKey(day, "lab", "", "m", "m") for day in ("2026-10-31", "2026-11-01", "2026-11-02")]
    rows = priced([(key, Sums(1, 0, 1_000_000)) for key in keys], {"2026-10": PriceList("EUR", {"m": tariff})})
    assert [amount for *_, amount, _ in rows] == [D(10), D(10), D(2)]


def test_what_nobody_asked_for_costs_nothing():
    rows = list(priced([(DayKey("2026-11-01", "", "", "", "m"), Sums(0, 0, 10**6))], {"2026-11": PriceList("EUR", {"m": TARIFF})}))
    assert [(amount, currency) for *_, amount, currency in rows] == [(D(0), "EUR")]
    assert spent_by_tenant({("", "m"): Sums(0, 0, 10**6), ("lab", "unpriced"): Sums(1, 0, 5)}, {"m": TARIFF}) == {"lab": D(0)}


def test_without_any_price_list_there_is_no_currency():
    assert [(amount, currency) for *_, amount, currency in priced([(DayKey("2026-11-01", "lab", "", "", "m"), Sums(1, 0, 5))], {})] == [(D(0), "")]


@pytest.mark.parametrize(
    ("month", "found"), [("2026-09", "2026-10"), ("2026-10", "2026-10"), ("2026-11", "2026-10"), ("2026-12", "2026-12"), ("2027-01", "2026-12")]
)
def test_a_month_without_a_list_has_the_nearest_earlier_one(month, found):
    lists = {"2026-10": PriceList("A", {}), "2026-12": PriceList("B", {})}
    assert price_list_of(month, lists) is lists[found]


def test_what_kivactl_asks_itself_is_billed_to_nobody():
    day = DayKey("2026-11-23", OPERATOR, "", "m", "m")
    [(_, _, amount, _)] = priced([(day, Sums(1, 0, 10**6, 0, 0))], {"2026-11": PriceList("EUR", {"m": Tariff(input=D(2), flat=D(5))})})
    assert amount == 0
    assert spent_by_tenant({(OPERATOR, "m"): Sums(1, 0, 10**6, 0, 0)}, {"m": TARIFF}) == {}

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows import tokens
from kivactl.flows.deployment import Deployment
from kivactl.flows.tenants import Used, account, accounts, used_of
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.certificates import new_key
from kivactl.stack.layout import Layout
from kivactl.stack.metering import Tariff, orders_for
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import open_ledger

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

SPEC = {
    "name": "kiva",
    "models": [{"name": "m", "source": "x/y"}, {"name": "n", "source": "x/y"}],
    "aliases": [{"name": "chat", "models": {"m": 1}}],
    "gateway": {
        "tenants": [
            {
                "name": "police",
                "cost_centre": "4711",
                "contact": "llm@police.example",
                "priority": "high",
                "models": ["m", "chat"],
                "requests_per_minute": 60,
                "per_model": {"chat": {"tokens_per_minute": 1000}},
                "monthly_budget": 200,
            },
            {"name": "tax", "monthly_budget": 0},
            {"name": "parks"},
        ]
    },
}


@pytest.fixture
def deployment(tmp_path):
    loaded = Loaded(Platform.model_validate(SPEC), (), tmp_path, "digest")
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    layout.signing_key.parent.mkdir(parents=True)
    layout.signing_key.write_bytes(new_key())
    return Deployment(loaded, layout, lambda: loaded)


def test_what_the_spec_and_the_register_say(deployment):
    for _ in range(2):
        tokens.issue(deployment, "police", name="client", lifetime=None)
    _, gone = tokens.issue(deployment, "police", name="client", lifetime=None)
    list(tokens.apply_revoke(deployment, frozenset({gone.id})))
    police, tax, parks = accounts(deployment, None)
    assert (police.valid_tokens, tax.valid_tokens) == (2, 0)
    assert {name: (limits.requests_per_minute, limits.tokens_per_minute) for name, limits in police.limits.items()} == {
        "m": (60, None),
        "chat": (None, 1000),
    }
    assert list(parks.limits) == ["m", "n", "chat"]
    assert (police.used, police.budget_ratio) == (None, None)


def test_what_the_ledger_says(deployment):
    used = {"police": Used(3, 40, 300, 4000, Decimal("50.5"), "EUR")}
    police, tax, parks = accounts(deployment, used)
    assert police.budget_ratio == 0.2525
    assert tax.budget_ratio == 1.0  # no budget at all is used up from the start
    assert parks.budget_ratio is None
    assert parks.used == Used(0, 0, 0, 0, Decimal(0), "EUR")
    data = json.loads(json.dumps(police.as_dict()))
    assert data["used"] == {
        "requests_today": 3,
        "tokens_today": 40,
        "requests_month": 300,
        "tokens_month": 4000,
        "amount_month": "50.5",
        "currency": "EUR",
        "budget_ratio": 0.2525,
    }
    assert data["models"]["chat"] == {"requests_per_minute": None, "tokens_per_minute": 1000}


def test_one(deployment):
    assert account(deployment, "tax", None).tenant.name == "tax"
    with pytest.raises(UsageError, match="no tenant named 'taxx'"):
        account(deployment, "taxx", None)


def test_without_a_ledger(deployment):
    assert used_of(deployment.layout) is None


def test_from_a_ledger(deployment):
    layout = deployment.layout
    orders = orders_for(deployment.platform, layout)
    layout.usage.mkdir()
    layout.meter_orders.write_text(json.dumps(orders))
    assert used_of(layout, NOW) is None  # the meter has not begun yet
    ledger = open_ledger(orders["ledger"], "kiva")
    ledger.keep_price_list("2026-11", "EUR", {"m": Tariff(input=Decimal(2), cached=Decimal(2), output=Decimal(4))})
    ledger.add_to_days(
        {
            DayKey("2026-11-23", "police", "4711", "chat", "m"): Sums(2, 0, 1000, 0, 500),
            DayKey("2026-11-23", "police", "4711", "m", "m"): Sums(1, 1, 0, 0, 0),
            DayKey("2026-11-01", "police", "4711", "m", "m"): Sums(10, 0, 1_000_000, 0, 0),
            DayKey("2026-10-31", "police", "4711", "m", "m"): Sums(99, 0, 99, 0, 99),
            DayKey("2026-11-02", "tax", "", "m", "m"): Sums(1, 0, 10, 0, 10),
        }
    )
    ledger.close()
    used = used_of(layout, NOW)
    assert used is not None
    assert used["police"] == Used(3, 1500, 13, 1_001_500, Decimal("2.004"), "EUR")
    assert (used["tax"].requests_today, used["tax"].tokens) == (0, 20)
    assert used.keys() == {"police", "tax"}


def test_a_damaged_register(deployment):
    deployment.layout.token_register.write_text("x")
    with pytest.raises(PreconditionError, match="damaged"):
        accounts(deployment, None)

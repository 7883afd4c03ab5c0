"""The meter's orders."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import usage_lines

from kivactl.spec.platform import Platform
from kivactl.stack.layout import Layout
from kivactl.stack.metering import Account, Tariff, orders_for, orders_from, price_for, read_orders, tariff_from

LAYOUT = Layout(Path("/srv/kiva"), Path("/srv/cache"))


def platform(**parts):
    models = [{"name": "v1", "source": "a/b", "price": {"input": "0.5", "output": 1.5, "free_tokens": 1000}}, {"name": "v2", "source": "a/c"}]
    return Platform.model_validate({"name": "kiva", "models": models, "aliases": [{"name": "chat", "models": {"v1": 1, "v2": 1}}]} | parts)


def test_orders_say_what_the_spec_says():
    tenants = [
        {"name": "lab", "cost_centre": "4711", "tokens_per_minute": 100, "per_model": {"chat": {"tokens_per_minute": 7}}, "monthly_budget": "12.50"},
        {"name": "hall", "models": ["chat"], "contact": "hall@example.org"},
    ]
    orders = orders_for(platform(gateway={"tenants": tenants}, usage={"keep": "30d", "currency": "CHF"}), LAYOUT)
    assert orders == json.loads(json.dumps(orders))
    read = orders_from(orders)
    assert read.accounts == {
        "lab": Account("4711", None, {"v1": 100, "v2": 100, "chat": 7}, Decimal("12.50")),
        "hall": Account(None, "hall@example.org", {"chat": None}, None),
    }
    assert read.tariffs == {"v1": Tariff(Decimal("0.5"), Decimal("0.5"), Decimal("1.5"), Decimal(0), 1000)}
    assert (read.platform, read.currency, read.keep_s, read.ledger) == ("kiva", "CHF", 30 * 86400, f"sqlite:{LAYOUT.ledger}")
    assert (read.access_log, read.usage_folder, read.admin_socket) == (LAYOUT.access_log, LAYOUT.usage, LAYOUT.gateway_admin_socket)


def test_the_meter_writes_where_the_gateway_reads():
    from kivactl.stack.gateway.files import Files

    files = Files(folder=LAYOUT.gateway, run=LAYOUT.run, certificate=LAYOUT.certificate, certificate_key=LAYOUT.certificate_key, access_log=LAYOUT.access_log)
    assert orders_for(platform(), LAYOUT)["quota"] == str(files.quota)


def test_a_ledger_on_a_server_keeps_its_address():
    assert orders_for(platform(usage={"ledger": "postgresql://kiva@db.example.org/usage"}), LAYOUT)["ledger"] == "postgresql://kiva@db.example.org/usage"


def test_small_prices_have_no_exponent():
    models = [{"name": "m", "source": "a/b", "price": {"input": "0.000000001", "cached": 0}}]
    price = orders_for(platform(models=models, aliases=[]), LAYOUT)["prices"]["m"]
    assert (price["input"], price["cached"]) == ("0.000000001", "0")
    assert price_for(tariff_from(price)) == price


@pytest.mark.parametrize(
    "spoil",
    [
        lambda orders: orders.pop("ledger"),
        lambda orders: orders.update(tenants=None),
        lambda orders: orders.update(tenants={"a": None}),
        lambda orders: orders.update(keep_s="long"),
        lambda orders: orders.update(prices={"m": {"input": "much", "cached": None, "output": "1", "flat": "0", "free_tokens": 0}}),
        lambda orders: orders.update(access_log=7),
    ],
)
def test_what_are_no_orders(spoil):
    orders = orders_for(platform(), LAYOUT)
    spoil(orders)
    with pytest.raises(ValueError):
        orders_from(orders)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_files_that_are_no_orders(tmp_path, text):
    (tmp_path / "meter.json").write_text(text)
    with pytest.raises(ValueError):
        read_orders(tmp_path / "meter.json")


def test_the_meter_loads_no_spec():
    code = "import sys, kivactl.usage.meter; print(','.join(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip().split(","))
    assert not loaded & {"pydantic", "httpx", "typer", "rich", "yaml", "ruamel.yaml", "kivactl.spec.platform", "pg8000"}


@pytest.mark.parametrize(
    ("more", "engines", "shared"),
    [
        ({}, (), False),
        ({"engines": ["kiva-chat-all.kiva.svc:8000"]}, ("kiva-chat-all.kiva.svc:8000",), False),
        ({"ledger": "postgresql://kiva@db/usage"}, (), False),
        ({"ledger": "postgresql://kiva@db/usage", "engines": ["a", "b"]}, ("a", "b"), True),
        ({"ledger": "postgresql://kiva@db/usage", "engines": ["a"], "shared": False}, ("a",), False),
        ({"shared": True}, (), True),
    ],
)
def test_a_ledger_on_a_server_is_shared_by_the_gateways_of_a_cluster(tmp_path, more, engines, shared):
    orders = orders_from({**usage_lines.orders(tmp_path), **more})
    assert (orders.engines, orders.shared) == (engines, shared)

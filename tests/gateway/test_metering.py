"""The real meter behind the real gateway: what it enters in the ledger, and whom the gateway refuses on its word."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from kivactl.errors import PreconditionError
from kivactl.flows.usage import report_of
from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Model
from kivactl.spec.usage import Price
from kivactl.stack.metering import orders_for

pytestmark = pytest.mark.real

WITHIN_S = 60.0
"""Seconds in which a limit takes effect."""


@pytest.fixture(scope="module")
def gateway(start_gateway):
    gateway = start_gateway(
        models=(Model(name="m", source="x", price=Price(input="1", output="2")), Model(name="free", source="x")),
        tenants=(Tenant(name="police"), Tenant(name="tax", tokens_per_minute=1000), Tenant(name="spent", monthly_budget="1"), Tenant(name="busy")),
    )
    orders = {**orders_for(gateway.platform, gateway.layout), "rotate_bytes": 20_000}
    gateway.replace(gateway.layout.meter_orders, orders)
    meter = subprocess.Popen([sys.executable, "-m", "kivactl.usage.meter", str(gateway.layout.meter_orders)])
    yield gateway
    meter.terminate()
    assert meter.wait(20) == 0
    gateway.stop()


def ask(gateway, tenant, model="m"):
    return gateway.ask({"model": model, "messages": []}, tenant=tenant)


def count(gateway, answer, *, prompt, completion, model="m"):
    """What the engine would write down of a request."""
    line = {
        "at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "request_id": answer.header("x-request-id"),
        "replica": f"{model}-0",
        "model": model,
        "prompt_tokens": prompt,
        "cached_tokens": 0,
        "completion_tokens": completion,
        "finished": True,
    }
    with gateway.layout.usage_log(f"{model}-0").open("a") as file:
        file.write(json.dumps(line) + "\n")


def entered(gateway, tenant):
    try:
        lines = report_of(gateway.layout, gateway.platform.name).lines
    except PreconditionError:  # the meter has only just begun
        return None
    return next((line for line in lines if line.name == tenant), None)


def test_a_request_and_what_the_engine_counted_become_one_entry(gateway):
    count(gateway, ask(gateway, "police"), prompt=1_000_000, completion=500_000)
    row = gateway.until(lambda: (found := entered(gateway, "police")) and found.sums.completion_tokens and found)
    assert (row.sums.requests, row.sums.failed, row.sums.prompt_tokens, row.sums.completion_tokens) == (1, 0, 1_000_000, 500_000)
    assert row.amount == 2, "a million at 1 and half a million at 2"


def test_above_its_tokens_per_minute_a_tenant_is_refused_for_that_model_only(gateway):
    count(gateway, ask(gateway, "tax"), prompt=900, completion=200)
    refusal = gateway.until(lambda: (answer := ask(gateway, "tax")).status == 429 and answer, WITHIN_S)
    refusal.refuses(429, "rate_limit_exceeded")
    assert refusal.header("retry-after") == "10"
    assert ask(gateway, "tax", "free").status == 200
    assert ask(gateway, "police").status == 200


def test_with_its_budget_used_up_a_tenant_is_refused_and_told_not_to_try_again(gateway):
    count(gateway, ask(gateway, "spent"), prompt=2_000_000, completion=0)
    refusal = gateway.until(lambda: (answer := ask(gateway, "spent")).status == 429 and answer, WITHIN_S)
    refusal.refuses(429, "insufficient_quota")
    assert refusal.header("x-should-retry") == "false"
    assert ask(gateway, "police").status == 200


def test_a_raised_budget_lets_the_tenant_in_again_without_a_restart(gateway):
    tenants = tuple(tenant.model_copy(update={"monthly_budget": None}) for tenant in gateway.platform.gateway.tenants)
    richer = gateway.platform.model_copy(update={"gateway": gateway.platform.gateway.model_copy(update={"tenants": tenants})})
    gateway.replace(gateway.layout.meter_orders, {**orders_for(richer, gateway.layout), "rotate_bytes": 20_000})
    gateway.until(lambda: ask(gateway, "spent").status == 200, WITHIN_S)


def test_rotated_logs_lose_and_double_nothing(gateway):
    for _ in range(300):
        answer = ask(gateway, "busy")
        count(gateway, answer, prompt=2, completion=1)
    row = gateway.until(lambda: (found := entered(gateway, "busy")) and found.sums.requests >= 300 and found.sums.completion_tokens >= 300 and found)
    assert (row.sums.requests, row.sums.prompt_tokens, row.sums.completion_tokens) == (300, 600, 300)
    # Between the renaming of a full log and Envoy's opening of the next there is none.
    gateway.until(gateway.layout.access_log.exists)
    assert gateway.layout.access_log.stat().st_size < 150_000, "the log was rotated"

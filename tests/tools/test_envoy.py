"""What the gateway's admin interface says."""

import json

import pytest

from kivactl.tools.envoy import Admin, parse_clusters


def host(active=0, **health):
    stats = [{"name": "rq_total", "value": "12"}, {"name": "rq_active", "type": "GAUGE", **({"value": str(active)} if active else {})}]
    return {"address": {"pipe": {"path": "/run/a.sock"}}, "stats": stats, "health_status": {"eds_health_status": "HEALTHY", **health}}


def upstream(entry):
    return parse_clusters(json.dumps({"cluster_statuses": [{"name": "engine-m", "host_statuses": [entry]}, {"name": "empty"}]}))[0]


@pytest.mark.parametrize(
    ("health", "healthy", "draining"),
    [
        ({}, True, False),
        ({"failed_active_health_check": True}, False, False),
        ({"failed_outlier_check": True}, False, False),
        ({"pending_active_hc": True}, False, False),
        ({"eds_health_status": "DRAINING"}, False, True),
    ],
)
def test_health(health, healthy, draining):
    found = upstream(host(**health))
    assert (found.healthy, found.draining) == (healthy, draining)


def test_active_requests_are_absent_when_there_are_none():
    assert upstream(host()).active == 0
    assert upstream(host(active=3)).active == 3


def test_addresses_of_both_kinds():
    entry = host() | {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8000}}}
    assert upstream(entry).address == "10.0.0.1:8000"
    assert upstream(host()).address == "/run/a.sock"


def test_no_gateway_is_no_answer(tmp_path):
    admin = Admin(tmp_path / "admin.sock")
    assert not admin.ready()
    assert admin.upstreams() == []

"""Which replica of which version gets a request, and how that changes while streams go on."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Alias, Model

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def gateway(start_gateway):
    gateway = start_gateway(
        models=(Model(name="v1", source="x"), Model(name="v2", source="x"), Model(name="prefix", source="x", replicas=3, balance="prefix")),
        aliases=(Alias(name="chat", models={"v1": 1, "v2": 1}),),
        tenants=(Tenant(name="police", priority="high"), Tenant(name="tax"), Tenant(name="guest", models=("v1",), priority="low")),
    )
    yield gateway
    gateway.stop()


def aliased(gateway, **shares):
    """The same platform with other shares of the alias."""
    return gateway.platform.model_copy(update={"aliases": (Alias(name="chat", models=shares),)})


def served_by(gateway, count=20, model="chat", **options):
    pids = {engine.process.pid: name for name, engine in gateway.engines.items()}
    return Counter(pids[gateway.ask({"model": model, "messages": []}, **options).json()["pid"]] for _ in range(count))


def test_a_model_is_named_by_body_or_by_path(gateway):
    assert set(served_by(gateway, 3, "v1")) == {"v1-0"}
    answer = gateway.ask({"messages": []}, target="/models/v2/v1/chat/completions")
    assert answer.json()["pid"] == gateway.engines["v2-0"].process.pid
    assert gateway.engines["v2-0"].received[-1]["path"] == "/v1/chat/completions"
    assert gateway.logged(answer.header("x-request-id"))["model"] == "v2"


def test_the_path_wins_over_the_body_and_counts_for_permission(gateway):
    assert gateway.ask({"model": "v1", "messages": []}, target="/models/v2/v1/chat/completions").json()["pid"] == gateway.engines["v2-0"].process.pid
    gateway.ask({"model": "v1"}, target="/models/v2/v1/chat/completions", tenant="guest").refuses(403, "model_not_allowed")
    gateway.ask({"model": "v1"}, target="/models/nope/v1/chat/completions").refuses(404, "model_not_found")


def test_everything_that_engines_offer_is_routed(gateway):
    for path in ("completions", "embeddings", "responses", "rerank", "score"):
        assert gateway.ask({"model": "v1"}, target=f"/v1/{path}").status == 200, path
        assert gateway.engines["v1-0"].received[-1]["path"] == f"/v1/{path}"


def test_each_tenant_sees_what_it_may_use(gateway):
    def names(tenant):
        return [entry["id"] for entry in gateway.ask(method="GET", target="/v1/models", tenant=tenant).json()["data"]]

    assert names("tax") == ["v1", "v2", "prefix", "chat"]
    assert names("guest") == ["v1"]
    assert gateway.ask(method="GET", target="/v1/models/v1", tenant="guest").json()["id"] == "v1"
    gateway.ask(method="GET", target="/v1/models/v2", tenant="guest").refuses(404, "model_not_found")


def test_versions_share_by_weight_and_can_be_pinned(gateway):
    shared = served_by(gateway, 60)
    assert shared.keys() == {"v1-0", "v2-0"}
    assert min(shared.values()) > 10
    assert served_by(gateway, 5, headers=[("x-kiva-version", "v2")]) == {"v2-0": 5}


def test_a_switch_drops_no_stream_and_takes_effect_at_once(gateway):
    gateway.apply(aliased(gateway, v1=1))
    gateway.until(lambda: served_by(gateway, 5) == {"v1-0": 5})
    body = json.dumps({"model": "chat", "messages": [], "stand_in": {"do": "stream", "events": 30, "gap_s": 0.1}}).encode()
    with gateway.connect() as connection:
        connection.send(gateway.head(headers=[("content-type", "application/json"), ("content-length", str(len(body)))]) + body)
        assert connection.head()[0].endswith("200 OK")
        gateway.apply(aliased(gateway, v1=0, v2=1))
        gateway.until(lambda: served_by(gateway, 5) == {"v2-0": 5})
        connection.sock.settimeout(20)
        rest = connection._chunks()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert rest.count(b'"number"') == 30
    gateway.apply(aliased(gateway, v1=1, v2=1))


def test_what_begins_alike_goes_to_the_replica_that_knows_it(gateway):
    def replica_of(question, tenant="tax"):
        messages = [{"role": "system", "content": "You help officials." * 5}, {"role": "user", "content": question}]
        answer = gateway.ask({"model": "prefix", "messages": messages}, tenant=tenant)
        return answer.json()["pid"]

    for question in ("first", "second", "third"):
        assert len({replica_of(question) for _ in range(5)}) == 1
    assert len({replica_of(f"question {number}") for number in range(40)}) == 3


def test_the_engine_is_told_who_goes_first(gateway):
    for tenant, priority in (("police", "-10"), ("tax", "0"), ("guest", "10")):
        gateway.ask({"model": "v1"}, tenant=tenant)
        assert dict(gateway.engines["v1-0"].received[-1]["headers"])["x-kiva-priority"] == priority

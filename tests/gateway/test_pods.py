"""The gateway as it runs in pods: replicas come and go behind names, configuration and certificate change by the swap of a mounted folder."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from free_ports import free_ports
from pod_gateway import PodGateway

from kivactl.spec.gateway import Gateway, Tenant
from kivactl.spec.platform import Alias, Model, Platform
from kivactl.stack.certificates import authority_for, new_key, server_certificate_for
from kivactl.stack.gateway.quota import EVERY_MODEL, Reason, quota_for
from kivactl.tools.tls import shown_fingerprint

pytestmark = pytest.mark.real

Start = Callable[..., PodGateway]


@pytest.fixture(scope="module")
def start(tmp_path_factory, certificate, signing_key) -> Iterator[Start]:
    running: list[PodGateway] = []

    def start(replicas: dict[str, int], *, aliases: tuple[Alias, ...] = (), **values: Any) -> PodGateway:
        port, metrics = free_ports(2)
        values = {"tenants": (Tenant(name="police"), Tenant(name="tax")), **values}
        models = tuple(Model(name=name, source="x", stalled_after="5s") for name in replicas)
        platform = Platform(name="kiva", models=models, aliases=aliases, gateway=Gateway(port=port, metrics={"port": metrics}, **values))
        running.append(PodGateway(tmp_path_factory.mktemp("pod"), platform, replicas, certificate, signing_key))
        return running[-1]

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture(scope="module")
def gateway(start) -> PodGateway:
    return start({"two": 2, "old": 1, "new": 1}, aliases=(Alias(name="chat", models={"old": 1, "new": 0}),), wait="3s")


@pytest.fixture
def two(gateway) -> PodGateway:
    gateway.show("two", ["two-0", "two-1"])
    gateway.until(lambda: gateway.seen("two") == {"two-0", "two-1"})
    return gateway


def body(model: str, **stand_in: Any) -> dict[str, Any]:
    return {"model": model, "messages": [], "stand_in": stand_in}


class Held:
    """A stream that an engine has begun and ends when it is told to."""

    def __init__(self, gateway: PodGateway, model: str, flag: Path) -> None:
        self.gateway, self.flag = gateway, flag
        self.connection = gateway.connect()
        content = json.dumps(body(model, do="hold", until=str(flag))).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(content)))]
        before = {name: len(engine.received) for name, engine in gateway.engines.items()}
        self.connection.send(gateway.head(headers=headers) + content)
        [self.engine] = gateway.until(lambda: [name for name, engine in gateway.engines.items() if len(engine.received) > before[name]])

    def finish(self) -> list[str]:
        """Let it end; what came of it."""
        self.flag.touch()
        answer = self.connection.answer()
        assert answer is not None
        assert answer.status == 200
        events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]
        return [event["choices"][0]["delta"]["content"] for event in events]


def metrics(gateway: PodGateway, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{gateway.platform.gateway.metrics_port}{path}")


def test_requests_go_to_all_replicas_behind_the_name(two):
    assert {two.ask(body("two")).status for _ in range(20)} == {200}
    assert all(two.engines[name].received for name in ("two-0", "two-1"))


def test_a_replica_that_leaves_the_name_gets_nothing_new_and_finishes_what_it_has(two, tmp_path):
    held = Held(two, "two", tmp_path / "flag")
    [other] = {"two-0", "two-1"} - {held.engine}
    two.show("two", [other])
    two.until(lambda: two.seen("two") == {other})
    before = len(two.engines[held.engine].received)
    assert {two.ask(body("two")).status for _ in range(20)} == {200}
    assert len(two.engines[held.engine].received) == before
    assert held.finish() == ["first ", "last"]


def test_a_replica_that_joins_the_name_gets_requests(two):
    two.show("two", ["two-0"])
    two.until(lambda: two.seen("two") == {"two-0"})
    two.show("two", ["two-0", "two-1"])
    two.until(lambda: two.seen("two") == {"two-0", "two-1"})


@pytest.mark.parametrize("engines", [[], None], ids=["a name without addresses", "no such name"])
def test_a_model_scaled_to_zero_is_unavailable_after_the_wait_and_says_when_to_come_again(two, engines):
    two.show("two", engines)
    two.until(lambda: two.seen("two") == set())
    answer = two.ask(body("two"))
    answer.refuses(503, "unavailable")
    assert answer.header("retry-after") == "5"
    entry = two.logged(answer.header("x-request-id"))
    assert entry["duration_ms"] >= 2500, "it waited for a replica"
    assert two.ask(body("old")).status == 200, "the other model does not mind"


def test_a_request_that_waits_is_answered_by_the_first_replica_that_comes(start):
    gateway, answers = start({"m": 1}, wait="2m"), []
    gateway.show("m", [])
    gateway.until(lambda: gateway.seen("m") == set())
    waiting = threading.Thread(target=lambda: answers.append(gateway.ask(body("m"), timeout_s=150).status))
    waiting.start()
    gateway.until(lambda: any(upstream.waiting and upstream.active for upstream in gateway.admin.upstreams()))
    assert answers == []
    gateway.show("m", ["m-0"])
    waiting.join()
    assert answers == [200]


def test_a_name_server_that_fails_takes_no_replica_away(two):
    two.names.failing = True
    try:
        failures = two.admin.counters("cluster.engine-two.update_failure")["cluster.engine-two.update_failure"]
        two.until(lambda: two.admin.counters("cluster.engine-two.update_failure")["cluster.engine-two.update_failure"] > failures + 1)
        assert two.seen("two") == {"two-0", "two-1"}
        assert two.ask(body("two")).status == 200
    finally:
        two.names.failing = False


def test_names_are_asked_for_as_they_are_and_not_with_search_domains(two):
    assert set(two.names.asked) <= {f"kiva-{model}.kiva.svc.cluster.local" for model in ("two", "old", "new", "m")}


def test_a_swapped_folder_changes_weights_and_revocations_while_a_stream_lives_on(gateway, tmp_path):
    held = Held(gateway, "chat", tmp_path / "flag")
    assert held.engine == "old-0"
    swapped = gateway.platform.model_copy(update={"aliases": (Alias(name="chat", models={"old": 0, "new": 1}),)})
    before = gateway.platform
    try:
        gateway.apply(swapped, revoked=["token-of-tax"])
        gateway.until(lambda: gateway.ask(body("chat"), tenant="tax").status == 401)
        gateway.until(lambda: gateway.ask(body("chat")).status == 200 and len(gateway.engines["new-0"].received) > 3)
        old = len(gateway.engines["old-0"].received)
        assert {gateway.ask(body("chat")).status for _ in range(5)} == {200}
        assert len(gateway.engines["old-0"].received) == old
        assert held.finish() == ["first ", "last"]
    finally:
        gateway.apply(before)
    gateway.until(lambda: gateway.ask(body("chat"), tenant="tax").status == 200)


def test_a_second_swap_is_read_like_the_first(gateway):
    """The watched link leads to another folder each time."""
    before = gateway.platform
    for name in ("one", "other"):
        tenants = (*before.gateway.tenants, Tenant(name=name))
        gateway.apply(before.model_copy(update={"gateway": before.gateway.model_copy(update={"tenants": tenants})}))
        gateway.until(lambda name=name: gateway.ask(body("old"), tenant=name).status == 200)
    gateway.apply(before)
    gateway.until(lambda: gateway.ask(body("old"), tenant="other").status == 403)
    rejected = [count for name, count in gateway.admin.counters(".*update_rejected").items() if name.endswith("update_rejected")]
    assert rejected
    assert sum(rejected) == 0


def test_what_the_meter_writes_is_in_force_at_once(gateway):
    try:
        _write(gateway.files.quota, quota_for({"tax": {EVERY_MODEL: Reason.BUDGET}}))
        gateway.until(lambda: gateway.ask(body("old"), tenant="tax").status == 429)
        assert gateway.ask(body("old"), tenant="police").status == 200
    finally:
        _write(gateway.files.quota, quota_for({}))
    gateway.until(lambda: gateway.ask(body("old"), tenant="tax").status == 200)


def _write(path: Path, content: Any) -> None:
    """As the meter does it."""
    beside = path.with_name(f".{path.name}.meter")
    beside.write_text(json.dumps(content))
    beside.replace(path)


def test_a_swapped_secret_renews_the_certificate_and_cuts_nobody(gateway, tmp_path):
    held = Held(gateway, "old", tmp_path / "flag")
    before = shown_fingerprint("127.0.0.1", gateway.port)
    chain, key = (gateway.secret.folder / name for name in ("tls.crt", "tls.key"))
    was = {path.name: path.read_text() for path in (chain, key)}
    ca_key, fresh_key, now = new_key(), new_key(), datetime.now(UTC)
    authority = authority_for(ca_key, platform="kiva", now=now)
    fresh = server_certificate_for(fresh_key, platform="kiva", names=["DNS:localhost"], authority=authority, authority_key=ca_key, now=now)
    try:
        gateway.secret.swap({"tls.crt": fresh.decode(), "tls.key": fresh_key.decode()})
        gateway.until(lambda: shown_fingerprint("127.0.0.1", gateway.port) != before)
        assert held.finish() == ["first ", "last"]
        sds = gateway.admin.counters("sds.gateway.")
        assert (sds["sds.gateway.key_rotation_failed"], sds["sds.gateway.update_rejected"]) == (0, 0)
    finally:
        gateway.secret.swap(was)
    gateway.until(lambda: shown_fingerprint("127.0.0.1", gateway.port) == before)


def test_the_metrics_port_answers_the_kubelet_and_prometheus_and_drains_nobody(gateway):
    assert (metrics(gateway, "/ready").text, metrics(gateway, "/live").text) == ("LIVE\n", "server.live: 1\n")
    assert "envoy_cluster_upstream_rq" in metrics(gateway, "/metrics/gateway").text
    for path in ("/drain", "/active", "/metrics/engines/two-0", "/config_dump", "/"):
        assert metrics(gateway, path).status_code == 404, path
    assert httpx.post(f"http://127.0.0.1:{gateway.platform.gateway.metrics_port}/drain").status_code == 404
    assert metrics(gateway, "/ready").status_code == 200


def test_what_is_for_the_pod_itself_is_bound_to_loopback(gateway):
    legs = [leg for legs in psutil.net_if_addrs().values() for leg in legs]
    others = [leg.address for leg in legs if leg.family == socket.AF_INET and not leg.address.startswith("127.")]
    if not others:
        pytest.skip("this machine has no address besides loopback")
    for port in (gateway.files.operations_port, gateway.files.waiting_port):
        with socket.socket() as probe:
            assert probe.connect_ex((others[0], port)) != 0


def test_a_gateway_with_all_connections_it_takes_is_still_ready_and_alive(start):
    gateway = start({"m": 1}, connections=3)
    held = [gateway.connect() for _ in range(3)]
    with pytest.raises(OSError, match=r"(?i)reset|eof|closed"):
        gateway.connect(timeout_s=10)
    assert (metrics(gateway, "/ready").status_code, metrics(gateway, "/live").status_code) == (200, 200)
    for connection in held:
        connection.sock.close()

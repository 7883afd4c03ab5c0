"""Replicas that die, hang or restart: what a gateway can save it saves, and what it cannot the client notices."""

from __future__ import annotations

import threading

import httpx
import openai
import pytest

from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Model
from kivactl.stack.gateway import waiting
from kivactl.stack.gateway.routes import retries

pytestmark = pytest.mark.real


@pytest.fixture
def gateway(start_gateway):
    gateway = start_gateway(
        models=(Model(name="two", source="x", replicas=2, stalled_after="5s"), Model(name="one", source="x")),
        tenants=(Tenant(name="police"),),
        wait="6s",
    )
    yield gateway
    gateway.stop()


@pytest.fixture
def patient_gateway(fresh_gateway):
    return fresh_gateway(models=(Model(name="one", source="x"),), wait="2m")


def body(model, **stand_in):
    return {"model": model, "messages": [], "stand_in": stand_in}


def test_a_dying_replica_is_tried_no_second_time(gateway):
    """The one that is asked first drops the connection; the other answers."""
    answers = [gateway.ask(body("two", do="sleep", for_s=0.05)).status for _ in range(3)]
    gateway.engines["two-0"].kill()
    answers += [gateway.ask(body("two")).status for _ in range(20)]
    assert set(answers) == {200}
    for entry in gateway.log[-20:]:
        assert entry["attempts"] <= 2, entry


def test_a_request_that_kills_its_replica_does_not_walk_through_all_of_them_for_ever(gateway):
    answer = gateway.ask(body("two", do="die"), timeout_s=120)
    answer.refuses(503)
    tried = len([entry for entry in gateway.received if "die" in entry["body"]])
    most = retries()["num_retries"] + 1 + len(waiting.pauses_for(6.0)) * (waiting._TRIES + 1)
    assert 2 <= tried <= most, "as often as is configured; this stand-in is there again at once, where an engine takes its time"
    gateway.until(lambda: gateway.ask(body("two")).status == 200)


def test_requests_wait_while_the_last_replica_restarts(patient_gateway):
    gateway, answers = patient_gateway, []
    engine = gateway.engines["one-0"]
    engine.kill()
    engine.address.unlink()
    waiting = threading.Thread(target=lambda: answers.append(gateway.ask(body("one"), timeout_s=120).status))
    waiting.start()
    gateway.until(lambda: any(upstream.waiting and upstream.active for upstream in gateway.admin.upstreams()))
    assert answers == []
    engine.start()
    waiting.join()
    assert answers == [200]


def test_the_wait_is_bounded_and_its_end_says_when_to_come_again(gateway):
    engine = gateway.engines["one-0"]
    engine.kill()
    engine.address.unlink()
    answer = gateway.ask(body("one"), timeout_s=60)
    answer.refuses(503, "unavailable")
    assert answer.header("retry-after") == "5"
    assert gateway.ask(body("two")).status == 200, "the other model does not mind"


def test_a_stream_that_is_cut_is_noticed_by_the_client(gateway):
    client = gateway.client()
    with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
        list(client.chat.completions.create(model="one", messages=[], stream=True, extra_body={"stand_in": {"do": "die-mid-stream", "events": 3}}))


def test_a_client_that_leaves_is_no_failure_of_the_replica(gateway):
    for count in range(1, 6):
        with gateway.connect() as connection:
            content = b'{"model": "one", "stand_in": {"do": "sleep", "for_s": 5}}'
            connection.send(gateway.head(headers=[("content-type", "application/json"), ("content-length", str(len(content)))]) + content)
            gateway.until(lambda count=count: len(gateway.received) == count)
    assert gateway.serves(model="one")
    left = gateway.until(lambda: [entry for entry in gateway.log if "DC" in entry["flags"]])
    assert left[0]["status"] == 0


def test_a_draining_replica_gets_nothing_new_and_finishes_what_it_has(gateway):
    from kivactl.targets.desired import endpoints

    results = []
    slow = threading.Thread(target=lambda: results.append([gateway.ask(body("two", do="sleep", for_s=2)).status for _ in range(1)]))
    slow.start()
    gateway.until(lambda: [entry for entry in gateway.received if "sleep" in entry["body"]])
    busy = next(name for name, engine in gateway.engines.items() if any("sleep" in entry["body"] for entry in engine.received))
    gateway.replace(gateway.files.endpoints("two"), endpoints("two", gateway.layout, ["two-0", "two-1"], frozenset({busy})))
    gateway.until(lambda: any(upstream.draining for upstream in gateway.admin.upstreams()))
    before = len(gateway.engines[busy].received)
    assert {gateway.ask(body("two")).status for _ in range(10)} == {200}
    assert len(gateway.engines[busy].received) == before
    slow.join()
    assert results == [[200]]

"""The command that holds the end of a gateway's pod, as the image has it, against the real gateway."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from free_ports import free_ports
from pod_gateway import PodGateway
from running_gateway import until

from kivactl.spec.gateway import Gateway, Tenant
from kivactl.spec.platform import Model, Platform

pytestmark = pytest.mark.real

DRAIN = Path(__file__).parents[2] / "images/gateway/drain"


@pytest.fixture
def gateway(tmp_path_factory, certificate, signing_key) -> Iterator[PodGateway]:
    port, metrics = free_ports(2)
    settings = Gateway(port=port, metrics={"port": metrics}, tenants=(Tenant(name="police"),))
    platform = Platform(name="kiva", models=(Model(name="m", source="x"),), gateway=settings)
    gateway = PodGateway(tmp_path_factory.mktemp("pod"), platform, {"m": 1}, certificate, signing_key)
    yield gateway
    gateway.stop()


def drain(port: int, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen([DRAIN, *argv], env={"PATH": os.environ["PATH"], "KIVA_OPERATIONS_PORT": str(port)}, stderr=subprocess.PIPE, text=True)


def ready(gateway: PodGateway) -> int:
    return httpx.get(f"http://127.0.0.1:{gateway.platform.gateway.metrics_port}/ready").status_code


def hold(gateway: PodGateway, flag: Path):
    """A request in work until the flag is there."""
    connection = gateway.connect()
    content = json.dumps({"model": "m", "messages": [], "stand_in": {"do": "hold", "until": str(flag)}}).encode()
    connection.send(gateway.head(headers=[("content-type", "application/json"), ("content-length", str(len(content)))]) + content)
    gateway.until(lambda: [entry for entry in gateway.received if str(flag) in entry["body"]])
    return connection


def test_a_pod_is_held_until_its_last_request_is_answered(gateway, tmp_path):
    connection = hold(gateway, tmp_path / "flag")
    ending = drain(gateway.files.operations_port, "300", "0")
    gateway.until(lambda: ready(gateway) == 503)
    # What the cluster still sends in between is answered, and told to go elsewhere next time.
    answer = gateway.ask({"model": "m", "messages": []})
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert ending.poll() is None
    (tmp_path / "flag").touch()
    answer = connection.answer()
    assert answer is not None
    assert answer.body.count(b"data: ") == 2
    assert ending.wait(30) == 0
    assert gateway.process.poll() is None, "the pod ends it, nobody else"


def test_requests_without_an_end_hold_a_pod_for_the_given_time_only(gateway, tmp_path):
    held = hold(gateway, tmp_path / "flag")
    ending = drain(gateway.files.operations_port, "2", "0")
    assert ending.wait(30) == 0
    assert ending.stderr is not None
    assert "still in work" in ending.stderr.read()
    held.sock.close()


def test_an_idle_pod_is_held_while_it_may_still_be_sent_requests(gateway):
    ending = drain(gateway.files.operations_port, "300", "3")
    gateway.until(lambda: ready(gateway) == 503)
    assert ending.poll() is None
    assert ending.wait(30) == 0


def test_a_dead_gateway_holds_nothing(free_port):
    ending = drain(free_port, "300", "10")
    assert ending.wait(10) == 0
    assert ending.stderr is not None
    assert "no gateway" in ending.stderr.read()


def test_a_gateway_that_dies_meanwhile_holds_nothing_more(gateway, tmp_path):
    held = hold(gateway, tmp_path / "flag")
    ending = drain(gateway.files.operations_port, "300", "0")
    gateway.until(lambda: ready(gateway) == 503)
    gateway.process.kill()
    assert ending.wait(30) == 0
    until(lambda: gateway.process.poll() is not None)
    held.sock.close()

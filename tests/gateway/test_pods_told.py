"""How a change shows that was written for a gateway in a pod: what the real Envoy says of it, asked as the target does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from free_ports import free_ports
from pod_gateway import PodGateway

from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.certificates import new_key
from kivactl.targets.kubernetes.gateway import _route_sign, _trust_sign
from kivactl.targets.kubernetes.takeover import _PROGRAM

pytestmark = pytest.mark.real


def platform(port: int, metrics: int, **weights: int) -> Platform:
    models = [{"name": name, "source": "x/y"} for name in ("v1", "v2")]
    gateway = {"port": port, "metrics": {"port": metrics}, "tenants": [{"name": "police"}]}
    return Platform.model_validate({"name": "kiva", "models": models, "aliases": [{"name": "chat", "models": weights}], "gateway": gateway})


@pytest.fixture
def gateway(tmp_path_factory, certificate, signing_key) -> Iterator[PodGateway]:
    gateway = PodGateway(tmp_path_factory.mktemp("pod"), platform(*free_ports(2), v1=100, v2=0), {"v1": 1, "v2": 1}, certificate, signing_key)
    yield gateway
    gateway.stop()


def files(gateway):
    return {path.name: json.loads(path.read_text()) for path in gateway.files.folder.glob("*.json")}


def asked(gateway, sign):
    ran = subprocess.run([sys.executable, "-c", _PROGRAM, str(gateway.files.admin_socket), sign.dump], capture_output=True, text=True, timeout=30, check=True)
    return sign.seen(json.loads(ran.stdout))


def counted(gateway, sign):
    text = httpx.get(f"http://127.0.0.1:{gateway.platform.gateway.metrics_port}/metrics/gateway").text
    assert sign.counters
    return {name: next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))) for name in sign.counters}


@pytest.mark.parametrize("what", ["revocation", "key", "shares"])
def test_a_change_shows_when_it_is_taken_over_and_not_before(gateway, what):
    before = files(gateway)
    spec, revoked = gateway.platform, []
    if what == "revocation":
        revoked = ["one", "two"]
    elif what == "key":
        gateway.signing_key = new_key()
    else:
        spec = platform(spec.gateway.port, spec.gateway.metrics_port, v1=90, v2=10)
    wanted = {name: json.loads(text) for name, text in gateway._content(spec, revoked).items()}
    sign = (_route_sign if what == "shares" else _trust_sign)(before, wanted)
    assert len(sign.counters) == 1
    assert not asked(gateway, sign)
    counts = counted(gateway, sign)
    gateway.apply(spec, revoked)
    gateway.until(lambda: asked(gateway, sign))
    assert counted(gateway, sign) != counts
    if what == "key":
        assert tokens.jwks_for([gateway.signing_key])["keys"][0]["kid"] in json.dumps(files(gateway))

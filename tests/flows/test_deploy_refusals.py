"""What `deploy` refuses before anything starts, each in one sentence that names the culprit and the next command."""

import importlib.util
import json
import os
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kivactl.errors import KivaError, PreconditionError
from kivactl.flows.deploy import apply_deploy, local, plan_deploy
from kivactl.flows.deployment import Deployment
from kivactl.plan import Verb
from kivactl.spec.load import load, paths
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held
from kivactl.tools import machine
from kivactl.tools.ports import free_pair

SPEC = """
name: test
target: {target}
models:
  - name: tiny
    source: path:./tiny
    replicas: 2
    max_length: 512
    {more}
gateway: {{port: {port}}}
storage: {{cache: ./cache}}
"""


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_pair()

    def write(self, more="engine: {load-format: dummy}", target="local"):
        (self.folder / "kiva.yaml").write_text(SPEC.format(port=self.port, more=more, target=target))

    @property
    def deployment(self) -> Deployment:
        loaded = load(self.folder / "kiva.yaml")
        return Deployment(loaded, Layout(*paths(loaded)), lambda: load(self.folder / "kiva.yaml"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    module_spec = importlib.util.spec_from_file_location("tiny_model", Path(__file__).parents[1] / "tiny_model.py")
    tiny_model = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(tiny_model)
    tiny_model.build(tmp_path / "tiny")
    site = Site(tmp_path)
    site.write()
    layout = site.deployment.layout
    layout.signing_key.parent.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    layout.signing_key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    monkeypatch.setattr(local, "provisioned", lambda *_: True)
    return site


def refused(site, kind=PreconditionError) -> KivaError:
    with pytest.raises(kind) as caught:
        plan_deploy(site.deployment)
    assert caught.value.hint
    assert not caught.value.message.endswith(".")
    return caught.value


def test_the_plan_of_a_first_deploy(site):
    plan = plan_deploy(site.deployment)
    assert [(change.verb, change.subject) for change in plan.changes] == [
        (Verb.CREATE, "gateway"),
        (Verb.CREATE, "meter"),
        (Verb.CREATE, "engine tiny-0"),
        (Verb.CREATE, "engine tiny-1"),
    ]


def test_a_machine_that_is_not_provisioned(site, monkeypatch):
    monkeypatch.setattr(local, "provisioned", lambda *_: False)
    assert refused(site).hint == "kivactl provision"


def test_a_taken_port_and_by_whom(site):
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        error = refused(site)
    assert f"port {site.port} on 127.0.0.1 is taken by" in error.message
    assert f"pid {os.getpid()}" in error.message


def test_a_missing_model_folder(site):
    (site.folder / "tiny").rename(site.folder / "elsewhere")
    assert str(site.folder / "tiny") in refused(site).message


def test_weights_cut_short(site):
    site.write(more="")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [100], "data_offsets": [0, 200]}}).encode()
    (site.folder / "tiny" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 50)
    assert "model.safetensors" in refused(site).message


def test_what_cannot_fit_the_machine(site):
    site.write("kv_cache: 900GiB\n    engine: {load-format: dummy}")
    error = refused(site)
    assert "not enough memory" in error.message
    assert "GiB" in error.message or "TiB" in error.message


def test_what_does_not_fit_beside_everything_else(site, monkeypatch):
    facts = machine.facts()
    from dataclasses import replace

    monkeypatch.setattr(machine, "facts", lambda: replace(facts, memory_available_bytes=2**28))
    assert "256MiB are free" in refused(site).message


def test_an_unreadable_record(site):
    site.deployment.layout.release.write_text("{")
    assert str(site.deployment.layout.release) in refused(site).message


def test_a_spec_that_changed_since_the_plan(site):
    deployment = site.deployment
    plan = plan_deploy(deployment)
    site.write("concurrency: 8\n    engine: {load-format: dummy}")
    with pytest.raises(PreconditionError, match="the spec changed since the plan was made"):
        list(apply_deploy(deployment, plan))


def test_a_platform_that_changed_since_the_plan(site):
    deployment = site.deployment
    plan = plan_deploy(deployment)
    deployment.layout.release.write_text(json.dumps({"processes": {"gateway": {"argv": ["envoy"]}}, "endpoint": "x"}))
    with pytest.raises(PreconditionError, match="the platform changed since the plan was made"):
        list(apply_deploy(deployment, plan))


def test_the_second_operator_is_told_about_the_first(site):
    deployment = site.deployment
    plan = plan_deploy(deployment)
    with held(deployment.layout.lock, "runbook stop"), pytest.raises(PreconditionError, match=f"'runbook stop' of .*pid {os.getpid()}"):
        list(apply_deploy(deployment, plan))


def test_a_jump_of_the_wall_clock_changes_no_deadline():
    from kivactl.tools.clock import Clock

    slept: list[float] = []
    clock = Clock(now_s=lambda: sum(slept), sleep=slept.append)
    assert list(clock.ticks(1.0, every_s=0.5)) == [0.0, 0.5, 1.0]
    assert Clock().now_s.__name__ == "monotonic"

"""A platform as the flows see it: where it runs is opened once for a command, and anew for another spec."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cluster_specs import cluster, model

from kivactl.flows import deployment as module
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.spec.load import load
from kivactl.stack.layout import Layout
from kivactl.targets.target import open_target


@pytest.fixture
def opened(monkeypatch):
    """The names of the platforms whose target was opened."""
    names = []

    def opening(platform, layout, clock):
        names.append(platform.name)
        return open_target(platform, layout, clock)

    monkeypatch.setattr(module, "open_target", opening)
    return names


@pytest.fixture
def deployment(tmp_path, signing_key):
    config = {"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}
    (tmp_path / "config").write_text(json.dumps(config))
    here = cluster(context="prod", kubeconfig=str(tmp_path / "config"), gateway={"host": "llm.example.org", "expose": "load-balancer"})
    (tmp_path / "kiva.yaml").write_text(json.dumps({"name": "kiva", "target": "kubernetes", "kubernetes": here, "models": [model("small")]}))
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    layout.signing_key.parent.mkdir(parents=True)
    layout.signing_key.write_bytes(signing_key)
    return Deployment(load(tmp_path / "kiva.yaml"), layout, lambda: load(tmp_path / "kiva.yaml"))


def test_a_command_opens_the_cluster_once(deployment, opened):
    target = deployment.target
    endpoints = [endpoint_for(deployment, lifetime=timedelta(minutes=5)) for _ in range(3)]  # as each try of a proof does
    assert deployment.target is target
    assert opened == ["kiva"]
    assert {one.url for one in endpoints} == {deployment.endpoint}


def test_another_spec_is_another_target(deployment, opened):
    first = deployment.target
    assert replace(deployment, loaded=deployment.reload()).target is not first
    assert opened == ["kiva", "kiva"]

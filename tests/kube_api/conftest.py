"""A fresh API server per test, real helm and kubectl, and a small chart."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helm.charts import LAYERS, NEWEST, binary, helm_environment
from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi

from kivactl.tools import helm as adapter
from kivactl.tools.helm import Helm

CHART = Path(__file__).parent / "chart"


@pytest.fixture
def api():
    """A running server with the namespace `kiva`."""
    with KubeApi() as server:
        server.namespace("kiva")
        yield server
        assert server.crashes == []


@pytest.fixture
def kubelet(api):
    """A cluster with one node of two GPUs, and a storage class."""
    machinery = Kubelet(api)
    machinery.node("gpu-1", gpus=2)
    machinery.storage_class("disk", default=True)
    return machinery


@pytest.fixture
def kubeconfig(api, tmp_path):
    return api.kubeconfig(tmp_path / "kubeconfig", namespace="kiva")


# With the newest all of it, with the others the beginning and the end; the rest of them runs with the long tests.
VERSIONS = [version if version == NEWEST else pytest.param(version, marks=pytest.mark.real) for version in LAYERS]


@pytest.fixture(params=VERSIONS)
def helm(request, kubeconfig, tmp_path, monkeypatch):
    """The adapter on each version of the real Helm."""
    return real_helm(request.param, kubeconfig, tmp_path, monkeypatch)


@pytest.fixture(params=list(LAYERS))
def every_helm(request, kubeconfig, tmp_path, monkeypatch):
    """The same, never left out."""
    return real_helm(request.param, kubeconfig, tmp_path, monkeypatch)


@pytest.fixture(params=[one for one in VERSIONS if "3.17" not in str(one)])
def helm4(request, kubeconfig, tmp_path, monkeypatch):
    return real_helm(request.param, kubeconfig, tmp_path, monkeypatch)


def real_helm(version, kubeconfig, tmp_path, monkeypatch):
    """A version of Helm as the one on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "helm").symlink_to(binary("helm", version))
    for name, value in helm_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    adapter._version.cache_clear()
    return Helm(kubeconfig, "kiva-test", "kiva")


@pytest.fixture(params=[NEWEST, pytest.param("3.17", marks=pytest.mark.real)], ids=["kubectl-1.37", "kubectl-1.31"])
def kubectl(request, kubeconfig):
    """Runs kubectl; returns exit code and what it printed on both streams."""

    def run(*words, stdin=""):
        argv = [binary("kubectl", request.param), "--kubeconfig", kubeconfig, "--context", "kiva-test", "--cache-dir", kubeconfig.parent / "cache", *words]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def chart():
    return CHART


def deployment(name="kiva-x", replicas=1, image="registry.example.org/engine@sha256:1", gpus=0, **spec):
    """A Deployment of one container."""
    container = {"name": "engine", "image": image, **({"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "kiva"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
            **spec,
        },
    }

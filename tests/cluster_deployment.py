"""A platform in the tests' cluster as flows and runbooks see it: a spec on disk, the real charts, pods by script."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from cluster_site import NAMESPACE, QuickClock
from cluster_specs import cluster, model
from helm.charts import binary
from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi

from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome
from kivactl.spec.load import load
from kivactl.stack.kubernetes.names import endpoint_of
from kivactl.stack.layout import Layout
from kivactl.stack.metering import orders_for
from kivactl.targets.kubernetes.desired import cluster_desired_for
from kivactl.tools.clock import Clock
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_objects import Ran
from kivactl.usage import asked, handing

JWKS = {"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "x": "A" * 43, "y": "A" * 43, "alg": "ES256", "use": "sig"}]}


class ClusterSite:
    """The cluster, and a platform for it.

    Args:
        folder: For spec, state and kubeconfig.
        spec: Beside name, target and cluster.
        cluster_values: Of the spec's part on the cluster.
    """

    def __init__(self, folder: Path, cluster_values: dict[str, Any] | None = None, **spec: Any) -> None:
        self.api = KubeApi()
        self.api.start()
        self.kubelet = Kubelet(self.api)
        self.kubelet.node("gpu-1", gpus=4)
        self.kubelet.node("cpu-1", cpu="64", memory="256Gi")
        self.kubelet.storage_class("fast", default=True)
        self.api.kubeconfig(folder / "kubeconfig", "prod")
        self.api.namespace(NAMESPACE)
        self.api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kiva-gateway-tls"}, "type": "Opaque"}, NAMESPACE)
        here = cluster(kubeconfig="./kubeconfig", **(cluster_values or {}))
        content = {"name": "kiva", "target": "kubernetes", "kubernetes": here, "models": [model("qwen")], **spec}
        self.path = folder / "kiva.yaml"
        self.path.write_text(json.dumps(content))
        quick = QuickClock()
        layout = Layout(folder / "state", folder / "cache")
        layout.state.mkdir(mode=0o700)
        self.deployment = Deployment(load(self.path), layout, lambda: load(self.path), Clock(quick.now_s, quick.sleep))

    def deploy(self) -> list[Outcome]:
        """What a deploy does, but for the token that proves it."""
        platform = self.deployment.platform
        target = self.deployment.target
        outcomes = list(target.apply(cluster_desired_for(platform, endpoint=endpoint_of(platform), jwks=JWKS)))
        target.finish(self.deployment.loaded.digest, "2026-11-29T12:00:00+00:00")
        return outcomes

    def pods(self, *components: str) -> list[str]:
        """Names of the pods of gateway and engines, or of some components."""
        wanted = components or ("gateway", "engine")
        found = self.api.list("Pod", NAMESPACE)
        return sorted(pod["metadata"]["name"] for pod in found if pod["metadata"]["labels"].get("app.kubernetes.io/component") in wanted)


@contextmanager
def cluster_site(folder: Path, monkeypatch: pytest.MonkeyPatch, cluster_values: dict[str, Any] | None = None, **spec: Any) -> Iterator[ClusterSite]:
    """A running one, with the newest Helm on PATH."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "helm").symlink_to(binary("helm"))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for what in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{what}_HOME", str(folder / f"helm-{what.lower()}"))
    site = ClusterSite(folder, cluster_values, **spec)
    try:
        with site.kubelet.running():
            yield site
        assert site.api.crashes == []
    finally:
        site.api.stop()


class MeterPod:
    """A meter's pod that can be asked, with its files in a folder of the test.

    Attributes:
        asked: The programs that were run in it.
        broken: Instead of an answer, when set.
    """

    def __init__(self, site: ClusterSite, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layout = Layout(folder / "pod", folder / "pod")
        self.layout.usage.mkdir(parents=True)
        self.layout.access_log.parent.mkdir(parents=True, exist_ok=True)
        self.orders = self.layout.meter_orders
        self.orders.write_text(json.dumps(orders_for(site.deployment.platform, self.layout)))
        self.asked: list[list[str]] = []
        self.broken: Ran | Callable[[list[str], Ran], Ran] | None = None
        orders = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kiva-gateway-meter"}}
        if site.api.get("ConfigMap", "kiva-gateway-meter", NAMESPACE) is None:
            in_pod = json.dumps({**orders_for(site.deployment.platform, self.layout), "ledger": site_ledger(site)})
            site.api.add({**orders, "data": {"meter.json": in_pod}}, NAMESPACE)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kiva-gateway-0", "labels": LABELS}, "spec": POD}
        if not site.pods("gateway"):
            made = site.api.add(pod, NAMESPACE)
            status = {"phase": "Running", "initContainerStatuses": [{"name": "meter", "state": {"running": {}}}]}
            site.api.objects.put_status(site.api.kind("Pod"), made, status)
        monkeypatch.setattr(Cluster, "run_in", self._run)

    def _run(self, pod: str, container: str, argv: list[str], *, timeout_s: float = 60, **_more: Any) -> Ran:
        assert pod.startswith("kiva-gateway-")
        assert container == "meter"
        assert argv[:2] == ["python3", "-m"]
        assert timeout_s > 0
        self.asked.append(list(argv))
        if isinstance(self.broken, Ran):
            return self.broken
        main = {"kivactl.usage.asked": asked.main, "kivactl.usage.handing": handing.main}[argv[2]]
        words = [str(self.orders) if word == "/etc/kiva/meter/meter.json" else word for word in argv[3:]]
        out, said = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(said):
            code = main(words)
        ran = Ran(code, out.getvalue(), said.getvalue())
        return self.broken(list(argv), ran) if self.broken else ran


LABELS = {"kiva/platform": "kiva", "app.kubernetes.io/component": "gateway", "app.kubernetes.io/instance": "kiva-gateway"}
POD = {"containers": [{"name": "envoy", "image": "envoy"}], "initContainers": [{"name": "meter", "image": "tools", "restartPolicy": "Always"}]}


def site_ledger(site: ClusterSite) -> str:
    """The ledger's address as the deployed orders have it."""
    ledger = site.deployment.platform.usage.ledger
    return "sqlite:/var/kiva/ledger/ledger.db" if ledger == "sqlite" else ledger

"""A platform in a cluster whose gateway is told something between two deploys: the real Helm and charts, pods whose files are as a kubelet writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cluster_platform import provision
from cluster_site import QuickClock
from cluster_specs import cluster, model
from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi

from kivactl.flows.deploy import cluster as deploying
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Plan
from kivactl.spec.load import load
from kivactl.stack.layout import Layout
from kivactl.tools.clock import Clock
from kivactl.tools.kube_errors import Missing
from kivactl.tools.kube_objects import Ran

NAMESPACE, RELEASE = "kiva", "kiva-gateway"
SPEC: dict[str, Any] = {
    "name": "kiva",
    "target": "kubernetes",
    "kubernetes": {**cluster(), "kubeconfig": "./kubeconfig"},
    "models": [model("v1"), model("v2")],
    "aliases": [{"name": "chat", "models": {"v1": 100, "v2": 0}}],
    "gateway": {"tenants": [{"name": "police"}, {"name": "tax"}]},
}


class Pods:
    """What Envoy says in each pod of the gateway: its files as they were when the kubelet looked last.

    Attributes:
        looks_after: How often a pod is asked until its kubelet has looked.
        container: Which one knows.
        before: Called whenever a pod is asked.
    """

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._mounted: dict[str, tuple[str, dict[str, Any]]] = {}
        self._left: dict[str, int] = {}
        self.looks_after = 2
        self.container = "meter"
        self.before: Callable[[], None] = lambda: None

    def mount(self) -> None:
        """Let every kubelet look."""
        for pod in self._api.list("Pod", NAMESPACE):
            self._mounted[pod["metadata"]["name"]] = (self._mark(pod), self.files())

    def files(self) -> dict[str, Any]:
        """The gateway's files as they lie in the cluster."""
        found: dict[str, Any] = {}
        for one in self._api.list("ConfigMap", NAMESPACE):
            if (one["metadata"].get("labels") or {}).get("app.kubernetes.io/instance") == RELEASE:
                found |= {name: json.loads(text) for name, text in one["data"].items()}
        return found

    def run_in(self, pod: str, container: str, argv: list[str], **_options: Any) -> Ran:
        """In place of `Cluster.run_in`."""
        found = self._api.get("Pod", pod, NAMESPACE)
        if found is None or container != self.container:
            raise Missing(f"there is no {container} in {pod}")
        self.before()
        before = self._mounted.get(pod)
        if before is None or before[0] != self._mark(found):
            self._left[pod] = min(self._left.get(pod, self.looks_after), self.looks_after) - 1
            if before is None or self._left[pod] < 0:
                del self._left[pod]
                self._mounted[pod] = (self._mark(found), self.files())
        files = self._mounted[pod][1]
        if "ecds" in argv[-1]:
            configs = [{"ecds_filter": files[name]["resources"][0]} for name in ("authentication.json", "revoked.json")]
        else:
            configs = [{"route_config": one} for one in files["routes.json"]["resources"]]
        return Ran(0, json.dumps({"configs": configs}), "")

    @staticmethod
    def _mark(pod: dict[str, Any]) -> str:
        return str((pod["metadata"].get("annotations") or {}).get("kiva/config", ""))


class Site:
    """The cluster, and an operator's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.api = folder, KubeApi()
        self.api.start()
        self.kubelet = Kubelet(self.api)
        self.kubelet.node("gpu-1", gpus=8)
        self.kubelet.storage_class("fast", default=True)
        self.api.kubeconfig(folder / "kubeconfig", "prod")
        self.api.namespace(NAMESPACE)
        self.pods = Pods(self.api)
        self.time = QuickClock()
        self.layout = Layout(folder / "state", folder / "cache")
        self.write()
        provision(self.deployment.platform, self.layout)

    @property
    def deployment(self) -> Deployment:
        """As a command has it."""
        read: Callable[[], Any] = lambda: load(self.folder / "kiva.yaml")  # noqa: E731
        return Deployment(read(), self.layout, read, Clock(self.time.now_s, self.time.sleep))

    def write(self, **changes: Any) -> None:
        """Write kiva.yaml."""
        (self.folder / "kiva.yaml").write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))

    def desired(self) -> Any:
        """What should run by the spec of now."""
        held = self.deployment.target.gateway.held_shares()
        return deploying.desired_for(self.deployment, held)

    def plan(self) -> Plan:
        return deploying.plan(self.deployment, "deploy")

    def deploy(self) -> list[Outcome]:
        """As `kivactl deploy` does, but for the token through the gateway."""
        target = self.deployment.target
        outcomes = list(target.apply(self.desired()))
        target.finish(self.deployment.loaded.digest, "2026-11-29T12:00:00+00:00")
        self.pods.mount()
        return outcomes

    def revision(self) -> int:
        state = self.deployment.target.helm.status(RELEASE)  # type: ignore[attr-defined]
        return state.revision if state else 0

    def gateways(self) -> dict[str, str]:
        """The gateway's pods by name, with what marks them as the same."""
        pods = [pod for pod in self.api.list("Pod", NAMESPACE) if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}

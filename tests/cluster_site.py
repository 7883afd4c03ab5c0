"""A cluster for the target: an API server in memory with nodes and pods by script, the real Helm, charts small enough to see through."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi

from kivactl.plan import Outcome
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.desired import ClusterDesired
from kivactl.targets.kubernetes.lock import Lock
from kivactl.targets.kubernetes.target import KubernetesTarget
from kivactl.targets.kubernetes.waiting import is_ready
from kivactl.tools.clock import Clock
from kivactl.tools.helm import Helm
from kivactl.tools.kube import open_cluster

CHARTS = Path(__file__).parent / "targets" / "kubernetes" / "charts"
NAMESPACE = "kiva"
IMAGE = "registry.example.org/kiva/engine@sha256:" + "a" * 64


class QuickClock:
    """Time that passes by being waited for; a little of it is real, so that others have their turn."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._guard = threading.Lock()

    def now_s(self) -> float:
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        with self._guard:
            self._now_s += duration_s
        time.sleep(min(duration_s, 0.02))


def engine(model: str, **values: Any) -> ChartRelease:
    content = {
        "platform": "kiva",
        "model": {"name": model},
        "image": {"reference": IMAGE},
        "replicas": 1,
        "command": ["--served-model-name", model, "--max-model-len", "2048"],
        "gpus": 1,
        "strategy": {"kind": "rolling", "maxSurge": 1, "maxUnavailable": 0},
        "startup": {"budgetSeconds": 60},
        **values,
    }
    return ChartRelease(f"kiva-{model}", "kiva-engine", NAMESPACE, content, 0, model)


def gateway(*models: str, **values: Any) -> ChartRelease:
    routes = {"resources": [{"name": "gateway", "models": list(models)}]}
    content = {"platform": "kiva", "image": {"reference": "envoy"}, "replicas": 2, "files": {"routes.json": json.dumps(routes)}, **values}
    return ChartRelease("kiva-gateway", "kiva-gateway", NAMESPACE, content, 1)


def monitoring(**values: Any) -> ChartRelease:
    return ChartRelease("kiva-monitoring", "kiva-monitoring", NAMESPACE, {"platform": "kiva", **values}, 2)


def desired(*engines: ChartRelease, **more: Any) -> ClusterDesired:
    releases = (*engines, more.pop("gateway", None) or gateway(*(one.model for one in engines)), monitoring())
    return ClusterDesired("kiva", "https://llm.example.org/v1", releases, **more)


def operator(kubeconfig: Path, clock: QuickClock) -> KubernetesTarget:
    """The target as an operator has it."""
    cluster = open_cluster("prod", NAMESPACE, kubeconfig, clock=Clock(clock.now_s, clock.sleep))
    return KubernetesTarget("kiva", cluster, Helm(kubeconfig, "prod", NAMESPACE), CHARTS, Lock(cluster, "kiva"))


class Site:
    """The cluster, and the target as an operator has it."""

    def __init__(self, folder: Path) -> None:
        self.api = KubeApi()
        self.api.start()
        self.kubelet = Kubelet(self.api)
        self.folder = folder
        self.kubeconfig = self.api.kubeconfig(folder / "kubeconfig", "prod")
        self.api.namespace(NAMESPACE)
        self.target = self.operator()

    def operator(self) -> KubernetesTarget:
        """A further operator with the same kubeconfig."""
        return operator(self.kubeconfig, QuickClock())

    def deploy(self, wanted: ClusterDesired, spec: str = "spec-1") -> list[Outcome]:
        """Apply and finish, as a deploy does."""
        outcomes = list(self.target.apply(wanted))
        self.target.finish(spec, "2026-11-29T12:00:00+00:00")
        return outcomes

    def revision(self, release: str) -> int:
        state = self.target.helm.status(release)
        return state.revision if state else 0

    def is_written(self, release: str, revision: int) -> bool:
        """Whether Helm is done with a revision, and only its pods are waited for."""
        state = self.target.helm.status(release)
        return state is not None and (state.revision, state.status) == (revision, "deployed")

    def image(self, name: str = "kiva-smollm2") -> str:
        found = self.api.get("Deployment", name, NAMESPACE)
        assert found is not None
        return found["spec"]["template"]["spec"]["containers"][0]["image"]

    def ready(self, release: str = "kiva-smollm2") -> int:
        """How many pods of a release get requests."""
        pods = [pod for pod in self.api.list("Pod", NAMESPACE) if pod["metadata"]["labels"].get("app.kubernetes.io/instance") == release]
        return sum(is_ready(pod) for pod in pods)

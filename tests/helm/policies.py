"""What the house asks of every manifest: pure checks, each gives its faults as sentences and names the object.

`faults_of(manifests)` runs all of them. Each has a test that it can fail (`test_policies.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Policy = Callable[[list[Json]], list[str]]

POLICIES: dict[str, Policy] = {}
"""All checks by name."""

_DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SECRET = re.compile(
    r"PRIVATE KEY|\bhf_[A-Za-z0-9]{20}|\bAKIA[0-9A-Z]{16}|\bsa-[A-Za-z0-9_-]{20}|\beyJ[\w-]{10,}\.eyJ|://[^/\s:@]+:[^/\s:@]+@|(?i:password|passwd|secret|token)=\S"
)
_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|ACCESS_KEY)$")
_CLUSTER_WIDE = frozenset({"ClusterRole", "ClusterRoleBinding", "PriorityClass", "Namespace"})
_VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"})
"""Kinds of volumes that the standard `restricted` allows, and images."""


@dataclass(frozen=True)
class Pods:
    """The pods of one workload.

    Attributes:
        owner: Kind and name of the workload.
        serves: Whether they run for ever; a job's do not.
        replicas: As many as there are, when the manifest says so.
        manifest: The workload.
        labels: Of the pods.
        spec: Of the pods.
    """

    owner: str
    serves: bool
    replicas: int
    manifest: Json
    labels: dict[str, str]
    spec: Json

    @property
    def containers(self) -> list[Json]:
        """All containers, those that prepare first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def lasting(self) -> list[Json]:
        """Containers that run as long as the pod: the main ones and sidecars."""
        return [*(one for one in self.spec.get("initContainers", []) if one.get("restartPolicy") == "Always"), *self.spec["containers"]]


def pods_of(manifests: list[Json]) -> list[Pods]:
    """The pods that workloads would make."""
    found = []
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        name, replicas = f"{kind} {manifest['metadata']['name']}", spec.get("replicas", 1)
        if kind in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
            found.append((name, kind != "Job", replicas, manifest, spec["template"]))
        elif kind == "CronJob":
            found.append((name, False, 1, manifest, spec["jobTemplate"]["spec"]["template"]))
        elif kind == "LeaderWorkerSet":
            group = spec["leaderWorkerTemplate"]
            found += [(f"{name} {part}", True, replicas, manifest, group[part]) for part in ("leaderTemplate", "workerTemplate") if part in group]
    return [
        Pods(name, serves, replicas, manifest, template["metadata"].get("labels", {}), template["spec"]) for name, serves, replicas, manifest, template in found
    ]


def policy(check: Policy) -> Policy:
    """Enter a check into `POLICIES`."""
    POLICIES[check.__name__] = check
    return check


def faults_of(manifests: list[Json], *, without: Collection[str] = ()) -> list[str]:
    """The faults of all checks.

    Args:
        manifests: Of one release.
        without: Names of checks that the shape asks to leave out.
    """
    return [f"{name}: {fault}" for name, check in POLICIES.items() if name not in without for fault in check(manifests)]


def _each_container(manifests: list[Json]) -> Iterator[tuple[str, Pods, Json]]:
    for pods in pods_of(manifests):
        for container in pods.containers:
            yield f"{pods.owner}, container {container['name']}", pods, container


@policy
def images_are_pinned(manifests: list[Json]) -> list[str]:
    """Every image, of containers and of volumes, is named by its digest."""
    images = [(where, container.get("image", "")) for where, _, container in _each_container(manifests)]
    images += [
        (pods.owner, volume["image"].get("reference", "")) for pods in pods_of(manifests) for volume in pods.spec.get("volumes", []) if "image" in volume
    ]
    return [f"{where}: '{image}' has no digest" for where, image in images if not _DIGEST.fullmatch(image)]


@policy
def what_listens_is_probed(manifests: list[Json]) -> list[str]:
    """A container with ports has a readiness and a liveness probe; liveness is the slower of the two, so that a pod leaves its Service before it dies."""
    faults = []
    for pods in pods_of(manifests):
        for container in pods.lasting if pods.serves else []:
            where = f"{pods.owner}, container {container['name']}"
            if not container.get("ports"):
                continue
            ready, alive = container.get("readinessProbe"), container.get("livenessProbe")
            faults += [f"{where} has no {name}" for name, probe in (("readinessProbe", ready), ("livenessProbe", alive)) if not probe]
            if ready and alive and _patience_s(alive) <= _patience_s(ready):
                faults.append(f"{where}: its liveness probe kills it before its readiness probe takes it out of the Service")
    return faults


def _patience_s(probe: Json) -> float:
    return probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)


@policy
def resources_are_bounded(manifests: list[Json]) -> list[str]:
    """Memory: request equals limit, so that nobody is ended for a neighbour; a CPU request; extended resources alike; bounded scratch volumes."""
    faults = []
    for where, _, container in _each_container(manifests):
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if "cpu" not in requests:
            faults.append(f"{where} requests no CPU")
        amounts = [(name, requests.get(name), limits.get(name)) for name in sorted({"memory"} | {name for name in {**requests, **limits} if "/" in name})]
        faults += [f"{where}: request and limit of {name} are not the same amount" for name, request, limit in amounts if not limit or limit != request]
    for pods in pods_of(manifests):
        faults += [
            f"{pods.owner}: the volume {volume['name']} has no size limit" for volume in _empty_dirs(pods) if "sizeLimit" not in (volume["emptyDir"] or {})
        ]
    return faults


def _empty_dirs(pods: Pods) -> list[Json]:
    return [volume for volume in pods.spec.get("volumes", []) if "emptyDir" in volume]


@policy
def pods_are_restricted(manifests: list[Json]) -> list[str]:
    """The Pod Security Standard `restricted`, and more: a fixed user that is not root, and a root file system that nobody writes to."""
    faults = []
    for pods in pods_of(manifests):
        outer = pods.spec.get("securityContext", {})
        if outer.get("runAsNonRoot") is not True or not outer.get("runAsUser"):
            faults.append(f"{pods.owner} may run as root")
        if outer.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            faults.append(f"{pods.owner} has no seccomp profile")
        faults += [f"{pods.owner} uses {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pods.spec.get(key)]
    for where, _, container in _each_container(manifests):
        inner = container.get("securityContext", {})
        if inner.get("runAsNonRoot") is False or inner.get("runAsUser", 1) == 0:
            faults.append(f"{where} may run as root")
        if inner.get("seccompProfile", {}).get("type") == "Unconfined":
            faults.append(f"{where} has no seccomp profile")
        if inner.get("allowPrivilegeEscalation") is not False or inner.get("privileged"):
            faults.append(f"{where} may gain privileges")
        if inner.get("readOnlyRootFilesystem") is not True:
            faults.append(f"{where} may write to its root file system")
        if inner.get("capabilities", {}) != {"drop": ["ALL"]}:
            faults.append(f"{where} keeps capabilities")
    return faults


@policy
def no_host_path(manifests: list[Json]) -> list[str]:
    """No volume gives a pod a part of its node."""
    return [
        f"{pods.owner}: the volume {volume['name']} is of a kind that the standard 'restricted' forbids"
        for pods in pods_of(manifests)
        for volume in pods.spec.get("volumes", [])
        if not _VOLUMES & volume.keys()
    ]


@policy
def no_service_account_token(manifests: list[Json]) -> list[str]:
    """Pods carry no key to the cluster, and a ServiceAccount of their own."""
    faults = [f"{pods.owner} carries a service account's token" for pods in pods_of(manifests) if pods.spec.get("automountServiceAccountToken") is not False]
    faults += [
        f"{pods.owner} runs as the default service account" for pods in pods_of(manifests) if pods.spec.get("serviceAccountName", "default") == "default"
    ]
    accounts = [manifest for manifest in manifests if manifest["kind"] == "ServiceAccount"]
    return faults + [f"ServiceAccount {one['metadata']['name']} mounts its token" for one in accounts if one.get("automountServiceAccountToken") is not False]


@policy
def disruptions_are_bounded(manifests: list[Json]) -> list[str]:
    """What runs more than once has a disruption budget, which leaves one and lets one go; what runs once has none that would block for ever."""
    faults = []
    budgets = [manifest for manifest in manifests if manifest["kind"] == "PodDisruptionBudget"]
    for pods in pods_of(manifests):
        if not pods.serves or pods.manifest["kind"] == "DaemonSet":
            continue
        replicas, own = _least_replicas(pods, manifests), [budget for budget in budgets if _selects(budget["spec"].get("selector", {}), pods.labels)]
        if not own and replicas > 1:
            faults.append(f"{pods.owner} has no disruption budget")
        for budget in own:
            name, spec = f"PodDisruptionBudget {budget['metadata']['name']}", budget["spec"]
            gone = _amount(spec["maxUnavailable"], replicas) if "maxUnavailable" in spec else replicas - _amount(spec.get("minAvailable", 0), replicas)
            if gone < 1:
                faults.append(f"{name} never lets a pod go: draining a node would hang")
            if replicas > 1 and gone >= replicas:
                faults.append(f"{name} protects nothing")
            if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
                faults.append(f"{name}: pods that are broken anyway block a drain")
    return faults


def _amount(value: int | str, replicas: int) -> int:
    return math.ceil(int(value.rstrip("%")) * replicas / 100) if isinstance(value, str) else value


def _least_replicas(pods: Pods, manifests: list[Json]) -> int:
    target = pods.manifest["metadata"]["name"]
    for manifest in manifests:
        if manifest["spec"].get("scaleTargetRef", {}).get("name") == target if "spec" in manifest else False:
            return int(manifest["spec"].get("minReplicas", manifest["spec"].get("minReplicaCount", 1)))
    return pods.replicas


def _selects(selector: Json, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and "matchExpressions" not in selector and wanted.items() <= labels.items()


@policy
def network_is_closed(manifests: list[Json]) -> list[str]:
    """A NetworkPolicy selects every pod, for what comes in and for what goes out."""
    policies = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    faults = []
    for pods in pods_of(manifests):
        covered = {direction for one in policies if _selects(one.get("podSelector", {}), pods.labels) for direction in one.get("policyTypes", [])}
        faults += [f"{pods.owner}: no NetworkPolicy restricts its {direction}" for direction in ("Ingress", "Egress") if direction not in covered]
    return faults


@policy
def selectors_are_stable(manifests: list[Json]) -> list[str]:
    """Selectors match the pods they are for and hold nothing that changes with a version; a Service finds pods of its release."""
    faults = []
    for manifest in manifests:
        where, selector = f"{manifest['kind']} {manifest['metadata']['name']}", manifest.get("spec", {}).get("selector") if "spec" in manifest else None
        if not selector or manifest["kind"] not in {"Deployment", "StatefulSet", "DaemonSet", "Service", "PodDisruptionBudget"}:
            continue
        wanted = selector if manifest["kind"] == "Service" else selector.get("matchLabels", {})
        faults += [f"{where}: the selector holds {key}, which changes" for key in wanted if re.search(r"version|chart|hash|identity|managed-by", key)]
        candidates = [pods for pods in pods_of(manifests) if manifest["kind"] in {"Service", "PodDisruptionBudget"} or pods.manifest is manifest]
        if not any(wanted.items() <= pods.labels.items() for pods in candidates):
            faults.append(f"{where}: the selector matches no pod")
    return faults


@policy
def names_fit(manifests: list[Json]) -> list[str]:
    """Names are DNS labels of at most 63 characters and unique; labels are valid; every object belongs to the release's namespace."""
    faults, seen = [], set()
    for manifest in manifests:
        metadata, kind = manifest["metadata"], manifest["kind"]
        name, where = metadata["name"], f"{kind} {metadata['name']}"
        if len(name) > 63 or not _NAME.fullmatch(name):
            faults.append(f"{where} is no DNS label of at most 63 characters")
        if (kind, name) in seen:
            faults.append(f"{where} is there twice")
        seen.add((kind, name))
        if ("namespace" in metadata) == (kind in _CLUSTER_WIDE):
            faults.append(f"{where} has no namespace, or one that it cannot have")
        faults += [f"{where}: {fault}" for fault in _label_faults(metadata.get("labels", {}))]
        if (
            not {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/part-of", "app.kubernetes.io/managed-by"}
            <= metadata.get("labels", {}).keys()
        ):
            faults.append(f"{where} lacks one of the labels that say whose it is")
    for pods in pods_of(manifests):
        faults += [f"{pods.owner}: {fault}" for fault in _label_faults(pods.labels)]
        names = [port["name"] for container in pods.containers for port in container.get("ports", []) if "name" in port]
        faults += [f"{pods.owner}: the port name {name} is too long or there twice" for name in set(names) if len(name) > 15 or names.count(name) > 1]
    return faults


def _label_faults(labels: dict[str, str]) -> list[str]:
    return [
        f"the label {key}: '{value}' is not valid"
        for key, value in labels.items()
        if not (_LABEL_KEY.fullmatch(key) and isinstance(value, str) and _LABEL_VALUE.fullmatch(value))
    ]


@policy
def no_secret_values(manifests: list[Json]) -> list[str]:
    """Helm keeps values and manifests in the cluster and prints them: no Secret, and nothing that looks like one, comes from a chart."""
    faults = [f"Secret {manifest['metadata']['name']} is made by the chart" for manifest in manifests if manifest["kind"] == "Secret"]
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap":
            texts = {**manifest.get("data", {}), **manifest.get("binaryData", {})}
            faults += [f"ConfigMap {manifest['metadata']['name']}: {key} holds what looks like a secret" for key, text in texts.items() if _SECRET.search(text)]
    for where, _, container in _each_container(manifests):
        for variable in container.get("env", []):
            value = variable.get("value", "")
            if _SECRET.search(value) or (value and _SECRET_NAME.search(variable["name"])):
                faults.append(f"{where}: the variable {variable['name']} holds what looks like a secret")
        if _SECRET.search(" ".join([*container.get("command", []), *container.get("args", [])])):
            faults.append(f"{where}: an argument looks like a secret")
    return faults


@policy
def pods_end_in_time(manifests: list[Json]) -> list[str]:
    """What serves is held by preStop until nobody sends it anything more, and has time left after that."""
    faults = []
    for pods in pods_of(manifests):
        for container in pods.lasting if pods.serves else []:
            if container.get("ports") and "preStop" not in container.get("lifecycle", {}):
                faults.append(f"{pods.owner}, container {container['name']} stops while it is still sent requests")
            command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
            held_s = float(command[1]) if command[:1] == ["sleep"] else 0.0
            if container.get("ports") and pods.spec.get("terminationGracePeriodSeconds", 30) <= held_s + 1:
                faults.append(f"{pods.owner} is ended before or with its preStop")
    return faults


@policy
def rollouts_wait_for_the_start(manifests: list[Json]) -> list[str]:
    """A rollout is given up only after the slowest start that the probes allow."""
    faults = []
    for pods in pods_of(manifests):
        if pods.manifest["kind"] != "Deployment":
            continue
        slowest_s = max((_patience_s(one["startupProbe"]) for one in pods.lasting if "startupProbe" in one), default=0.0)
        if pods.manifest["spec"].get("progressDeadlineSeconds", 600) <= slowest_s:
            faults.append(f"{pods.owner} counts as failed before it had its time to start")
    return faults


@policy
def parts_fit_together(manifests: list[Json]) -> list[str]:
    """Mounts name volumes, volumes are mounted, paths and variables are there once, probes ask ports that exist."""
    faults = []
    for pods in pods_of(manifests):
        volumes = [volume["name"] for volume in pods.spec.get("volumes", [])]
        mounted = {mount["name"] for container in pods.containers for mount in container.get("volumeMounts", [])}
        faults += [f"{pods.owner}: the volume {name} does not exist" for name in sorted(mounted - set(volumes))]
        faults += [f"{pods.owner}: nobody uses the volume {name}" for name in sorted(set(volumes) - mounted)]
        faults += [f"{pods.owner}: two volumes are named {name}" for name in sorted({name for name in volumes if volumes.count(name) > 1})]
    for where, _, container in _each_container(manifests):
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        variables = [variable["name"] for variable in container.get("env", [])]
        faults += [f"{where}: {name} is there twice" for names in (paths, variables) for name in sorted({name for name in names if names.count(name) > 1})]
        ports = {port.get("name") for port in container.get("ports", [])} | {port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = next((container[probe][how]["port"] for how in ("httpGet", "tcpSocket", "grpc") if how in container.get(probe, {})), None)
            if asked is not None and asked not in ports:
                faults.append(f"{where}: its {probe} asks the port {asked}, which it does not have")
    return faults

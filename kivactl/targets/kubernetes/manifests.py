"""What Helm renders and stores: YAML documents as objects, without hooks. And which of them run pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kivactl.targets.kubernetes.capacity import Json, amounts

Key = tuple[str, str]
"""Kind with its group and version, and name: `("apps/v1/Deployment", "kiva-smollm2")`."""

WORKLOADS = frozenset({"Deployment", "StatefulSet", "LeaderWorkerSet"})
"""Kinds whose pods a rollout waits for."""

_HOOK = "helm.sh/hook"


def parse_documents(text: str) -> list[Any]:
    """The YAML documents of a text, in order.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    import yaml

    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def parse_manifests(text: str) -> dict[Key, dict[str, Any]]:
    """The objects of a manifest by kind and name, in order; hooks are left out, for they come and go."""
    found: dict[Key, dict[str, Any]] = {}
    for one in parse_documents(text):
        if isinstance(one, dict) and "kind" in one and _HOOK not in ((one.get("metadata") or {}).get("annotations") or {}):
            found[key_of(one)] = one
    return found


def key_of(thing: Json) -> Key:
    """How an object is found."""
    return f"{thing.get('apiVersion', 'v1')}/{thing.get('kind', '')}", str((thing.get("metadata") or {}).get("name", ""))


def as_helm_writes(manifest: Json, release: str, namespace: str) -> dict[str, Any]:
    """A manifest with what Helm adds to everything that it writes."""
    meta = manifest.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
    annotations = {**(meta.get("annotations") or {}), "meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
    return {**manifest, "metadata": {**meta, "labels": labels, "annotations": annotations}}


def kind_of(key: Key) -> str:
    """The kind alone."""
    return key[0].rpartition("/")[2]


def workloads(manifests: Iterable[Key]) -> list[Key]:
    """Those that run pods for as long as they are there."""
    return [key for key in manifests if kind_of(key) in WORKLOADS]


def pod_spec(workload: Json) -> Mapping[str, Any]:
    """What a workload's pods are like; of a replica of several pods, the workers, of which there are most."""
    spec = workload.get("spec") or {}
    template = (spec.get("leaderWorkerTemplate") or {}).get("workerTemplate") or spec.get("template") or {}
    found: Mapping[str, Any] = template.get("spec") or {}
    return found


def pods_of_replica(workload: Json) -> int:
    """How many pods a replica has."""
    return int(((workload.get("spec") or {}).get("leaderWorkerTemplate") or {}).get("size") or 1)


def replicas_of(workload: Json, otherwise: int = 1) -> int:
    """How many replicas a manifest asks for; where an autoscaler decides it says nothing."""
    replicas = (workload.get("spec") or {}).get("replicas")
    return otherwise if replicas is None else int(replicas)


def limits_of(spec: Json) -> dict[str, int]:
    """The limits of a pod, added up."""
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        for name, amount in amounts((container.get("resources") or {}).get("limits"), up=True).items():
            total[name] = total.get(name, 0) + amount
    return total


def startup_s(spec: Json) -> float:
    """Seconds that a pod's containers have until they must have started, by their startup probes; 60 where there are none."""
    probes = [container["startupProbe"] for container in spec.get("containers") or () if container.get("startupProbe")]
    return float(max((int(probe.get("failureThreshold", 3)) * int(probe.get("periodSeconds", 10)) for probe in probes), default=60))


def stop_s(spec: Json) -> float:
    """Seconds that a pod has to end."""
    return float(spec.get("terminationGracePeriodSeconds", 30))


def mounts_on_one_node(manifests: Mapping[Key, Json]) -> bool:
    """Whether a release has a claim that one node at a time may mount."""
    claims = [one for key, one in manifests.items() if kind_of(key) == "PersistentVolumeClaim"]
    return any(set((claim.get("spec") or {}).get("accessModes") or ()) in ({"ReadWriteOnce"}, {"ReadWriteOncePod"}) for claim in claims)

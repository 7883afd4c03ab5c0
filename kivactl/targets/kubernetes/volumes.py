"""How full the volumes of a platform are, asked in the containers that have them: the API server does not know it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kivactl.errors import KivaError, ToolError
from kivactl.targets.kubernetes.seen import at_once
from kivactl.targets.kubernetes.status import selector_of
from kivactl.tools.kube import Cluster

Json = Mapping[str, Any]

_PROGRAM = """
import json, os, sys
def seen(path):
    one = os.statvfs(path)
    return [one.f_blocks * one.f_frsize, one.f_bavail * one.f_frsize]
print(json.dumps([seen(path) for path in sys.argv[1:]]))
"""
"""What `df` says; not every image has that, but those that have a volume have Python."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that outlives its pods.

    Attributes:
        claim: Name of its PersistentVolumeClaim.
        size_bytes: What its file system has.
        free_bytes: What is free of it.
    """

    claim: str
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class _Mount:
    claim: str
    pod: str
    container: str
    path: str


def volumes_of(cluster: Cluster, platform: str) -> list[Volume]:
    """The volumes of a platform that a running container has; each once, the one with the least room first.

    Raises:
        ToolError: None of those that have one can be asked.
        KivaError: The cluster does not answer.
    """
    ways: dict[str, list[_Mount]] = {}
    for pod in cluster.list("Pod", selector_of(platform)).items:
        for mount in mounts_in(pod):
            ways.setdefault(mount.claim, []).append(mount)
    found = at_once(lambda mounts: _asked(cluster, mounts), ways.values())
    if faults := [one for one in found if isinstance(one, KivaError)]:
        raise faults[0]
    return sorted((one for one in found if isinstance(one, Volume)), key=lambda one: (one.free_bytes, one.claim))


def mounts_in(pod: Json) -> Iterator[_Mount]:
    """The volumes with a claim that running containers of a pod have. Pure."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    claims = {str(one["name"]): str(one["persistentVolumeClaim"]["claimName"]) for one in spec.get("volumes") or () if one.get("persistentVolumeClaim")}
    states = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    running = {str(one.get("name")) for one in states if "running" in (one.get("state") or {})}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        for mount in container.get("volumeMounts") or ():
            if mount.get("name") in claims and container.get("name") in running:
                yield _Mount(claims[mount["name"]], str(pod["metadata"]["name"]), str(container["name"]), str(mount["mountPath"]))


def _asked(cluster: Cluster, mounts: list[_Mount]) -> Volume | KivaError:
    """By the first container that answers."""
    fault: KivaError = ToolError(f"how full the volume {mounts[0].claim} is cannot be seen")
    for one in mounts:
        try:
            ran = cluster.run_in(one.pod, one.container, ["python3", "-c", _PROGRAM, one.path], timeout_s=20)
            ((size_bytes, free_bytes),) = json.loads(ran.stdout)
            return Volume(one.claim, int(size_bytes), int(free_bytes))
        except KivaError as error:
            fault = error
        except (ValueError, TypeError):
            said = (ran.stderr.strip().splitlines() or [f"exit code {ran.code}"])[-1]
            fault = ToolError(f"how full the volume {one.claim} is cannot be seen in pod {one.pod}: {said}")
    return fault

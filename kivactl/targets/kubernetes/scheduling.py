"""What the scheduler means when it finds no node: its sentence about all nodes, as one about what is missing. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WHOLE = re.compile(r"(\d+)/(\d+) nodes are available: (.*?)(?:\. .*)?\.?$", re.DOTALL)
_REASON = re.compile(r"(\d+) (.+?)(?=, \d+ |$)", re.DOTALL)
_CLAIM = (
    (re.compile(r'persistentvolumeclaim "([^"]+)" not found'), "there is no volume claim '{0}'", "get pvc"),
    (re.compile(r'persistentvolumeclaim "([^"]+)" is being deleted'), "the volume claim '{0}' is being deleted", "get pvc"),
    (re.compile(r"unbound immediate PersistentVolumeClaims"), "its volume claim is not bound: no volume was made for it", "describe pvc"),
    (re.compile(r"didn't find available persistent volumes to bind"), "there is no volume for its claim", "describe pvc"),
    (re.compile(r"volume node affinity conflict"), "its volume is where no suitable node is", "describe pvc"),
    (re.compile(r"exceed max volume count"), "the nodes can mount no more volumes", "get volumeattachments"),
    (re.compile(r"node\(s\) did not have enough free storage"), "no node has the storage for its claim", "describe pvc"),
)


@dataclass(frozen=True, slots=True)
class Unscheduled:
    """Why a pod has no node: `cause` as in `troubles.Cause`; `words` are those of the next kubectl command, empty for the usual one."""

    cause: str
    sentence: str
    words: str = ""


def explain(message: str, spec: Mapping[str, Any]) -> Unscheduled:
    """What a message of the scheduler means.

    Args:
        message: Such as `0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint {...}.`
        spec: Of the pod.
    """
    for pattern, sentence, words in _CLAIM:
        if found := pattern.search(message):
            return Unscheduled("volume", sentence.format(*found.groups()), words)
    whole = _WHOLE.search(" ".join(message.split()))
    if whole is None:
        return Unscheduled("unknown", f"it finds no node: {message.rstrip('.')}")
    count = int(whole[2])
    reasons = {text.strip().rstrip("."): int(number) for number, text in _REASON.findall(whole[3])}
    insufficient = {reason.removeprefix("Insufficient "): number for reason, number in reasons.items() if reason.startswith("Insufficient ")}
    others = [_reason(reason, number) for reason, number in reasons.items() if not reason.startswith(("Insufficient ", "Too many pods"))]
    beside = f" ({'; '.join(others)})" if others else ""
    if insufficient:
        resource = min(insufficient, key=lambda name: (name in {"cpu", "memory", "pods"}, name == "pods", name == "cpu"))
        asked = _asked(spec, resource)
        needs = f"needs {asked} {resource}" if asked else f"needs {resource}"
        return Unscheduled(
            _cause(resource), f"it {needs}, and no node has that free{beside}", "get pods -A -o wide" if _cause(resource) == "no GPU free" else "describe nodes"
        )
    if "Too many pods" in reasons:
        return Unscheduled("no node allowed", f"every suitable node is full of pods{beside}", "describe nodes")
    return Unscheduled("no node allowed", f"none of {count} nodes is allowed: {'; '.join(others) or 'no reason is given'}", "get nodes --show-labels")


def _reason(reason: str, number: int) -> str:
    if taint := re.search(r"untolerated taint(?:\(s\))?(?: \{([^}]*)\})?", reason):
        key, _, value = (taint[1] or "").partition(": ")
        known = {
            "node.kubernetes.io/not-ready": "not ready",
            "node.kubernetes.io/unreachable": "unreachable",
            "node.kubernetes.io/disk-pressure": "short of disk",
            "node.kubernetes.io/memory-pressure": "short of memory",
            "node.kubernetes.io/unschedulable": "cordoned",
        }
        said = known.get(key, f"tainted {key}={value}" if value else f"tainted {key}" if key else "tainted")
        return f"{number} {said}"
    if "were unschedulable" in reason:
        return f"{number} cordoned"
    if "node affinity/selector" in reason:
        return f"{number} without the labels asked for"
    if "topology spread" in reason:
        return f"{number} ruled out by the spread over nodes"
    if "anti-affinity" in reason:
        return f"{number} has such a pod already" if number == 1 else f"{number} have such a pod already"
    return f"{number} {reason.removeprefix('node(s) ')}"


def _cause(resource: str) -> str:
    return {"cpu": "no processor free", "memory": "no memory free", "pods": "no node allowed", "ephemeral-storage": "no node allowed"}.get(
        resource, "no GPU free"
    )


def _asked(spec: Mapping[str, Any], resource: str) -> str:
    """What the pod's containers ask of a resource; empty where several ask or none."""
    found = []
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        value = (resources.get("requests") or {}).get(resource) or (resources.get("limits") or {}).get(resource)
        if value is not None:
            found.append(str(value))
    return found[0] if len(found) == 1 else ""

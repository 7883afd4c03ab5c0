"""Trouble with engines in a cluster: what ended one, and what its GPUs say, as far as kubelet, log and container tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kivactl.errors import KivaError, PreconditionError
from kivactl.flows.cluster import target_of
from kivactl.flows.deployment import Deployment
from kivactl.flows.diagnosis import Cause, Diagnosis, said_in
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_bytes
from kivactl.stack.engine import parse_failure
from kivactl.targets.kubernetes.breaking import ENGINE_CONTAINER
from kivactl.targets.kubernetes.following import logs_of
from kivactl.targets.kubernetes.manifests import limits_of
from kivactl.targets.kubernetes.status import MODEL, label
from kivactl.targets.kubernetes.trouble import Logs
from kivactl.tools import gpu
from kivactl.tools.gpu import Condition, Remedy
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_objects import Event, Json

_KILLED, _ENDED, _BUS = 137, 143, 135
"""Exit codes: SIGKILL, SIGTERM, SIGBUS."""

_MORE = 1.25
_GIB = 2**30


def ended_by(pod: Mapping[str, Any], events: Sequence[Event], logs: Logs) -> Diagnosis:
    """What ended the engine of a pod last. Pure.

    Args:
        pod: As the API has it.
        events: What was said about it, the newest last.
        logs: Of its engine.
    """
    status: Json = next((one for one in (pod.get("status") or {}).get("containerStatuses") or () if one.get("name") == ENGINE_CONTAINER), {})
    now = (status.get("state") or {}).get("terminated")
    ended = now or (status.get("lastState") or {}).get("terminated")
    if not ended:
        return Diagnosis(Cause.NONE)
    code, reason = ended.get("exitCode"), str(ended.get("reason") or "")
    told = f"kubelet: exit code {code}{f' ({reason})' if reason not in {'', 'Error'} else ''} at {ended.get('finishedAt', 'an unknown time')}"
    lines = "\n".join(logs.now if now else logs.before or logs.now)
    if reason == "OOMKilled":
        return Diagnosis(Cause.KERNEL, (told,))
    if found := said_in(lines):
        return Diagnosis(found[0], (f"log: {parse_failure(found[1])[:300]}", told))
    if code == _BUS:
        return Diagnosis(Cause.SHARED_MEMORY, (told,))
    if code in {_KILLED, _ENDED}:
        if any(one.reason == "Killing" and "liveness probe" in one.message for one in events):
            return Diagnosis(Cause.STALLED, ("kubelet: its liveness probe failed", told))
        return Diagnosis(Cause.KILLED, (told,)) if code == _KILLED else Diagnosis(Cause.OTHER, (told,))
    return Diagnosis(Cause.OTHER, (f"log: {parse_failure(lines)[:300]}" if lines else "log: it is gone", told))


def advice_on(cause: Cause, spec: Mapping[str, Any], kv_cache_bytes: int | None, describe: str) -> str:
    """What helps in a cluster, with values where they follow from what the pod has. Pure.

    Args:
        cause: What ended it.
        spec: Of the pod.
        kv_cache_bytes: As kiva.yaml has it; None when it is derived.
        describe: The command that shows the pod.
    """
    limits = next((limits_of({"containers": [one]}) for one in (spec.get("containers") or ()) if one.get("name") == ENGINE_CONTAINER), {})
    memory = limits.get("memory", 0)
    less = f"`kv_cache: {format_bytes(int(kv_cache_bytes / _MORE))}` instead of {format_bytes(kv_cache_bytes)}" if kv_cache_bytes else "a smaller `kv_cache`"
    match cause:
        case Cause.KERNEL if memory:
            more = math.ceil(memory * _MORE / _GIB) * _GIB
            return f"`kubernetes: {{memory: {format_bytes(more)}}}` of the model instead of {format_bytes(memory)}, or {less} in kiva.yaml; then kivactl deploy"
        case Cause.GPU_FULL | Cause.CACHE_TOO_LARGE | Cause.MEMORY_TAKEN:
            return f"{less}, or a lower `concurrency`, in kiva.yaml; then kivactl deploy"
        case Cause.SHARED_MEMORY:
            return "a larger `kubernetes: {shared_memory: ...}` of the model in kiva.yaml; then kivactl deploy"
        case Cause.KILLED:
            return f"see who did: {describe}"
        case _:
            return Diagnosis(cause).advice


def diagnose(deployment: Deployment, replica: str) -> Iterator[Outcome]:
    """As `troubles.diagnose`."""
    cluster, pod = _engine(deployment, replica)
    yield Outcome(f"engine {replica}", Status.STARTED, "looking at pod, events and logs")
    found = ended_by(pod, cluster.events("Pod", replica), logs_of(cluster, pod).get(ENGINE_CONTAINER, Logs()))
    model = next((one for one in deployment.platform.models if one.name == label(pod, MODEL)), None)
    describe = f"kubectl {cluster.flags} -n {cluster.namespace} describe pod {replica}"
    advice = advice_on(found.cause, pod.get("spec") or {}, model.kv_cache if model else None, describe)
    facts = {"cause": found.cause.value, "evidence": list(found.evidence), "advice": advice}
    yield Outcome(f"engine {replica}", Status.DONE, f"{found.cause.value}; {'; '.join((*found.evidence, advice))}", data=facts)


def gpu_count(deployment: Deployment, replica: str) -> int:
    """How many GPUs, or parts of them, a pod has."""
    _, pod = _engine(deployment, replica)
    return _gpus_in(deployment, pod)


def conditions(deployment: Deployment, replica: str) -> tuple[tuple[Condition, ...], str]:
    """The GPUs of a pod with their faults, and its node.

    The driver is asked in the container; the kernel's Xids are known as far as the node's events or the engine's log repeat them.

    Raises:
        PreconditionError: It has none.
        ToolError: The driver does not answer.
    """
    cluster, pod = _engine(deployment, replica)
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    if not _gpus_in(deployment, pod):
        raise PreconditionError(f"the replica '{replica}' uses no GPU", "kivactl runbook engine-out-of-memory")
    logs = logs_of(cluster, pod).get(ENGINE_CONTAINER, Logs())
    xids = gpu.parse_xids([*logs.before, *logs.now, *_said_of(cluster, node)])
    try:
        ran = cluster.run_in(replica, ENGINE_CONTAINER, ["nvidia-smi", "-q", "-x"], timeout_s=60)
    except KivaError:
        if not xids:  # a pod that cannot start has nothing else to tell either
            raise
        return tuple(Condition(-1, bus, "", "", faults) for bus, faults in xids.items()), node
    return gpu.with_xids(gpu.parse_answer(ran.code, ran.stdout, ran.stderr), xids), node


def diagnose_gpus(deployment: Deployment, replica: str) -> Iterator[Outcome]:
    """As `troubles.diagnose_gpus`."""
    found, node = conditions(deployment, replica)
    told = _told(found)
    remedy = max((one.remedy for one in found), key=lambda one: one.weight, default=Remedy.NONE)
    gpus = ", ".join(one.uuid or one.bus or str(one.index) for one in found) or "unknown"
    facts = {"gpus": gpus, "faults": "; ".join(told) or "none", "remedy": remedy.value, "node": node}
    yield Outcome(f"GPUs of {replica}", Status.DONE, f"{facts['faults'] if told else 'well'}; remedy: {remedy.value}; node: {node}", data=facts)


def faults_now(deployment: Deployment, replica: str) -> list[str]:
    """What is wrong with the GPUs of a pod."""
    found, _ = conditions(deployment, replica)
    return _told(found)


def _engine(deployment: Deployment, replica: str) -> tuple[Cluster, Json]:
    target = target_of(deployment)
    name = target.breaking.victim(replica, "")
    pod = target.cluster.get("Pod", name)
    if pod is None:
        raise PreconditionError(f"the pod '{name}' has just gone", "kivactl status")
    return target.cluster, pod


def _gpus_in(deployment: Deployment, pod: Json) -> int:
    model = next((one for one in deployment.platform.models if one.name == label(pod, MODEL)), None)
    resources = {"nvidia.com/gpu"} | ({model.kubernetes.gpu.resource} if model else set())
    limits = [(one.get("resources") or {}).get("limits") or {} for one in (pod.get("spec") or {}).get("containers") or ()]
    return sum(int(limit.get(name, 0)) for limit in limits for name in resources)


def _said_of(cluster: Cluster, node: str) -> Iterable[str]:
    """What events say of a node, where somebody writes them there (a node problem detector) and we may read them."""
    try:
        return [event.message for event in cluster.events("Node", node, namespace="default")]
    except KivaError:
        return ()


def _told(found: Iterable[Condition]) -> list[str]:
    return [f"{_name(one)}: {fault.message}" for one in found for fault in one.faults]


def _name(one: Condition) -> str:
    return one.uuid or (f"the GPU at {one.bus}" if one.bus else "a lost GPU")

"""Nodes and pods by script: what scheduler and kubelet would do, one tick after the other.

kubelet = Kubelet(api)
kubelet.node("gpu-1", gpus=2)
kubelet.script(pods="kiva-x-*", trouble="ImagePullBackOff")
kubelet.tick(5)                 # by hand, or
with kubelet.running(): ...     # all the time, while a program waits for pods
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

from kube_api.answers import Refusal
from kube_api.behaviour import Behaviour, Course, container_status, running, terminated, troubled, waiting
from kube_api.controllers import Controllers
from kube_api.quantities import number, requested
from kube_api.server import KubeApi
from kube_api.store import moment

Json = dict[str, Any]

_NODE_INFO = {
    **dict.fromkeys(("machineID", "systemUUID", "bootID"), "0" * 32),
    "kernelVersion": "6.12.0",
    "osImage": "Debian GNU/Linux 13",
    "containerRuntimeVersion": "containerd://2.2.0",
    "kubeletVersion": "v1.37.1",
    "kubeProxyVersion": "",
    "operatingSystem": "linux",
    "architecture": "amd64",
}


class Kubelet:
    """Everything that makes pods of what lies in the API.

    Args:
        api: The server; deleted pods stay in it from now on until their containers have ended.
    """

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.controllers = Controllers(api)
        self._scripts: list[Behaviour] = []
        self._courses: dict[str, Course] = {}
        self._addresses = 0
        self.signals: list[tuple[str, str]] = []
        """Pod and signal of each that was sent in a container."""
        self._used: dict[str, dict[str, Decimal]] | None = None
        api.objects.graceful = True
        api.logs = self._logs
        api.programs = self._program

    # Scripts

    def node(self, name: str, *, gpus: int = 0, resource: str = "nvidia.com/gpu", cpu: str = "16", memory: str = "64Gi", **more: Any) -> Json:
        """Add a node.

        Args:
            name: Of the node.
            gpus: How many it has.
            resource: What its GPUs are called, such as `nvidia.com/mig-3g.40gb`.
            cpu: Cores.
            memory: As Kubernetes writes it.
            more: `labels`, `taints`, and `ready` (True).
        """
        capacity = {"cpu": cpu, "memory": memory, "pods": "110", "ephemeral-storage": "100Gi", **({resource: str(gpus)} if gpus else {})}
        ready = "True" if more.get("ready", True) else "Unknown"
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **more.get("labels", {})}
        value = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": {"taints": more["taints"]} if more.get("taints") else {},
        }
        made = self.api.add(value)
        conditions = [{"type": "Ready", "status": ready, "reason": "KubeletReady", "lastTransitionTime": moment()}]
        status = {"capacity": capacity, "allocatable": capacity, "conditions": conditions, "nodeInfo": _NODE_INFO}
        return self.api.objects.put_status(self.api.kind("Node"), made, status)

    def storage_class(self, name: str, *, default: bool = False, binding: str = "Immediate", works: bool = True) -> Json:
        """Add a storage class; claims of one that does not work stay unbound."""
        marks = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
        if not works:
            self.controllers.broken_classes.add(name)
        value = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, "annotations": marks}}
        return self.api.add({**value, "provisioner": "example.org/disk", "volumeBindingMode": binding})

    def script(self, **how: Any) -> Behaviour:
        """Say how pods behave; arguments as of `Behaviour`, the newest that fits counts."""
        behaviour = Behaviour(**how)
        self._scripts.insert(0, behaviour)
        return behaviour

    # Time

    def tick(self, times: int = 1) -> None:
        """Let everything happen once, or several times."""
        for _ in range(times):
            with self.api.objects.store.changed:
                self._used = None
                self.controllers.tick()
                for pod in self.api.list("Pod"):
                    self._pod(pod)
                self.controllers.report()

    @contextmanager
    def running(self, every_s: float = 0.02) -> Iterator[None]:
        """Tick all the time."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(every_s):
                self.tick()

        thread = threading.Thread(target=work, daemon=True, name="kubelet")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # Pods

    def _behaviour(self, pod: Json) -> Behaviour:
        return next((one for one in self._scripts if one.fits(pod)), Behaviour())

    def _pod(self, pod: Json) -> None:
        course = self._courses.setdefault(pod["metadata"]["uid"], Course())
        behaviour = self._behaviour(pod)
        if "deletionTimestamp" in pod["metadata"]:
            course.ending += 1
            if course.ending > behaviour.ends_after:
                self.api.objects.purge(self.api.kind("Pod"), pod)
                del self._courses[pod["metadata"]["uid"]]
            return
        if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
            return
        if not pod["spec"].get("nodeName"):
            pod = self._placed(pod, behaviour, course)
            if not pod["spec"].get("nodeName"):
                return
        course.ticks += 1
        if not self._signalled(pod, behaviour, course):
            self._run(pod, behaviour, course)

    def _signalled(self, pod: Json, behaviour: Behaviour, course: Course) -> bool:
        """What signals have done to a pod's processes: dead, its container is started anew; stopped, its checks fail. Whether that was all."""
        if course.killed is not None:
            course.killed += 1
            if course.killed > behaviour.noticed_after:
                course.killed, course.stopped, course.ticks = None, None, 0
                course.restarts += 1
                course.last = terminated("Error", 1)
                self._runs(pod, course, ready=False)
            return True
        if course.stopped is None:
            return False
        course.stopped += 1
        if course.stopped > behaviour.noticed_after:
            self._say(pod, course, "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
            self._runs(pod, course, ready=False)
        if behaviour.restarted_after and course.stopped > behaviour.noticed_after + behaviour.restarted_after:
            self._say(pod, course, "Killing", f"Container {pod['spec']['containers'][0]['name']} failed liveness probe, will be restarted")
            course.killed = behaviour.noticed_after
        return True

    def _program(self, pod: Json, _container: str, words: list[str]) -> tuple[int, str, str] | None:
        """The program by which kivactl sends signals; what it does to real processes is tested elsewhere."""
        if words[:2] != ["python3", "-c"] or not words[-1].startswith("SIG"):
            return None
        course = self._courses[pod["metadata"]["uid"]]
        match words[-1]:
            case "SIGKILL":
                course.killed = 0
            case "SIGSTOP":
                course.stopped = 0 if course.stopped is None else course.stopped
            case "SIGCONT":
                course.stopped = None
        self.signals.append((pod["metadata"]["name"], words[-1]))
        return 0, "2\n", ""

    def _placed(self, pod: Json, behaviour: Behaviour, course: Course) -> Json:
        """The pod on a node, or told why there is none."""
        why = behaviour.message if behaviour.trouble == "Pending" and behaviour.message else ""
        node, reason = (None, why or "0/1 nodes are available: 1 Insufficient cpu.") if behaviour.trouble == "Pending" else self._find_node(pod)
        if node is None:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason, "lastTransitionTime": moment()}
            before = (pod.get("status") or {}).get("conditions") or [{}]
            if before[0].get("message") != reason:
                self.api.objects.put_status(self.api.kind("Pod"), pod, {"phase": "Pending", "conditions": [condition], "qosClass": "Burstable"})
            self._say(pod, course, "FailedScheduling", reason, "default-scheduler")
            return pod
        self._charge(node, pod)
        bound = {**pod, "spec": {**pod["spec"], "nodeName": node}}
        self._say(pod, course, "Scheduled", f"Successfully assigned {pod['metadata']['namespace']}/{pod['metadata']['name']} to {node}", "default-scheduler")
        return self.api.objects.store.put(("", "pods"), bound)

    def _find_node(self, pod: Json) -> tuple[str | None, str]:
        if missing := self.controllers.unbound_claims(pod):
            return None, missing
        nodes = self.api.list("Node")
        wanted = requested(pod["spec"]) | {"pods": Decimal(1)}
        why: dict[str, int] = {}
        for node in nodes:
            obstacle = self._obstacle(node, pod, wanted)
            if not obstacle:
                return node["metadata"]["name"], ""
            for one in obstacle:
                why[one] = why.get(one, 0) + 1
        if not nodes:
            return None, "no nodes available to schedule pods"
        reasons = ", ".join(f"{count} {text}" for text, count in sorted(why.items()))
        tail = f"preemption: 0/{len(nodes)} nodes are available: {len(nodes)} No preemption victims found for incoming pod."
        return None, f"0/{len(nodes)} nodes are available: {reasons}. {tail}"

    def _obstacle(self, node: Json, pod: Json, wanted: dict[str, Decimal]) -> list[str]:
        labels, spec = node["metadata"]["labels"], pod["spec"]
        if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
            return ["node(s) didn't match Pod's node affinity/selector"]
        for taint in node["spec"].get("taints") or ():
            if taint.get("effect") in {"NoSchedule", "NoExecute"} and not _tolerates(spec.get("tolerations") or (), taint):
                return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
        if node["spec"].get("unschedulable"):
            return ["node(s) were unschedulable"]
        if any(one["type"] == "Ready" and one["status"] != "True" for one in node["status"]["conditions"]):
            return ["node(s) had untolerated taint {node.kubernetes.io/unreachable: }"]
        used = self._usage().get(node["metadata"]["name"], {})
        free = {name: number(amount) - used.get(name, Decimal(0)) for name, amount in node["status"]["allocatable"].items()}
        short = [name for name, amount in wanted.items() if amount > free.get(name, Decimal(0))]
        return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in sorted(short)]

    def _usage(self) -> dict[str, dict[str, Decimal]]:
        """What is asked for on each node, counted once a tick."""
        if self._used is None:
            self._used = {}
            for pod in self.api.list("Pod"):
                if pod["spec"].get("nodeName") and (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
                    self._charge(pod["spec"]["nodeName"], pod)
        return self._used

    def _charge(self, node: str, pod: Json) -> None:
        used = self._usage().setdefault(node, {})
        for name, amount in (requested(pod["spec"]) | {"pods": Decimal(1)}).items():
            used[name] = used.get(name, Decimal(0)) + amount

    def _run(self, pod: Json, behaviour: Behaviour, course: Course) -> None:
        spec = pod["spec"]
        containers, inits = spec["containers"], spec.get("initContainers") or []
        if missing := self._missing_mount(pod):
            self._say(pod, course, "FailedMount", missing)
            self._status(pod, "Pending", [container_status(one, waiting("ContainerCreating")) for one in containers], inits, course)
            return
        if missing := self._missing_reference(pod):
            behaviour = replace(behaviour, trouble="CreateContainerConfigError", message=missing)
        if behaviour.trouble:
            self._in_trouble(pod, behaviour, course)
            return
        for container in containers:
            self._say(pod, course, "Pulled", f'Container image "{container.get("image")}" already present on machine')
            self._say(pod, course, "Started", f"Started container {container['name']}")
        if course.ticks <= behaviour.ready_after:
            self._runs(pod, course, ready=False)
        elif spec.get("restartPolicy") in {"Never", "OnFailure"}:
            good = behaviour.exit_code == 0
            end = terminated("Completed" if good else "Error", behaviour.exit_code, behaviour.message)
            self._status(pod, "Succeeded" if good else "Failed", [container_status(one, end) for one in containers], inits, course)
        else:
            self._runs(pod, course, ready=True)

    def _runs(self, pod: Json, course: Course, *, ready: bool) -> None:
        """All containers run."""
        spec = pod["spec"]
        statuses = [container_status(one, running(), ready=ready, restarts=course.restarts, last=course.last) for one in spec["containers"]]
        self._status(pod, "Running", statuses, spec.get("initContainers") or [], course, ready=ready)

    def _in_trouble(self, pod: Json, behaviour: Behaviour, course: Course) -> None:
        containers, inits = pod["spec"]["containers"], pod["spec"].get("initContainers") or []
        name = behaviour.container or containers[0]["name"]
        container = next(one for one in [*inits, *containers] if one["name"] == name)
        state, last, events = troubled(pod, container, behaviour, course)
        for reason, message in events:
            self._say(pod, course, reason, message)
        status = container_status(container, state, restarts=course.restarts, last=last)
        if container in inits:
            rest = [container_status(one, waiting("PodInitializing")) for one in containers]
            done = [container_status(one, terminated("Completed", 0), ready=True) for one in inits[: inits.index(container)]]
            self._status(pod, "Pending", rest, inits, course, init_statuses=[*done, status])
            return
        others = [container_status(one, running(), ready=True) if one["name"] != name else status for one in containers]
        created = behaviour.trouble in {"ImagePullBackOff", "CreateContainerConfigError"}
        self._status(pod, "Pending" if created else "Running", others, inits, course)

    def _status(
        self,
        pod: Json,
        phase: str,
        statuses: list[Json],
        inits: list[Json],
        course: Course,
        *,
        ready: bool = False,
        init_statuses: list[Json] | None = None,
    ) -> None:
        before = pod.get("status") or {}
        if not before.get("podIP"):
            self._addresses += 1
        now = moment()

        def condition(name: str, good: bool, reason: str = "") -> Json:
            old = next((one for one in before.get("conditions") or () if one["type"] == name), {})
            since = old["lastTransitionTime"] if old.get("status") == str(good) else now
            return {"type": name, "status": str(good), "lastTransitionTime": since, **({"reason": reason} if reason and not good else {})}

        initialized = init_statuses is None
        conditions = [
            condition("PodScheduled", True),
            condition("Initialized", initialized, "ContainersNotInitialized"),
            condition("ContainersReady", ready, "ContainersNotReady"),
            condition("Ready", ready, "ContainersNotReady"),
        ]
        status = {
            "phase": phase,
            "qosClass": "Burstable",
            "hostIP": "10.0.0.1",
            "podIP": before.get("podIP") or f"10.244.{self._addresses // 250}.{self._addresses % 250 + 1}",
            "startTime": before.get("startTime") or now,
            "conditions": conditions,
            "containerStatuses": _steady(statuses, before.get("containerStatuses") or []),
        }
        if inits:
            beside = [one.get("restartPolicy") == "Always" for one in inits]
            ends = [running() if stays else terminated("Completed", 0) for stays in beside]
            done = [container_status(one, end, ready=True) for one, end in zip(inits, ends, strict=True)]
            status["initContainerStatuses"] = _steady(init_statuses or done, before.get("initContainerStatuses") or [])
        self.api.objects.put_status(self.api.kind("Pod"), pod, status)

    def _missing_mount(self, pod: Json) -> str:
        namespace = pod["metadata"]["namespace"]
        for volume in pod["spec"].get("volumes") or ():
            parts = [volume, *((volume.get("projected") or {}).get("sources") or ())]
            for part in parts:
                for key, kind, field in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName" if part is volume else "name")):
                    source = part.get(key)
                    if source and not source.get("optional") and self.api.get(kind, source.get(field, ""), namespace) is None:
                        return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {kind.lower()} "{source.get(field)}" not found'
        return ""

    def _missing_reference(self, pod: Json) -> str:
        namespace = pod["metadata"]["namespace"]
        for container in pod["spec"]["containers"]:
            for variable in container.get("env") or ():
                source = variable.get("valueFrom") or {}
                for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                    if (wanted := source.get(key)) and not wanted.get("optional"):
                        found = self.api.get(kind, wanted["name"], namespace)
                        if found is None:
                            return f'{kind.lower()} "{wanted["name"]}" not found'
                        if wanted["key"] not in (found.get("data") or {}):
                            return f"couldn't find key {wanted['key']} in {kind} {namespace}/{wanted['name']}"
        return ""

    def _say(self, pod: Json, course: Course, reason: str, message: str, source: str = "kubelet") -> None:
        """An event of a pod; of the same again only the count grows, once every few ticks."""
        text = f"{reason}: {message}"
        if text in course.said and course.ticks % 5:
            return
        course.said.add(text)
        self.controllers.event(pod, reason, message, source)

    def _logs(self, namespace: str, name: str, container: str, previous: bool) -> list[str] | Refusal:
        pod = self.api.get("Pod", name, namespace)
        assert pod is not None
        status = pod.get("status") or {}
        statuses = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
        found = next((one for one in statuses if one["name"] == container), None)
        if found is None or ("waiting" in found["state"] and not found["lastState"]):
            why = found["state"]["waiting"]["reason"] if found else "ContainerCreating"
            said = {"ImagePullBackOff": "trying and failing to pull image", "ErrImagePull": "image can't be pulled"}.get(why, why)
            return Refusal(400, f'container "{container}" in pod "{name}" is waiting to start: {said}')
        if previous and not found["lastState"]:
            return Refusal(400, f'previous terminated container "{container}" in pod "{name}" not found')
        behaviour = self._behaviour(pod)
        return list(behaviour.log) if behaviour.container in {"", container} else []


def _tolerates(tolerations: Any, taint: Json) -> bool:
    for one in tolerations:
        key = one.get("key", "")
        if key and key != taint["key"]:
            continue
        if one.get("effect") not in {None, "", taint.get("effect")}:
            continue
        if one.get("operator", "Equal") == "Exists" or one.get("value", "") == taint.get("value", ""):
            return True
    return False


def _steady(new: list[Json], old: list[Json]) -> list[Json]:
    """States that have not changed keep their moment."""

    def bare(one: Json) -> Json:
        state = {key: {name: text for name, text in value.items() if not name.endswith("At")} for key, value in one["state"].items()}
        return {**one, "state": state, "lastState": None}

    known = {one["name"]: one for one in old}
    return [known[one["name"]] if one["name"] in known and bare(known[one["name"]]) == bare(one) else one for one in new]

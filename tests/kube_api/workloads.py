"""What the controllers of workloads would do: replica sets, stateful sets, groups of leaders and workers, and jobs make pods."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from kube_api.answers import Refusal
from kube_api.objects import Asked
from kube_api.server import KubeApi
from kube_api.store import moment

Json = dict[str, Any]

_ASKED = Asked("kube-controller-manager", field_validation="Ignore")


class Workloads:
    """The controllers of workloads.

    Args:
        api: Where they work.
        event: Says something of an object: the object, a reason, a message, who says it.
    """

    def __init__(self, api: KubeApi, event: Callable[[Json, str, str, str], None]) -> None:
        self.api = api
        self.event = event
        self.deadline: int | None = None
        """Ticks without progress until a Deployment says `ProgressDeadlineExceeded`; never when None."""
        self._still: dict[str, tuple[Json, int]] = {}
        self._numbers = 0

    def tick(self) -> None:
        """Make and take away pods."""
        for one in self.api.list("Deployment"):
            self._deployment(one)
        for one in self.api.list("ReplicaSet"):
            self._replica_set(one)
        for one in self.api.list("StatefulSet"):
            self._stateful_set(one)
        for one in self.api.list("Job"):
            self._job(one)
        if self.api.objects.kinds.of("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"):
            for one in self.api.list("LeaderWorkerSet"):
                self._leader_workers(one)

    def report(self) -> None:
        """Write what they see."""
        for one in self.api.list("ReplicaSet"):
            seen = {**_counts(self.owned("Pod", one)), "observedGeneration": one["metadata"].get("generation", 1)}
            failure = [cond for cond in (one.get("status") or {}).get("conditions") or () if seen["replicas"] < one["spec"]["replicas"]]
            self._put(one, {**seen, **({"conditions": failure} if failure else {})})
        for one in self.api.list("Deployment"):
            self._deployment_status(one)

    def owned(self, kind: str, owner: Json) -> list[Json]:
        return [one for key, one in self.api.objects.store.owned(owner["metadata"]["uid"]) if key == self.api.kind(kind).store_key]

    def _make_pod(self, owner: Json, template: Json, name: str, labels: Json | None = None) -> bool:
        """Whether it was let in."""
        meta = template.get("metadata") or {}
        value = {
            "metadata": {
                "name": name,
                "labels": {**(meta.get("labels") or {}), **(labels or {})},
                "annotations": meta.get("annotations") or {},
                "ownerReferences": [reference(owner)],
            },
            "spec": template["spec"],
        }
        try:
            self.api.objects.create(self.api.kind("Pod"), owner["metadata"]["namespace"], value, _ASKED)
        except Refusal as refusal:
            self.event(owner, "FailedCreate", f"Error creating: {refusal.message}", f"{owner['kind'].lower()}-controller")
            conditions = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": refusal.message, "lastTransitionTime": moment()}]
            if owner["kind"] == "ReplicaSet":
                self._put(owner, {**(owner.get("status") or {"replicas": 0}), "conditions": conditions})
            return False
        return True

    def _deployment(self, one: Json) -> None:
        if one["spec"].get("paused"):
            return
        spec = one["spec"]
        digest = _digest(spec["template"])
        sets = self.owned("ReplicaSet", one)
        new = next((other for other in sets if other["metadata"]["labels"].get("pod-template-hash") == digest), None)
        old = [other for other in sets if other is not new]
        if new is None:
            new = self._make_replica_set(one, digest, 1 + max((_revision(other) for other in sets), default=0))
        elif _revision(new) < max((_revision(other) for other in old), default=0):
            number = str(1 + max(_revision(other) for other in old))
            self._annotate(new, number)
        wanted = spec["replicas"]
        total = sum(other["spec"]["replicas"] for other in old)
        if spec["strategy"]["type"] == "Recreate":
            for other in old:
                self._scale(other, 0)
            if not any(self.owned("Pod", other) for other in old):
                self._scale(new, wanted)
            return
        rolling = spec["strategy"]["rollingUpdate"]
        surge, out = share(rolling["maxSurge"], wanted, up=True), share(rolling["maxUnavailable"], wanted, up=False)
        surge = surge or (0 if out else 1)
        self._scale(new, max(0, min(wanted, wanted + surge - total)))
        pods = [pod for other in sets for pod in self.owned("Pod", other)]
        spare = sum(is_ready(pod) for pod in pods) - (wanted - out)
        for other in old:
            below = [pod for pod in self.owned("Pod", other) if "deletionTimestamp" not in pod["metadata"]]
            unready = sum(not is_ready(pod) for pod in below)
            gone = min(other["spec"]["replicas"], unready + max(0, spare))
            spare -= max(0, gone - unready)
            if gone:
                self._scale(other, other["spec"]["replicas"] - gone)

    def _make_replica_set(self, owner: Json, digest: str, revision: int) -> Json:
        spec = owner["spec"]
        template = json.loads(json.dumps(spec["template"]))
        labels = {**(template["metadata"].get("labels") or {}), "pod-template-hash": digest}
        template["metadata"]["labels"] = labels
        value = {
            "metadata": {
                "name": f"{owner['metadata']['name']}-{digest}",
                "labels": labels,
                "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                "ownerReferences": [reference(owner)],
            },
            "spec": {"replicas": 0, "selector": {"matchLabels": {**(spec["selector"].get("matchLabels") or {}), "pod-template-hash": digest}}},
        }
        value["spec"]["template"] = template
        return self.api.objects.create(self.api.kind("ReplicaSet"), owner["metadata"]["namespace"], value, _ASKED)

    def _annotate(self, one: Json, revision: str) -> None:
        patch = {"metadata": {"annotations": {"deployment.kubernetes.io/revision": revision}}}
        self.api.objects.patch(self.api.kind("ReplicaSet"), one["metadata"]["namespace"], one["metadata"]["name"], patch, "merge", _ASKED)

    def _scale(self, one: Json, replicas: int) -> None:
        if one["spec"]["replicas"] != replicas:
            place = (one["metadata"]["namespace"], one["metadata"]["name"])
            self.api.objects.patch(self.api.kind("ReplicaSet"), *place, {"spec": {"replicas": replicas}}, "merge", _ASKED)

    def _replica_set(self, one: Json) -> None:
        pods = [pod for pod in self.owned("Pod", one) if "deletionTimestamp" not in pod["metadata"]]
        for _ in range(one["spec"]["replicas"] - len(pods)):
            self._numbers += 1
            suffix = hashlib.sha256(str(self._numbers).encode()).hexdigest()[:5]
            if not self._make_pod(one, one["spec"]["template"], f"{one['metadata']['name']}-{suffix}"):
                break
        surplus = len(pods) - one["spec"]["replicas"]
        for pod in sorted(pods, key=is_ready)[: max(0, surplus)]:
            self._delete_pod(pod)

    def _delete_pod(self, pod: Json) -> None:
        self.api.objects.delete(self.api.kind("Pod"), pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _deployment_status(self, one: Json) -> None:
        sets = self.owned("ReplicaSet", one)
        digest = _digest(one["spec"]["template"])
        pods = {other["metadata"]["labels"].get("pod-template-hash"): self.owned("Pod", other) for other in sets}
        everything = [pod for below in pods.values() for pod in below]
        counts = _counts(everything)
        wanted = one["spec"]["replicas"]
        updated = len([pod for pod in pods.get(digest, []) if "deletionTimestamp" not in pod["metadata"]])
        out = share((one["spec"]["strategy"].get("rollingUpdate") or {}).get("maxUnavailable", 0), wanted, up=False)
        available = counts["availableReplicas"] >= wanted - out
        complete = updated == wanted and len(everything) == wanted and counts["availableReplicas"] == wanted
        failure = next((cond for other in sets for cond in (other.get("status") or {}).get("conditions") or () if cond["type"] == "ReplicaFailure"), None)
        progress = {**counts, "updatedReplicas": updated, "generation": one["metadata"]["generation"]}
        last, ticks = self._still.get(one["metadata"]["uid"], ({}, 0))
        ticks = 0 if last != progress or complete else ticks + 1
        self._still[one["metadata"]["uid"]] = (progress, ticks)
        name = one["metadata"]["name"]
        late = self.deadline is not None and ticks >= self.deadline
        conditions = [
            self._condition(one, "Available", available, "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable"),
            self._condition(
                one,
                "Progressing",
                not late,
                "ProgressDeadlineExceeded" if late else "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
                f'ReplicaSet "{name}-{digest}" '
                + ("has timed out progressing." if late else "has successfully progressed." if complete else "is progressing."),
            ),
            *([failure] if failure and updated < wanted else []),
        ]
        status = {key: count for key, count in {**counts, "updatedReplicas": updated}.items() if count}
        if wanted > counts["availableReplicas"]:
            status["unavailableReplicas"] = wanted - counts["availableReplicas"]
        self._put(one, {**status, "observedGeneration": one["metadata"]["generation"], "conditions": conditions})

    def _condition(self, one: Json, name: str, good: bool, reason: str, message: str = "") -> Json:
        old = next((cond for cond in (one.get("status") or {}).get("conditions") or () if cond["type"] == name), {})
        same = (old.get("status"), old.get("reason")) == (str(good), reason)
        now = moment()
        times = {"lastTransitionTime": old["lastTransitionTime"] if same else now, "lastUpdateTime": old.get("lastUpdateTime", now) if same else now}
        return {"type": name, "status": str(good), "reason": reason, "message": message or reason, **times}

    def _stateful_set(self, one: Json) -> None:
        spec, meta = one["spec"], one["metadata"]
        digest = _digest(spec["template"])
        pods = {pod["metadata"]["name"]: pod for pod in self.owned("Pod", one)}
        ordered = spec["podManagementPolicy"] == "OrderedReady"
        for number in range(spec["replicas"]):
            name = f"{meta['name']}-{number}"
            if name not in pods:
                template = self._with_claims(one, number)
                labels = {"controller-revision-hash": f"{meta['name']}-{digest}", "statefulset.kubernetes.io/pod-name": name}
                self._make_pod(one, template, name, {**labels, "apps.kubernetes.io/pod-index": str(number)})
            if ordered and not is_ready(pods.get(name, {})):
                break
        current = [pod for pod in pods.values() if pod["metadata"]["labels"].get("controller-revision-hash") == f"{meta['name']}-{digest}"]
        late = sorted((name for name, pod in pods.items() if pod not in current or int(name.rsplit("-", 1)[1]) >= spec["replicas"]), reverse=True)
        ends = any("deletionTimestamp" in pod["metadata"] for pod in pods.values())
        if late and not ends and spec["updateStrategy"]["type"] == "RollingUpdate" and all(is_ready(pod) for pod in current):
            self._delete_pod(pods[late[0]])
        counts = _counts(list(pods.values()))
        status = {**counts, "currentReplicas": len(current), "updatedReplicas": len(current), "observedGeneration": meta["generation"], "collisionCount": 0}
        self._put(one, {**status, "currentRevision": f"{meta['name']}-{digest}", "updateRevision": f"{meta['name']}-{digest}"})

    def _with_claims(self, one: Json, number: int) -> Json:
        template = json.loads(json.dumps(one["spec"]["template"]))
        for claim in one["spec"].get("volumeClaimTemplates") or ():
            name = f"{claim['metadata']['name']}-{one['metadata']['name']}-{number}"
            if self.api.get("PersistentVolumeClaim", name, one["metadata"]["namespace"]) is None:
                value = {"metadata": {"name": name, "labels": claim["metadata"].get("labels") or {}}, "spec": claim["spec"]}
                self.api.objects.create(self.api.kind("PersistentVolumeClaim"), one["metadata"]["namespace"], value, _ASKED)
            template["spec"].setdefault("volumes", []).append({"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": name}})
        return template

    def _leader_workers(self, one: Json) -> None:
        spec, meta = one["spec"], one["metadata"]
        together = spec["leaderWorkerTemplate"]
        groups, size = spec.get("replicas", 1), together.get("size", 1)
        pods = {pod["metadata"]["name"]: pod for pod in self.owned("Pod", one)}
        names = {f"{meta['name']}-{group}" + (f"-{index}" if index else ""): index for group in range(groups) for index in range(size)}
        for name, index in names.items():
            if name not in pods:
                template = together.get("leaderTemplate") or together["workerTemplate"] if index == 0 else together["workerTemplate"]
                labels = {"leaderworkerset.sigs.k8s.io/name": meta["name"], "leaderworkerset.sigs.k8s.io/worker-index": str(index)}
                self._make_pod(one, template, name, labels)
        for name in set(pods) - set(names):
            self._delete_pod(pods[name])
        ready = sum(all(is_ready(pods.get(f"{meta['name']}-{group}" + (f"-{index}" if index else ""), {})) for index in range(size)) for group in range(groups))
        good = ready == groups
        conditions = [self._condition(one, "Available", good, "AllGroupsReady" if good else "GroupsProgressing")]
        self._put(one, {"replicas": groups, "readyReplicas": ready, "updatedReplicas": groups, "conditions": conditions})

    def _job(self, one: Json) -> None:
        spec, status = one["spec"], dict(one.get("status") or {})
        if any(cond["type"] in {"Complete", "Failed"} and cond["status"] == "True" for cond in status.get("conditions") or ()) or spec.get("suspend"):
            return
        pods = self.owned("Pod", one)
        phases = [(pod.get("status") or {}).get("phase") for pod in pods]
        good, bad = phases.count("Succeeded"), phases.count("Failed")
        now = moment()
        status |= {"startTime": status.get("startTime") or now, "succeeded": good, "failed": bad, "active": len(pods) - good - bad, "ready": 0}
        if good >= spec["completions"]:
            done = ("SuccessCriteriaMet", "Complete")
            status["conditions"] = [{"type": name, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now} for name in done]
            status["completionTime"] = now
            self.event(one, "Completed", "Job completed", "job-controller")
        elif bad > spec["backoffLimit"]:
            why = "Job has reached the specified backoff limit"
            reason = {"status": "True", "reason": "BackoffLimitExceeded", "message": why, "lastTransitionTime": now}
            status["conditions"] = [{"type": name, **reason} for name in ("FailureTarget", "Failed")]
            self.event(one, "BackoffLimitExceeded", why, "job-controller")
        elif status["active"] < min(spec["parallelism"], spec["completions"] - good):
            self._numbers += 1
            suffix = hashlib.sha256(str(self._numbers).encode()).hexdigest()[:5]
            self._make_pod(one, spec["template"], f"{one['metadata']['name']}-{suffix}")
        self._put(one, status)

    def _put(self, one: Json, status: Json) -> None:
        kind = self.api.objects.kinds.of(one["apiVersion"], one["kind"])
        assert kind is not None
        self.api.objects.put_status(kind, one, status)


def reference(owner: Json) -> Json:
    meta = owner["metadata"]
    named = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**named, "controller": True, "blockOwnerDeletion": True}


def _digest(template: Json) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def _revision(one: Json) -> int:
    return int((one["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision", 0))


def is_ready(pod: Json) -> bool:
    return "deletionTimestamp" not in (pod.get("metadata") or {}) and any(
        one["type"] == "Ready" and one["status"] == "True" for one in (pod.get("status") or {}).get("conditions") or ()
    )


def _counts(pods: list[Json]) -> Json:
    living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    ready = sum(is_ready(pod) for pod in pods)
    return {"replicas": len(living), "readyReplicas": ready, "availableReplicas": ready}


def share(value: Any, whole: int, *, up: bool) -> int:
    """A number, or a percentage of all."""
    if isinstance(value, str) and value.endswith("%"):
        part = whole * int(value[:-1]) / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value)

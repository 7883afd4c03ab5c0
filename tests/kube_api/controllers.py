"""What the controllers of a cluster would do, one tick after the other: workloads, claims, endpoints, budgets, quotas, and events."""

from __future__ import annotations

import hashlib
from typing import Any

from kube_api.answering import used_in
from kube_api.selectors import matches
from kube_api.server import KubeApi
from kube_api.store import moment
from kube_api.workloads import Workloads, is_ready, reference, share

Json = dict[str, Any]


class Controllers:
    """All controllers.

    Args:
        api: Where they work.
    """

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.workloads = Workloads(api, self.event)
        self.broken_classes: set[str] = set()
        self.load_balancers = True
        """Whether Services of type LoadBalancer get an address."""

    def tick(self) -> None:
        """Bind claims, and make and take away pods."""
        for one in self.api.list("PersistentVolumeClaim"):
            self._claim(one)
        self.workloads.tick()

    def report(self) -> None:
        """Write what they see."""
        self.workloads.report()
        for one in self.api.list("Service"):
            self._service(one)
        for one in self.api.list("PodDisruptionBudget"):
            self._budget(one)
        for one in self.api.list("ResourceQuota"):
            self._put(one, used_in(self.api.objects, one["metadata"]["namespace"], one["spec"].get("hard") or {}))

    def event(self, about: Json, reason: str, message: str, source: str) -> None:
        """Say something of an object; the same again only counts."""
        meta = about["metadata"]
        namespace = meta.get("namespace") or "default"
        digest = hashlib.sha256(f"{meta['uid']}{reason}{message}".encode()).hexdigest()[:16]
        name, now = f"{meta['name']}.{digest}", moment()
        if (known := self.api.get("Event", name, namespace)) is not None:
            self.api.objects.store.put(("", "events"), {**known, "count": known["count"] + 1, "lastTimestamp": now})
            return
        bad = {
            "FailedScheduling",
            "Failed",
            "BackOff",
            "Unhealthy",
            "FailedMount",
            "FailedCreate",
            "ProvisioningFailed",
            "FailedBinding",
            "BackoffLimitExceeded",
        }
        value = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {key: about.get(key) or meta.get(key) for key in ("apiVersion", "kind", "name", "namespace", "uid")},
            "reason": reason,
            "message": message,
            "type": "Warning" if reason in bad else "Normal",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": source},
        }
        self.api.objects.store.put(("", "events"), value)

    def unbound_claims(self, pod: Json) -> str:
        """Why the claims of a pod keep it from a node; empty when they do not."""
        for volume in pod["spec"].get("volumes") or ():
            if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
                found = self.api.get("PersistentVolumeClaim", claim, pod["metadata"]["namespace"])
                nodes = len(self.api.list("Node"))
                if found is None:
                    return f'0/{nodes} nodes are available: persistentvolumeclaim "{claim}" not found.'
                if found["status"]["phase"] != "Bound":
                    self._claim(found, used=True)
                    found = self.api.get("PersistentVolumeClaim", claim, pod["metadata"]["namespace"]) or found
                    if found["status"]["phase"] != "Bound":
                        return f"0/{nodes} nodes are available: pod has unbound immediate PersistentVolumeClaims."
        return ""

    def _claim(self, one: Json, *, used: bool = False) -> None:
        if (one.get("status") or {}).get("phase") == "Bound":
            return
        name = one["spec"].get("storageClassName")
        found = self.api.get("StorageClass", name) if name else None
        if found is None:
            why = f'storageclass.storage.k8s.io "{name}" not found' if name else "no persistent volumes available for this claim and no storage class is set"
            self.event(one, "ProvisioningFailed" if name else "FailedBinding", why, "persistentvolume-controller")
        elif name in self.broken_classes:
            self.event(
                one, "ProvisioningFailed", f'failed to provision volume with StorageClass "{name}": rpc error: code = ResourceExhausted', "example.org/disk"
            )
        elif found.get("volumeBindingMode") == "WaitForFirstConsumer" and not used:
            self.event(one, "WaitForFirstConsumer", "waiting for first consumer to be created before binding", "persistentvolume-controller")
        else:
            bound = {**one, "spec": {**one["spec"], "volumeName": f"pvc-{one['metadata']['uid']}"}}
            size = one["spec"]["resources"]["requests"]["storage"]
            status = {"phase": "Bound", "accessModes": one["spec"].get("accessModes", []), "capacity": {"storage": size}}
            self.api.objects.store.put(("", "persistentvolumeclaims"), {**bound, "status": status})

    def _service(self, one: Json) -> None:
        spec, meta = one["spec"], one["metadata"]
        if spec["type"] == "LoadBalancer" and self.load_balancers and not (one.get("status") or {}).get("loadBalancer", {}).get("ingress"):
            self._put(one, {"loadBalancer": {"ingress": [{"ip": f"192.0.2.{len(meta['name']) + 1}", "ipMode": "VIP"}]}})
        if not spec.get("selector"):
            return
        pods = [
            pod
            for pod in self.api.list("Pod", meta["namespace"])
            if matches({"matchLabels": spec["selector"]}, pod["metadata"].get("labels") or {}) and (pod.get("status") or {}).get("podIP")
        ]
        endpoints = [
            {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": is_ready(pod), "serving": is_ready(pod), "terminating": "deletionTimestamp" in pod["metadata"]},
                "nodeName": pod["spec"].get("nodeName"),
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": meta["namespace"], "uid": pod["metadata"]["uid"]},
            }
            for pod in pods
        ]
        ports = [{"name": port.get("name", ""), "port": port["port"], "protocol": port["protocol"]} for port in spec.get("ports") or ()]
        name = f"{meta['name']}-slice"
        before = self.api.get("EndpointSlice", name, meta["namespace"])
        if before is not None and before.get("endpoints") == endpoints:
            return
        labels = {"kubernetes.io/service-name": meta["name"], "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
        value = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": meta["namespace"], "labels": labels, "ownerReferences": [reference(one)]},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        }
        if before is not None:
            value["metadata"] = {**before["metadata"], "labels": labels}
        self.api.objects.store.put(("discovery.k8s.io", "endpointslices"), value)

    def _budget(self, one: Json) -> None:
        spec, meta = one["spec"], one["metadata"]
        pods = [pod for pod in self.api.list("Pod", meta["namespace"]) if matches(spec.get("selector"), pod["metadata"].get("labels") or {})]
        healthy = sum(is_ready(pod) for pod in pods)
        if spec.get("minAvailable") is not None:
            wanted = share(spec["minAvailable"], len(pods), up=True)
        else:
            wanted = len(pods) - share(spec.get("maxUnavailable", 1), len(pods), up=True)
        allowed = max(0, healthy - max(0, wanted))
        seen = {"observedGeneration": meta["generation"], "expectedPods": len(pods), "currentHealthy": healthy, "desiredHealthy": max(0, wanted)}
        self._put(one, {**seen, "disruptionsAllowed": allowed})

    def _put(self, one: Json, status: Json) -> None:
        kind = self.api.objects.kinds.of(one["apiVersion"], one["kind"])
        assert kind is not None
        self.api.objects.put_status(kind, one, status)

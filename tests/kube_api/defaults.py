"""What the real server fills in by itself, as far as it shows in diffs."""

from __future__ import annotations

import base64
import copy
from typing import Any

Json = dict[str, Any]


def defaulted(value: Json) -> Json:
    """The object with what its kind fills in; the given one stays as it is."""
    result = copy.deepcopy(value)
    fill = _BY_KIND.get(result.get("kind", ""))
    if fill is not None:
        fill(result)
    return result


def _fill(holder: Json, **defaults: Any) -> None:
    for key, value in defaults.items():
        if holder.get(key) is None:
            holder[key] = copy.deepcopy(value)


def _pod_spec(spec: Json) -> None:
    _fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
    )
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        image = container.get("image") or ""
        newest = "@" not in image and (":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest"))
        _fill(
            container,
            terminationMessagePath="/dev/termination-log",
            terminationMessagePolicy="File",
            imagePullPolicy="Always" if newest else "IfNotPresent",
            resources={},
        )
        if limits := container["resources"].get("limits"):
            container["resources"]["requests"] = {**limits, **(container["resources"].get("requests") or {})}
        for port in container.get("ports") or ():
            _fill(port, protocol="TCP")
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe := container.get(name):
                _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
                if "httpGet" in probe:
                    _fill(probe["httpGet"], path="/", scheme="HTTP")
        for hook in ("preStop", "postStart"):
            if get := ((container.get("lifecycle") or {}).get(hook) or {}).get("httpGet"):
                _fill(get, path="/", scheme="HTTP")
        for variable in container.get("env") or ():
            if reference := (variable.get("valueFrom") or {}).get("fieldRef"):
                _fill(reference, apiVersion="v1")
    for volume in spec.get("volumes") or ():
        for name, mode in (("configMap", True), ("secret", True), ("projected", True), ("downwardAPI", True), ("hostPath", False)):
            if volume.get(name) is not None:
                _fill(volume[name], **({"defaultMode": 420} if mode else {"type": ""}))
    if not spec.get("topologySpreadConstraints"):
        return
    for constraint in spec["topologySpreadConstraints"]:
        _fill(constraint, maxSkew=1)


def _pod(one: Json) -> None:
    _pod_spec(one["spec"])
    _fill(one["spec"], enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority", priority=0)
    one.setdefault("status", {"phase": "Pending", "qosClass": "Burstable"})


def _deployment(one: Json) -> None:
    spec = one["spec"]
    _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    _fill(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        _fill(spec["strategy"], rollingUpdate={})
        _fill(spec["strategy"]["rollingUpdate"], maxSurge="25%", maxUnavailable="25%")
    _pod_spec(spec["template"]["spec"])


def _replica_set(one: Json) -> None:
    _fill(one["spec"], replicas=1)
    _pod_spec(one["spec"]["template"]["spec"])


def _stateful_set(one: Json) -> None:
    spec = one["spec"]
    _fill(spec, replicas=1, podManagementPolicy="OrderedReady", revisionHistoryLimit=10, updateStrategy={}, serviceName="")
    _fill(spec, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Retain"})
    _fill(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _fill(spec["updateStrategy"], rollingUpdate={"partition": 0})
    for claim in spec.get("volumeClaimTemplates") or ():
        claim.update(apiVersion="v1", kind="PersistentVolumeClaim")
        _fill(claim["spec"], volumeMode="Filesystem")
        _fill(claim, status={"phase": "Pending"})
    _pod_spec(spec["template"]["spec"])


def _daemon_set(one: Json) -> None:
    spec = one["spec"]
    _fill(spec, revisionHistoryLimit=10, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
    _pod_spec(spec["template"]["spec"])


def _job(one: Json) -> None:
    spec = one["spec"]
    _fill(spec, parallelism=1, completions=1, backoffLimit=6, completionMode="NonIndexed", suspend=False, podReplacementPolicy="TerminatingOrFailed")
    _fill(spec, manualSelector=False)
    if uid := one["metadata"].get("uid"):
        labels = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": one["metadata"]["name"]}
        template = spec["template"].setdefault("metadata", {})
        template["labels"] = {**(template.get("labels") or {}), **labels, "controller-uid": uid, "job-name": one["metadata"]["name"]}
        _fill(spec, selector={"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
    _pod_spec(spec["template"]["spec"])


def _cron_job(one: Json) -> None:
    _fill(one["spec"], concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    _pod_spec(one["spec"]["jobTemplate"]["spec"]["template"]["spec"])


def _service(one: Json) -> None:
    spec = one["spec"]
    _fill(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster", ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])
    if spec["type"] in {"NodePort", "LoadBalancer"}:
        _fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _fill(spec, allocateLoadBalancerNodePorts=True)
    for port in spec.get("ports") or ():
        _fill(port, protocol="TCP", targetPort=port.get("port"))
    one.setdefault("status", {"loadBalancer": {}})


def _claim(one: Json) -> None:
    _fill(one["spec"], volumeMode="Filesystem")
    one.setdefault("status", {"phase": "Pending"})


def _secret(one: Json) -> None:
    _fill(one, type="Opaque")
    if plain := one.pop("stringData", None):
        one["data"] = {**(one.get("data") or {}), **{key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}}


def _namespace(one: Json) -> None:
    labels = one["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = one["metadata"]["name"]
    _fill(one, spec={"finalizers": ["kubernetes"]})
    one.setdefault("status", {"phase": "Active"})


def _network_policy(one: Json) -> None:
    spec = one["spec"]
    _fill(spec, podSelector={}, policyTypes=["Ingress", *(("Egress",) if spec.get("egress") is not None else ())])
    for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
        for port in rule.get("ports") or ():
            _fill(port, protocol="TCP")


def _autoscaler(one: Json) -> None:
    _fill(one["spec"], minReplicas=1)


def _binding(one: Json) -> None:
    _fill(one["roleRef"], apiGroup="rbac.authorization.k8s.io")
    for subject in one.get("subjects") or ():
        _fill(subject, **({"apiGroup": "rbac.authorization.k8s.io"} if subject.get("kind") in {"User", "Group"} else {}))


def _storage_class(one: Json) -> None:
    _fill(one, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _event(one: Json) -> None:
    _fill(one, type="Normal", source={}, reportingComponent="", reportingInstance="")


_BY_KIND = {
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "PersistentVolumeClaim": _claim,
    "Secret": _secret,
    "Namespace": _namespace,
    "NetworkPolicy": _network_policy,
    "HorizontalPodAutoscaler": _autoscaler,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "StorageClass": _storage_class,
    "Event": _event,
}

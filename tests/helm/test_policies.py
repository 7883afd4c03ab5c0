"""The policies find what they are there to find: a release without faults, and one change each that must be noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from helm import policies
from helm.schemas import schema_faults

Json = dict[str, Any]

IMAGE = f"registry.example.org/kiva/engine@sha256:{'0a' * 32}"
SELECTOR = {"app.kubernetes.io/name": "kiva-engine", "app.kubernetes.io/instance": "kiva-x"}
LABELS = {**SELECTOR, "app.kubernetes.io/part-of": "kiva", "app.kubernetes.io/managed-by": "Helm"}


def _metadata() -> Json:
    return {"name": "kiva-x", "namespace": "kiva", "labels": dict(LABELS)}


def _container() -> Json:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 10}
    return {
        "name": "engine",
        "image": IMAGE,
        "env": [{"name": "HOME", "value": "/cache"}, {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "startupProbe": {**probe, "failureThreshold": 60},
        "readinessProbe": {**probe, "failureThreshold": 1},
        "livenessProbe": {**probe, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "15"]}}},
        "resources": {
            "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": 1},
            "limits": {"memory": "16Gi", "nvidia.com/gpu": 1},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    }


def _pod() -> Json:
    return {
        "serviceAccountName": "kiva-x",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 90,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container()],
        "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
    }


def good() -> dict[str, Json]:
    """A release without faults, by kind."""
    template = {"metadata": {"labels": dict(LABELS)}, "spec": _pod()}
    parts: dict[str, Json] = {
        "Deployment": {
            "apiVersion": "apps/v1",
            "spec": {"replicas": 2, "progressDeadlineSeconds": 700, "selector": {"matchLabels": dict(SELECTOR)}, "template": template},
        },
        "Service": {"apiVersion": "v1", "spec": {"selector": dict(SELECTOR), "ports": [{"name": "http", "port": 8000}]}},
        "ServiceAccount": {"apiVersion": "v1", "automountServiceAccountToken": False},
        "PodDisruptionBudget": {
            "apiVersion": "policy/v1",
            "spec": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": dict(SELECTOR)}},
        },
        "NetworkPolicy": {
            "apiVersion": "networking.k8s.io/v1",
            "spec": {"podSelector": {"matchLabels": dict(SELECTOR)}, "policyTypes": ["Ingress", "Egress"], "ingress": []},
        },
        "ConfigMap": {"apiVersion": "v1", "data": {"file": '{"a": 1}'}},
    }
    return {kind: {"kind": kind, "metadata": _metadata(), **part} for kind, part in parts.items()}


Release = dict[str, Json]
Change = Callable[[Release, Json, Json], object]
"""Gets the release, its pod and its container."""


def _set(where: Json, *path: str, to: Any) -> None:
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = to


def _drop(where: Json, *path: str) -> None:
    for key in path[:-1]:
        where = where[key]
    del where[path[-1]]


BROKEN: list[tuple[str, str, Change]] = [
    ("images_are_pinned", "a tag", lambda _r, _p, c: _set(c, "image", to="kiva/engine:1.0")),
    ("images_are_pinned", "latest", lambda _r, _p, c: _set(c, "image", to="kiva/engine:latest")),
    ("images_are_pinned", "nothing behind the name", lambda _r, _p, c: _set(c, "image", to="kiva/engine")),
    ("images_are_pinned", "half a digest", lambda _r, _p, c: _set(c, "image", to="kiva/engine@sha256:abc")),
    ("images_are_pinned", "a model's image by tag", lambda _r, p, _c: p["volumes"].append({"name": "model", "image": {"reference": "kiva/model:1"}})),
    ("images_are_pinned", "an init container", lambda _r, p, c: _set(p, "initContainers", to=[{**c, "image": "x:1"}])),
    ("what_listens_is_probed", "no readiness", lambda _r, _p, c: _drop(c, "readinessProbe")),
    ("what_listens_is_probed", "no liveness", lambda _r, _p, c: _drop(c, "livenessProbe")),
    ("what_listens_is_probed", "kills first", lambda _r, _p, c: _set(c, "livenessProbe", "failureThreshold", to=1)),
    ("resources_are_bounded", "no memory limit", lambda _r, _p, c: _drop(c, "resources", "limits", "memory")),
    ("resources_are_bounded", "no memory request", lambda _r, _p, c: _drop(c, "resources", "requests", "memory")),
    ("resources_are_bounded", "no CPU request", lambda _r, _p, c: _drop(c, "resources", "requests", "cpu")),
    ("resources_are_bounded", "more than requested", lambda _r, _p, c: _set(c, "resources", "limits", "memory", to="32Gi")),
    ("resources_are_bounded", "GPUs differ", lambda _r, _p, c: _set(c, "resources", "limits", "nvidia.com/gpu", to=2)),
    ("resources_are_bounded", "a volume without end", lambda _r, p, _c: _set(p, "volumes", to=[{"name": "cache", "emptyDir": {}}])),
    ("pods_are_restricted", "root allowed", lambda _r, p, _c: _drop(p, "securityContext", "runAsNonRoot")),
    ("pods_are_restricted", "user 0", lambda _r, p, _c: _set(p, "securityContext", "runAsUser", to=0)),
    ("pods_are_restricted", "user of the image", lambda _r, p, _c: _drop(p, "securityContext", "runAsUser")),
    ("pods_are_restricted", "a container as root", lambda _r, _p, c: _set(c, "securityContext", "runAsUser", to=0)),
    ("pods_are_restricted", "no seccomp", lambda _r, p, _c: _drop(p, "securityContext", "seccompProfile")),
    ("pods_are_restricted", "unconfined container", lambda _r, _p, c: _set(c, "securityContext", "seccompProfile", to={"type": "Unconfined"})),
    ("pods_are_restricted", "escalation", lambda _r, _p, c: _drop(c, "securityContext", "allowPrivilegeEscalation")),
    ("pods_are_restricted", "privileged", lambda _r, _p, c: _set(c, "securityContext", "privileged", to=True)),
    ("pods_are_restricted", "writable root", lambda _r, _p, c: _drop(c, "securityContext", "readOnlyRootFilesystem")),
    ("pods_are_restricted", "capabilities kept", lambda _r, _p, c: _drop(c, "securityContext", "capabilities")),
    ("pods_are_restricted", "capabilities added", lambda _r, _p, c: _set(c, "securityContext", "capabilities", "add", to=["NET_ADMIN"])),
    ("pods_are_restricted", "the host's network", lambda _r, p, _c: _set(p, "hostNetwork", to=True)),
    ("no_host_path", "a node's folder", lambda _r, p, _c: p["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
    ("no_service_account_token", "token mounted", lambda _r, p, _c: _drop(p, "automountServiceAccountToken")),
    ("no_service_account_token", "default account", lambda _r, p, _c: _drop(p, "serviceAccountName")),
    ("no_service_account_token", "account with token", lambda r, _p, _c: _drop(r["ServiceAccount"], "automountServiceAccountToken")),
    ("disruptions_are_bounded", "none", lambda r, _p, _c: _drop(r, "PodDisruptionBudget")),
    ("disruptions_are_bounded", "for other pods", lambda r, _p, _c: _set(r["PodDisruptionBudget"], "spec", "selector", "matchLabels", to={"a": "b"})),
    ("disruptions_are_bounded", "blocks for ever", lambda r, _p, _c: _set(r["PodDisruptionBudget"], "spec", "maxUnavailable", to=0)),
    ("disruptions_are_bounded", "blocks one replica", lambda r, _p, _c: _set(r["Deployment"], "spec", "replicas", to=1) or _least(r, 1)),
    ("disruptions_are_bounded", "blocks by percent", lambda r, _p, _c: _least(r, "100%")),
    ("disruptions_are_bounded", "protects nothing", lambda r, _p, _c: _least(r, 0)),
    ("disruptions_are_bounded", "all may go", lambda r, _p, _c: _set(r["PodDisruptionBudget"], "spec", "maxUnavailable", to="100%")),
    ("disruptions_are_bounded", "broken pods block", lambda r, _p, _c: _drop(r["PodDisruptionBudget"], "spec", "unhealthyPodEvictionPolicy")),
    ("disruptions_are_bounded", "scaled down to what must stay", lambda r, _p, _c: _least(r, 1) or _scaled(r, 1)),
    ("network_is_closed", "none", lambda r, _p, _c: _drop(r, "NetworkPolicy")),
    ("network_is_closed", "for other pods", lambda r, _p, _c: _set(r["NetworkPolicy"], "spec", "podSelector", "matchLabels", to={"a": "b"})),
    ("network_is_closed", "for the namespace", lambda r, _p, _c: _set(r["NetworkPolicy"], "spec", "podSelector", to={})),
    ("network_is_closed", "not what goes out", lambda r, _p, _c: _set(r["NetworkPolicy"], "spec", "policyTypes", to=["Ingress"])),
    ("selectors_are_stable", "a version", lambda r, _p, _c: _selector_with(r, "app.kubernetes.io/version", "1")),
    ("selectors_are_stable", "the chart", lambda r, _p, _c: _selector_with(r, "helm.sh/chart", "x-1")),
    ("selectors_are_stable", "other pods", lambda r, _p, _c: _set(r["Deployment"], "spec", "selector", "matchLabels", "a", to="b")),
    ("selectors_are_stable", "a Service of nobody", lambda r, _p, _c: _set(r["Service"], "spec", "selector", to={"a": "b"})),
    ("names_fit", "too long", lambda r, _p, _c: _set(r["Service"], "metadata", "name", to="x" * 64)),
    ("names_fit", "a dot", lambda r, _p, _c: _set(r["Service"], "metadata", "name", to="llama-3.1")),
    ("names_fit", "twice", lambda r, _p, _c: _set(r, "Again", to=copy.deepcopy(r["Service"]))),
    ("names_fit", "no namespace", lambda r, _p, _c: _drop(r["Service"], "metadata", "namespace")),
    ("names_fit", "a label that is a number", lambda r, _p, _c: _set(r["Service"], "metadata", "labels", "a", to=1)),
    ("names_fit", "a long label", lambda r, _p, _c: _set(r["Service"], "metadata", "labels", "a", to="x" * 64)),
    ("names_fit", "a pod's label", lambda r, _p, _c: _set(r["Deployment"], "spec", "template", "metadata", "labels", "a", to="x/y")),
    ("names_fit", "nobody's", lambda r, _p, _c: _drop(r["Service"], "metadata", "labels", "app.kubernetes.io/part-of")),
    (
        "names_fit",
        "a long port",
        lambda _r, _p, c: _set(c, "ports", to=[{"name": "http-for-everybody", "containerPort": 8000}, {"name": "http", "containerPort": 1}]),
    ),
    ("no_secret_values", "a Secret", lambda r, _p, _c: _set(r, "Secret", to={"apiVersion": "v1", "kind": "Secret", "metadata": _metadata()})),
    ("no_secret_values", "a key in a ConfigMap", lambda r, _p, _c: _set(r["ConfigMap"], "data", "k", to="-----BEGIN EC PRIVATE KEY-----")),
    ("no_secret_values", "a password in a URL", lambda r, _p, _c: _set(r["ConfigMap"], "data", "k", to="https://user:pass@hub")),
    ("no_secret_values", "a token as text", lambda _r, _p, c: c["env"].append({"name": "MY_TOKEN", "value": "abc"})),
    ("no_secret_values", "a token in the argv", lambda _r, _p, c: _set(c, "command", to=["vllm", "--token=abc"])),
    ("pods_end_in_time", "no preStop", lambda _r, _p, c: _drop(c, "lifecycle")),
    ("pods_end_in_time", "killed while it waits", lambda _r, p, _c: _set(p, "terminationGracePeriodSeconds", to=15)),
    ("rollouts_wait_for_the_start", "the default deadline", lambda r, _p, _c: _drop(r["Deployment"], "spec", "progressDeadlineSeconds")),
    ("parts_fit_together", "a volume that is not there", lambda _r, p, _c: _set(p, "volumes", to=[])),
    ("parts_fit_together", "a volume nobody uses", lambda _r, p, _c: p["volumes"].append({"name": "more", "emptyDir": {"sizeLimit": "1Gi"}})),
    ("parts_fit_together", "a variable twice", lambda _r, _p, c: c["env"].append({"name": "HOME", "value": "/"})),
    ("parts_fit_together", "a path twice", lambda _r, _p, c: c["volumeMounts"].append({"name": "cache", "mountPath": "/cache"})),
    ("parts_fit_together", "a port nobody has", lambda _r, _p, c: _set(c, "readinessProbe", "httpGet", "port", to="https")),
]


def _least(release: Release, amount: int | str) -> None:
    spec = release["PodDisruptionBudget"]["spec"]
    del spec["maxUnavailable"]
    spec["minAvailable"] = amount


def _scaled(release: Release, least: int) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "kiva-x"}
    scaler = {"kind": "HorizontalPodAutoscaler", "metadata": _metadata(), "spec": {"scaleTargetRef": target, "minReplicas": least}}
    release["HorizontalPodAutoscaler"] = scaler


def _selector_with(release: Release, key: str, value: str) -> None:
    release["Deployment"]["spec"]["selector"]["matchLabels"][key] = value
    release["Deployment"]["spec"]["template"]["metadata"]["labels"][key] = value


def test_a_release_that_does_all_that_is_asked_has_no_fault():
    assert policies.faults_of(list(good().values())) == []


@pytest.mark.parametrize(("policy", "what", "change"), BROKEN, ids=[f"{policy}: {what}" for policy, what, _ in BROKEN])
def test_each_policy_finds_what_it_is_there_for(policy: str, what: str, change: Change):
    release = good()
    pod = release["Deployment"]["spec"]["template"]["spec"]
    change(release, pod, pod["containers"][0])
    faults = policies.faults_of(list(release.values()))
    assert any(fault.startswith(f"{policy}: ") for fault in faults), faults
    assert not any(fault.startswith(f"{policy}: ") for fault in policies.faults_of(list(release.values()), without={policy}))


def test_every_policy_has_a_change_that_it_finds():
    assert {policy for policy, _, _ in BROKEN} == set(policies.POLICIES)


def test_one_replica_needs_no_disruption_budget():
    release = good()
    release["Deployment"]["spec"]["replicas"] = 1
    del release["PodDisruptionBudget"]
    assert policies.faults_of(list(release.values())) == []


def test_pods_of_a_group_over_several_nodes_are_checked_like_all_others():
    template = good()["Deployment"]["spec"]["template"]
    worker = copy.deepcopy(template)
    del worker["spec"]["serviceAccountName"]
    group = {"size": 2, "leaderTemplate": template, "workerTemplate": worker}
    manifest = {"kind": "LeaderWorkerSet", "metadata": _metadata(), "spec": {"replicas": 1, "leaderWorkerTemplate": group}}
    assert policies.no_service_account_token([manifest]) == ["LeaderWorkerSet kiva-x workerTemplate runs as the default service account"]


def test_the_schemas_accept_a_good_release_and_find_a_typo_even_in_a_group_over_several_nodes():
    release = good()
    assert [fault for manifest in release.values() for fault in schema_faults(manifest, "1.37")] == []
    template = release["Deployment"]["spec"]["template"]
    template["spec"]["containers"][0]["imagePullPolice"] = "Always"
    group = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "spec": {"leaderWorkerTemplate": {"workerTemplate": template}}}
    for manifest in (release["Deployment"], group):
        (fault,) = schema_faults(manifest, "1.35")
        assert "imagePullPolice" in fault


def test_the_schemas_know_only_the_custom_resources_that_are_named():
    assert schema_faults({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}, "1.37") == []
    assert schema_faults({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObjekt"}, "1.37") == ["Kubernetes 1.37 knows no ScaledObjekt in keda.sh/v1alpha1"]

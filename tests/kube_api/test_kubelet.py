"""Scripted nodes and pods: what becomes ready, and what each trouble looks like."""

from __future__ import annotations

import pytest
from kube_api.conftest import deployment


def conditions(one):
    return {cond["type"]: (cond["status"], cond["reason"]) for cond in one["status"]["conditions"]}


def pod_of(api, name="kiva-x"):
    (found,) = [one for one in api.list("Pod", "kiva") if one["metadata"]["name"].startswith(name)]
    return found


def events(api, kind="Pod"):
    return [(one["reason"], one["message"]) for one in api.list("Event", "kiva") if one["involvedObject"]["kind"] == kind]


def test_a_deployment_becomes_ready_and_its_service_finds_it(api, kubelet):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kiva-x"},
        "spec": {"clusterIP": "None", "selector": {"app": "kiva-x"}, "ports": [{"port": 8000}]},
    }
    api.add(service, "kiva")
    api.add(deployment(replicas=2))
    kubelet.tick()
    assert conditions(api.get("Deployment", "kiva-x", "kiva"))["Available"] == ("False", "MinimumReplicasUnavailable")
    kubelet.tick(2)
    found = api.get("Deployment", "kiva-x", "kiva")
    assert conditions(found) == {"Available": ("True", "MinimumReplicasAvailable"), "Progressing": ("True", "NewReplicaSetAvailable")}
    assert found["status"]["availableReplicas"] == 2
    (slices,) = api.list("EndpointSlice", "kiva")
    assert [one["conditions"]["ready"] for one in slices["endpoints"]] == [True, True]


def test_ready_after_as_many_ticks_as_the_script_says(api, kubelet):
    kubelet.script(pods="kiva-x-*", ready_after=5)
    api.add(deployment())
    kubelet.tick(5)
    assert api.get("Deployment", "kiva-x", "kiva")["status"].get("availableReplicas", 0) == 0
    kubelet.tick(2)
    assert api.get("Deployment", "kiva-x", "kiva")["status"]["availableReplicas"] == 1


@pytest.mark.parametrize(
    ("trouble", "reasons", "event"),
    [
        ("ImagePullBackOff", {"ErrImagePull", "ImagePullBackOff"}, "not found"),
        ("CreateContainerConfigError", {"CreateContainerConfigError"}, 'secret "missing" not found'),
        ("CrashLoopBackOff", {"CrashLoopBackOff"}, "Back-off restarting failed container engine"),
        ("OOMKilled", {"CrashLoopBackOff"}, "Back-off restarting failed container engine"),
        ("NotReady", set(), "Readiness probe failed"),
    ],
)
def test_every_trouble_of_a_container(api, kubelet, trouble, reasons, event):
    kubelet.script(trouble=trouble)
    api.add(deployment())
    seen, last = set(), {}
    for _ in range(6):
        kubelet.tick()
        for status in pod_of(api)["status"].get("containerStatuses", ()):
            seen.add(status["state"].get("waiting", {}).get("reason"))
            last = status["lastState"] or last
    assert seen - {None} == reasons
    assert any(event in message for _, message in events(api))
    assert not api.get("Deployment", "kiva-x", "kiva")["status"].get("availableReplicas")
    if trouble == "OOMKilled":
        assert (last["terminated"]["reason"], last["terminated"]["exitCode"]) == ("OOMKilled", 137)
        assert pod_of(api)["status"]["containerStatuses"][0]["restartCount"] > 0


def test_no_gpu_is_free_until_somebody_leaves(api, kubelet):
    api.add(deployment("first", replicas=2, gpus=1))
    kubelet.tick(3)
    api.add(deployment(gpus=1))
    kubelet.tick(2)
    said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    assert ("FailedScheduling", said) in events(api)
    assert pod_of(api)["status"]["conditions"][0]["reason"] == "Unschedulable"
    api.change("Deployment", "first", {"spec": {"replicas": 1}}, "kiva")
    kubelet.tick(5)
    assert api.get("Deployment", "kiva-x", "kiva")["status"]["availableReplicas"] == 1


def test_pools_and_taints(api, kubelet):
    kubelet.node("gpu-2", gpus=8, labels={"kiva/pool": "gpu"}, taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}])
    wanted = deployment(gpus=4)
    wanted["spec"]["template"]["spec"]["nodeSelector"] = {"kiva/pool": "gpu"}
    api.add(wanted)
    kubelet.tick(2)
    assert "didn't match Pod's node affinity/selector" in events(api)[0][1]
    assert "untolerated taint {nvidia.com/gpu: present}" in events(api)[0][1]
    tolerating = {"spec": {"template": {"spec": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}}}
    api.change("Deployment", "kiva-x", tolerating, "kiva")
    kubelet.tick(4)
    assert {one["spec"].get("nodeName") for one in api.list("Pod", "kiva")} >= {"gpu-2"}


def test_a_claim_that_is_not_bound_keeps_its_pod_waiting(api, kubelet):
    kubelet.storage_class("broken", works=False)
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    api.add({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": {**spec, "storageClassName": "broken"}}, "kiva")
    wanted = deployment()
    wanted["spec"]["template"]["spec"]["volumes"] = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    api.add(wanted)
    kubelet.tick(2)
    assert ("FailedScheduling", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.") in events(api)
    assert events(api, "PersistentVolumeClaim")[0][0] == "ProvisioningFailed"
    api.add({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "others"}, "spec": spec}, "kiva")
    kubelet.tick()
    assert api.get("PersistentVolumeClaim", "others", "kiva")["status"]["phase"] == "Bound"
    assert api.get("PersistentVolumeClaim", "others", "kiva")["spec"]["storageClassName"] == "disk"


def test_a_missing_secret_is_noticed_without_a_script(api, kubelet):
    wanted = deployment()
    wanted["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    api.add(wanted)
    kubelet.tick(2)
    assert pod_of(api)["status"]["containerStatuses"][0]["state"]["waiting"] == {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
    api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"token": "x"}}, "kiva")
    kubelet.tick(2)
    assert api.get("Deployment", "kiva-x", "kiva")["status"]["availableReplicas"] == 1


def test_a_rolling_update_keeps_all_and_a_bad_image_stops_it(api, kubelet):
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    api.add(deployment(replicas=2, strategy=strategy))
    kubelet.tick(3)
    kubelet.script(image="*:bad", trouble="ImagePullBackOff")
    image = "registry.example.org/engine:{}"
    for name, updated in (("bad", 1), ("good", 2)):
        containers = [{"name": "engine", "image": image.format(name)}]
        api.change("Deployment", "kiva-x", {"spec": {"template": {"spec": {"containers": containers}}}}, "kiva")
        for _ in range(14):
            kubelet.tick()
            assert api.get("Deployment", "kiva-x", "kiva")["status"]["availableReplicas"] >= 2
        assert api.get("Deployment", "kiva-x", "kiva")["status"]["updatedReplicas"] == updated
    assert {one["spec"]["containers"][0]["image"] for one in api.list("Pod", "kiva")} == {image.format("good")}


def test_recreating_lets_all_go_first(api, kubelet):
    api.add(deployment(replicas=2, gpus=1, strategy={"type": "Recreate"}))
    kubelet.tick(3)
    api.change("Deployment", "kiva-x", {"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}, "kiva")
    fewest = 2
    for _ in range(8):
        kubelet.tick()
        fewest = min(fewest, api.get("Deployment", "kiva-x", "kiva")["status"].get("availableReplicas", 0))
    assert fewest == 0
    assert api.get("Deployment", "kiva-x", "kiva")["status"]["availableReplicas"] == 2


def test_a_deadline_that_is_missed(api, kubelet):
    kubelet.controllers.workloads.deadline = 3
    kubelet.script(trouble="Pending", message="0/5 nodes are available: 5 Insufficient nvidia.com/gpu.")
    api.add(deployment())
    kubelet.tick(6)
    assert conditions(api.get("Deployment", "kiva-x", "kiva"))["Progressing"] == ("False", "ProgressDeadlineExceeded")


def test_what_a_quota_or_pod_security_refuses_stands_at_the_replica_set(api, kubelet):
    api.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}}, "kiva")
    api.add(deployment(gpus=1, replicas=2))
    kubelet.tick(4)
    said = [message for reason, message in events(api, "ReplicaSet") if reason == "FailedCreate"]
    assert "exceeded quota: team, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1" in said[0]
    assert conditions(api.get("Deployment", "kiva-x", "kiva"))["ReplicaFailure"] == ("True", "FailedCreate")
    assert api.get("ResourceQuota", "team", "kiva")["status"]["used"] == {"requests.nvidia.com/gpu": "1"}

    api.namespace("strict", **{"pod-security.kubernetes.io/enforce": "restricted"})
    wanted = deployment("y")
    wanted["metadata"]["namespace"] = "strict"
    api.add(wanted)
    kubelet.tick(2)
    event = api.list("Event", "strict")[0]
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in event["message"]
    assert api.list("Pod", "strict") == []


def test_a_stateful_set_goes_in_order_with_a_claim_each(api, kubelet):
    claim = {"metadata": {"name": "state"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    wanted = deployment(replicas=2, serviceName="kiva-x", volumeClaimTemplates=[claim]) | {"kind": "StatefulSet"}
    api.add(wanted)
    kubelet.tick(2)
    assert [one["metadata"]["name"] for one in api.list("Pod", "kiva")] == ["kiva-x-0"]
    kubelet.tick(4)
    assert api.get("StatefulSet", "kiva-x", "kiva")["status"]["readyReplicas"] == 2
    assert [one["metadata"]["name"] for one in api.list("PersistentVolumeClaim", "kiva")] == ["state-kiva-x-0", "state-kiva-x-1"]


def test_groups_of_leaders_and_workers(api, kubelet):
    template = deployment()["spec"]["template"]
    spec = {"replicas": 2, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}}
    api.add({"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "big"}, "spec": spec}, "kiva")
    kubelet.tick(4)
    assert [one["metadata"]["name"] for one in api.list("Pod", "kiva")] == ["big-0", "big-0-1", "big-1", "big-1-1"]
    assert conditions(api.get("LeaderWorkerSet", "big", "kiva"))["Available"] == ("True", "AllGroupsReady")


@pytest.mark.parametrize(("exit_code", "condition"), [(0, "Complete"), (3, "Failed")])
def test_jobs(api, kubelet, exit_code, condition):
    kubelet.script(pods="load-*", exit_code=exit_code)
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x@sha256:1"}]}}
    api.add({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "load"}, "spec": {"backoffLimit": 1, "template": template}}, "kiva")
    kubelet.tick(8)
    assert conditions(api.get("Job", "load", "kiva"))[condition][0] == "True"
    assert len(api.list("Pod", "kiva")) == (1 if exit_code == 0 else 2)


def test_a_budget_protects_and_an_eviction_asks_it(api, kubelet):
    api.add(deployment(replicas=2))
    selector = {"matchLabels": {"app": "kiva-x"}}
    api.add(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "kiva-x"}, "spec": {"maxUnavailable": 1, "selector": selector}}, "kiva"
    )
    kubelet.tick(3)
    assert api.get("PodDisruptionBudget", "kiva-x", "kiva")["status"]["disruptionsAllowed"] == 1
    api.change("Deployment", "kiva-x", {"spec": {"replicas": 1}}, "kiva")
    api.change("PodDisruptionBudget", "kiva-x", {"spec": {"minAvailable": 1, "maxUnavailable": None}}, "kiva")
    kubelet.tick(3)
    assert api.get("PodDisruptionBudget", "kiva-x", "kiva")["status"]["disruptionsAllowed"] == 0


def test_two_hundred_deployments(api, kubelet):
    kubelet.node("big", cpu="1000", gpus=400)
    kubelet.node("bigger", cpu="1000", gpus=400)
    kubelet.node("biggest", cpu="1000", gpus=400)
    for number in range(200):
        api.add(deployment(f"m-{number}", gpus=1))
    kubelet.tick(3)
    assert sum(one["status"].get("availableReplicas", 0) for one in api.list("Deployment", "kiva")) == 200

"""How far a workload is, by what its controller says."""

from __future__ import annotations

import pytest

from kivactl.targets.kubernetes.manifests import as_helm_writes, parse_manifests, startup_s, workloads
from kivactl.targets.kubernetes.waiting import Progress, ending, is_ready, progress_of, ready_within_s, spoken


def deployment(wanted=2, generation=3, observed=3, **status):
    return {
        "kind": "Deployment",
        "metadata": {"generation": generation},
        "spec": {"replicas": wanted} if wanted is not None else {},
        "status": {"observedGeneration": observed, **status},
    }


@pytest.mark.parametrize(
    ("workload", "progress", "text"),
    [
        (deployment(replicas=2, updatedReplicas=2, availableReplicas=2), Progress(2, 2, 0, done=True), "2 of 2 ready"),
        (deployment(observed=2, replicas=2, updatedReplicas=2, availableReplicas=2), Progress(0, 2, 2), "0 of 2 ready, 2 of before"),
        (deployment(replicas=3, updatedReplicas=1, availableReplicas=2), Progress(0, 2, 2), "0 of 2 ready, 2 of before"),
        (deployment(replicas=3, updatedReplicas=2, availableReplicas=2), Progress(1, 2, 1), "1 of 2 ready, 1 of before"),
        (deployment(replicas=2, updatedReplicas=2, availableReplicas=1), Progress(1, 2), "1 of 2 ready"),
        (deployment(), Progress(0, 2), "0 of 2 ready"),
        (deployment(wanted=0), Progress(0, 0, 0, done=True), "0 of 0 ready"),
        (deployment(wanted=None, replicas=1, updatedReplicas=1, readyReplicas=1), Progress(1, 1, 0, done=True), "1 of 1 ready"),
        (deployment(wanted=1, replicas=2, updatedReplicas=2, availableReplicas=2), Progress(2, 1), "2 of 1 ready"),
    ],
)
def test_how_far_a_workload_is(workload, progress, text):
    assert progress_of(workload) == progress
    assert str(progress_of(workload)) == text


def test_groups_of_pods_count_as_replicas():
    group = {"kind": "LeaderWorkerSet", "metadata": {"generation": 2}, "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 4}}}
    assert not progress_of(group).done
    assert progress_of({**group, "status": {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}}).done
    assert progress_of({**group, "status": {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 2}}) == Progress(1, 2, 1)


def test_an_object_that_is_new_is_not_done():
    assert not progress_of({"kind": "Deployment", "metadata": {"generation": 1}}).done


def test_a_pod_that_is_being_ended_gets_no_requests():
    pod = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert is_ready(pod)
    ended = {**pod, "metadata": {"deletionTimestamp": "2026-11-29T12:00:00Z"}}
    assert (is_ready(ended), ending(ended)) == (False, True)


def test_how_long_a_pod_took():
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-29T12:04:40Z"}
    status = {"startTime": "2026-11-29T12:00:00Z", "conditions": [ready]}
    assert ready_within_s({"status": status}) == 280
    assert ready_within_s({"status": {**status, "containerStatuses": [{"restartCount": 1}]}}) is None
    assert ready_within_s({"status": {"conditions": [ready]}}) is None
    assert ready_within_s({}) is None


def test_whose_log_has_something_to_say():
    status = {"initContainerStatuses": [{"name": "preload", "state": {"terminated": {}}}], "containerStatuses": [{"name": "engine", "state": {"waiting": {}}}]}
    assert spoken({"status": status}) == []
    status["initContainerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}
    status["containerStatuses"][0]["restartCount"] = 2
    assert spoken({"status": status}) == ["preload", "engine"]


TEXT = """
---
apiVersion: v1
kind: Service
metadata: {name: a}
---
# nothing
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
---
apiVersion: batch/v1
kind: Job
metadata: {name: test, annotations: {helm.sh/hook: test}}
"""


def test_manifests_are_read_without_hooks():
    found = parse_manifests(TEXT)
    assert list(found) == [("v1/Service", "a"), ("apps/v1/Deployment", "a")]
    assert workloads(found) == [("apps/v1/Deployment", "a")]
    assert parse_manifests("") == {}


def test_what_helm_adds_is_not_taken_for_a_change():
    written = as_helm_writes({"kind": "Service", "metadata": {"name": "a", "labels": {"x": "y"}}}, "r", "kiva")
    assert written["metadata"]["labels"] == {"x": "y", "app.kubernetes.io/managed-by": "Helm"}
    assert written["metadata"]["annotations"] == {"meta.helm.sh/release-name": "r", "meta.helm.sh/release-namespace": "kiva"}


def test_the_time_to_start_is_that_of_the_longest_startup_probe():
    assert startup_s({"containers": [{"startupProbe": {"failureThreshold": 60}}, {"startupProbe": {"failureThreshold": 10, "periodSeconds": 5}}, {}]}) == 600
    assert startup_s({}) == 60

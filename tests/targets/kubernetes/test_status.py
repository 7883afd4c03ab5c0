"""How a platform in a cluster is, from pods as the API shows them."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kivactl.targets.kubernetes.record import Deploy, Record, Unfinished
from kivactl.targets.kubernetes.status import Pods, status_from, status_of
from kivactl.targets.kubernetes.trouble import Logs, Where
from kivactl.targets.status import Health
from kivactl.tools.kube_objects import Event

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
RECORD = Record("kiva", "https://llm.example.org/v1", (Deploy(1, "2026-11-29T11:00:00+00:00"),))
CASES = Path(__file__).parent / "troubles"


def labels(component, instance, model="smollm2"):
    found = {"app.kubernetes.io/component": component, "app.kubernetes.io/instance": instance, "kiva/platform": "kiva"}
    return {**found, **({"kiva/model": model} if component == "engine" else {})}


def pod(name, component="engine", instance="kiva-smollm2", *, ready=True, ending=False, restarts=0):
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels(component, instance), **({"deletionTimestamp": "2026-11-29T11:59:00Z"} if ending else {})},
        "spec": {"nodeName": "gpu-1", "containers": [{"name": component}]},
        "status": {
            "phase": "Running",
            "startTime": "2026-11-29T11:58:30Z",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": component, "ready": ready, "restartCount": restarts, "state": {"running": {}}}],
        },
    }


def workload(name="kiva-smollm2", component="engine", replicas=1, **status):
    return {"kind": "Deployment", "metadata": {"name": name, "labels": labels(component, name)}, "spec": {"replicas": replicas}, "status": status}


GATEWAY = pod("kiva-gateway-a", "gateway", "kiva-gateway")


def status(*pods, events=(), workloads=(), logs=None, record=RECORD):
    return status_from(Pods(pods, events, workloads, logs or {}), record, Where("prod", "kiva"), "kiva", NOW)


def recorded(name):
    """A pod in trouble as the API shows it, with what was said of it."""
    case = json.loads((CASES / f"{name}.json").read_text())
    found = case["pod"]
    found["metadata"]["labels"]["app.kubernetes.io/component"] = "engine"
    logs = {name: Logs(tuple(lines.get("now", ())), tuple(lines.get("before", ()))) for name, lines in case["logs"].items()}
    return found, [Event(**{field.name: one[field.name] for field in fields(Event)}) for one in case["events"]], {found["metadata"]["name"]: logs}


@pytest.mark.parametrize(
    ("pods", "health"),
    [
        ([GATEWAY, pod("a"), pod("b")], Health.SERVING),
        ([GATEWAY, pod("a"), pod("b", ready=False)], Health.DEGRADED),
        ([GATEWAY, pod("a"), pod("b", ending=True)], Health.DEGRADED),
        ([GATEWAY, pod("a", ready=False)], Health.STARTING),
        ([GATEWAY, pod("a", ready=False, restarts=3)], Health.DEGRADED),
        ([pod("a")], Health.DEGRADED),
        ([], Health.ABSENT),
    ],
)
def test_the_whole(pods, health):
    assert status(*pods).health is health


def test_the_gateway_comes_first_then_the_engines_by_their_names():
    found = status(pod("b"), pod("a"), GATEWAY)
    assert [(one.name, one.model, one.health) for one in found.components] == [
        ("kiva-gateway-a", "", Health.SERVING),
        ("a", "smollm2", Health.SERVING),
        ("b", "smollm2", Health.SERVING),
    ]
    assert [(one.uptime_s, one.pid, one.active) for one in found.components] == [(90.0, 0, None)] * 3


def test_since_when_it_is_deployed_is_told_unless_a_deploy_is_unfinished():
    assert status(GATEWAY, pod("a")).deployed_at == "2026-11-29T11:00:00+00:00"
    begun = Record("kiva", RECORD.endpoint, RECORD.deploys, Unfinished("deploy", "a@b", "2026-11-29T11:30:00+00:00"))
    found = status(GATEWAY, pod("a"), record=begun)
    assert (found.deployed_at, found.endpoint) == ("", "https://llm.example.org/v1")


@pytest.mark.parametrize(
    ("case", "health", "reason"),
    [
        ("no-gpu-free", Health.STARTING, "it needs 1 nvidia.com/gpu, and no node has that free"),
        ("image-manifest-unknown", Health.STARTING, "there is no image registry.example.org/kiva/engine@sha256:"),
        ("crash-without-a-word", Health.RESTARTING, "engine ends at its start (once started anew): exit code 139"),
        ("out-of-memory-while-serving", Health.RESTARTING, "engine needed more than its memory limit of 16Gi while it served"),
        ("claim-pending", Health.STARTING, "its volume claim is not bound"),
        ("starting-pulling", Health.STARTING, ""),
        ("serving", Health.SERVING, ""),
    ],
)
def test_why_a_pod_does_not_serve_is_said_beside_it(case, health, reason):
    there, events, logs = recorded(case)
    (component,) = status(there, events=events, logs=logs).components
    assert component.health is health
    assert component.reason.startswith(reason)
    assert bool(component.reason) == bool(reason)


def test_an_engine_that_waits_for_its_model_says_what_is_wrong_with_the_job_that_fetches_it():
    there, events, _ = recorded("image-manifest-unknown")
    there["metadata"]["labels"] = labels("preload", "kiva-smollm2")
    (component,) = status(pod("a", ready=False), there, events=events).components
    assert (component.name, component.health) == ("a", Health.STARTING)
    assert component.reason.startswith("there is no image registry.example.org/kiva/engine@sha256:")


def test_a_model_without_pods_is_told_with_the_reason():
    said = 'pods "kiva-smollm2-1-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: 4'
    refused = workload(conditions=[{"type": "ReplicaFailure", "status": "True", "message": said}])
    (component,) = status(workloads=[refused]).components
    assert (component.name, component.model, component.health) == ("kiva-smollm2", "smollm2", Health.STARTING)
    assert component.reason.startswith("no pod of kiva-smollm2 is made: the quota 'gpus' is used up")
    (component,) = status(workloads=[workload()]).components
    assert component.reason == "no pod is there yet"


def test_a_model_that_sleeps_or_a_platform_that_was_stopped_is_stopped():
    (component,) = status(workloads=[workload(replicas=0)]).components
    assert (component.health, component.reason) == (Health.STOPPED, "no replicas are wanted")
    stopped = Record("kiva", RECORD.endpoint, RECORD.deploys, stopped_at="2026-11-29T11:50:00+00:00")
    found = status(workloads=[workload(replicas=0), workload("kiva-gateway", "gateway", 0)], record=stopped)
    assert found.health is Health.STOPPED
    assert {one.health for one in found.components} == {Health.STOPPED}
    assert {one.reason for one in found.components} == {""}


def test_workloads_of_others_are_no_part_of_it():
    assert status(workloads=[workload("kiva-monitoring", "monitoring")]).components == ()


def test_pods_that_only_half_exist_are_no_bug():
    (component,) = status({"metadata": {"name": "a", "labels": labels("engine", "kiva-smollm2")}}).components
    assert (component.health, component.uptime_s) == (Health.STARTING, 0.0)


def test_only_the_platforms_own_pods_are_asked_for(site):
    site.api.add({**pod("own"), "apiVersion": "v1", "spec": {"containers": [{"name": "engine", "image": "x"}]}}, "kiva")
    other = {**pod("other"), "apiVersion": "v1", "spec": {"containers": [{"name": "engine", "image": "x"}]}}
    other["metadata"]["labels"]["kiva/platform"] = "city"
    site.api.add(other, "kiva")
    found = status_of(site.target.cluster, "kiva")
    assert [one.name for one in found.components] == ["own"]

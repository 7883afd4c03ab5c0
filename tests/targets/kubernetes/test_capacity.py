"""Reading what a cluster has: quantities, nodes, pods, quotas."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kivactl.targets.kubernetes.capacity import PODS, Budget, Pod, Quota, Taint, amounts, capacity_from, parse_quantity, requests_of, show


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        (4, 4),
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        ("16Gi", 16 * 2**30),
        ("128974848", 128974848),
        ("1e3", 1000),
        ("12E", 12 * 10**18),
        ("100k", 100_000),
        ("1Ti", 2**40),
        (".5", Fraction(1, 2)),
        ("100n", Fraction(1, 10**7)),
    ],
)
def test_quantities_of_kubernetes(text, value):
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "16GiB", "x", "1 000", "Gi"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)


def test_processors_count_in_thousandths_and_what_is_asked_for_is_rounded_up():
    assert amounts({"cpu": "1500m", "memory": "1Gi", "nvidia.com/gpu": "2", "odd": "x"}) == {"cpu": 1500, "memory": 2**30, "nvidia.com/gpu": 2}
    assert amounts({"cpu": "100u"}, up=True) == {"cpu": 1}
    assert amounts({"requests.cpu": "2", "limits.cpu": "500m", "pods": "10"}) == {"requests.cpu": 2000, "limits.cpu": 500, "pods": 10}


def test_a_pod_asks_for_its_containers_or_for_its_largest_init_container():
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}, {"resources": {"limits": {"cpu": "500m", "nvidia.com/gpu": 1}}}],
        "initContainers": [{"resources": {"requests": {"memory": "4Gi"}}}],
        "overhead": {"cpu": "250m"},
    }
    assert requests_of(spec) == {"cpu": 1750, "memory": 4 * 2**30, "nvidia.com/gpu": 1, PODS: 1}


def test_a_sidecar_runs_beside_everything():
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "3"}}}],
    }
    assert requests_of(spec) == {"cpu": 4000, PODS: 1}


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [("cpu", 1500, "1.5 cpu"), ("memory", 16 * 2**30, "16GiB of memory"), ("nvidia.com/gpu", 2, "2 nvidia.com/gpu"), ("memory", -5, "0B of memory")],
)
def test_amounts_for_people(resource, amount, text):
    assert show(resource, amount) == text


def test_a_cluster_is_read():
    nodes = [
        {
            "metadata": {"name": "gpu-1", "labels": {"kiva/pool": "gpu"}},
            "spec": {
                "unschedulable": True,
                "taints": [
                    {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
                    {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                ],
            },
            "status": {"allocatable": {"cpu": "31850m", "nvidia.com/gpu": "2", "pods": "110"}, "conditions": [{"type": "Ready", "status": "Unknown"}]},
        }
    ]
    labels = {"app.kubernetes.io/instance": "kiva-smollm2"}
    pods = [
        {"metadata": {"name": "a", "namespace": "kiva", "labels": labels}, "spec": {"nodeName": "gpu-1", "containers": []}, "status": {"phase": "Running"}},
        {"metadata": {"name": "b", "namespace": "other", "labels": labels}, "spec": {"nodeName": "gpu-1", "containers": []}, "status": {}},
        {"metadata": {"name": "waiting", "namespace": "kiva"}, "spec": {"containers": []}, "status": {"phase": "Pending"}},
        {"metadata": {"name": "over", "namespace": "kiva"}, "spec": {"nodeName": "gpu-1", "containers": []}, "status": {"phase": "Succeeded"}},
    ]
    quotas = [
        {"metadata": {"name": "all"}, "spec": {"hard": {"requests.cpu": "8"}}, "status": {"hard": {"requests.cpu": "8"}, "used": {"requests.cpu": "1500m"}}},
        {"metadata": {"name": "of-some"}, "spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}},
    ]
    budgets = [
        {"metadata": {"name": "one"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}},
        {"metadata": {"name": "part"}, "spec": {"maxUnavailable": "25%"}},
    ]
    capacity = capacity_from(nodes, pods, quotas, budgets, "kiva")
    (node,) = capacity.nodes or ()
    assert (node.cordoned, node.ready, node.labels, node.taints) == (True, False, {"kiva/pool": "gpu"}, (Taint("nvidia.com/gpu", "present"),))
    assert node.allocatable == {"cpu": 31850, "nvidia.com/gpu": 2, PODS: 110}
    assert capacity.pods == (Pod("a", "gpu-1", {PODS: 1}, "kiva-smollm2", labels), Pod("b", "gpu-1", {PODS: 1}))
    assert capacity.quotas == (Quota("all", {"requests.cpu": 8000}, {"requests.cpu": 1500}),)
    assert capacity.budgets == (Budget("one", {"a": "b"}, 1, None), Budget("part", {}, None, None))
    assert capacity_from(None, (), (), (), "kiva").nodes is None

"""The client against an API that keeps objects, their history and their fields' managers: what one end says is what the other understands."""

from __future__ import annotations

import threading

import pytest
from kube_api.server import KubeApi
from scripted_api import Waits

from kivactl.tools import lease
from kivactl.tools.clock import Clock
from kivactl.tools.kube import open_cluster
from kivactl.tools.kube_errors import AlreadyThere, Conflict, Denied, Invalid, Missing, Refused, Unauthenticated, Unreachable
from kivactl.tools.kube_objects import Found, Owner, Permission, Synced
from kivactl.tools.kube_watch import folded


@pytest.fixture
def api():
    with KubeApi(tls=True, token="sesame") as server:
        server.namespace("kiva")
        yield server
        assert server.crashes == []


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def cluster(api, waits, tmp_path):
    return open_cluster("kiva-test", "kiva", api.kubeconfig(tmp_path / "config"), clock=waits.clock)


def settings(name="gateway", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "kiva"}}, "data": data}


def deployment(name="kiva-qwen", replicas=1, image="engine:1"):
    container = {"name": "engine", "image": image}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_from_nothing_to_nothing(cluster):
    assert cluster.get("ConfigMap", "gateway") is None
    assert cluster.apply(settings(a="1"), dry_run=True)["data"] == {"a": "1"}
    assert cluster.get("ConfigMap", "gateway") is None
    assert cluster.create(settings(a="1"))["data"] == {"a": "1"}
    with pytest.raises(AlreadyThere):
        cluster.create(settings(a="1"))
    assert cluster.patch("ConfigMap", "gateway", {"data": {"a": None, "b": "2"}})["data"] == {"b": "2"}
    assert cluster.change("ConfigMap", "gateway", lambda one: {**one, "data": {**one["data"], "c": "3"}})["data"] == {"b": "2", "c": "3"}
    assert [one["kind"] for one in cluster.list("ConfigMap", "app=kiva").items] == ["ConfigMap"]
    assert cluster.delete("ConfigMap", "gateway")
    assert not cluster.delete("ConfigMap", "gateway")


def test_fields_have_managers(cluster):
    cluster.apply(deployment(replicas=1), manager="helm")
    with pytest.raises(Conflict) as caught:
        cluster.apply(deployment(replicas=3))
    assert caught.value.owners == (Owner("helm", ".spec.replicas"),)
    assert cluster.apply(deployment(replicas=3), force=True, dry_run=True)["spec"]["replicas"] == 3
    assert cluster.apply(deployment(replicas=1))["spec"]["replicas"] == 1
    assert cluster.apply(deployment(replicas=3), force=True)["spec"]["replicas"] == 3


def test_kinds_of_operators(cluster):
    assert cluster.serves("monitoring.coreos.com/v1/ServiceMonitor")
    assert not cluster.serves("monitoring.coreos.com/v1/NoSuchThing")
    assert not cluster.serves("nobody.example.org/v1/Thing")
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "kiva"}, "spec": {"endpoints": []}}
    cluster.apply(monitor)
    assert len(cluster.list("monitoring.coreos.com/v1/ServiceMonitor").items) == 1


def test_refusals(cluster, api, waits):
    with pytest.raises(Missing, match="there is no namespace nowhere in cluster 'kiva-test'"):
        cluster.apply({**settings(), "metadata": {"name": "x", "namespace": "nowhere"}})
    with pytest.raises(Missing, match="there is no ConfigMap x in namespace kiva"):
        cluster.patch("ConfigMap", "x", {"data": {}})
    with pytest.raises(Invalid):
        cluster.apply({**deployment(), "spec": {**deployment()["spec"], "replicaz": 3}})
    assert not waits.waits
    api.admission.deny("Deployment", "images must be pinned")
    with pytest.raises(Refused, match=r"policy\.example\.org of cluster 'kiva-test' refuses Deployment kiva-qwen: images must be pinned"):
        cluster.apply(deployment(), dry_run=True)
    api.admission.forbid("patch", "configmaps")
    with pytest.raises(Denied, match="lacks the permission to patch configmaps in namespace kiva"):
        cluster.apply(settings())
    assert not cluster.can_i(Permission("patch", "ConfigMap"))
    assert cluster.can_i(Permission("get", "ConfigMap"))
    api.token = "another"
    with pytest.raises(Unauthenticated):
        cluster.get("ConfigMap", "x")


@pytest.mark.parametrize("answer", [429, 500, 503, "disconnect", "lost"])
@pytest.mark.parametrize("verb", ["create", "patch", "update", "delete", "get", "list"])
def test_trouble_that_passes_is_not_seen(cluster, api, waits, verb, answer):
    if verb != "create":
        cluster.apply(settings(a="1"))
    fault = api.faults.add(verb, "ConfigMap", times=2, answer=answer)
    match verb:
        case "create":
            assert cluster.create(settings(a="2"))["data"] == {"a": "2"}
        case "patch":
            assert cluster.apply(settings(a="2"))["data"] == {"a": "2"}
        case "update":
            assert cluster.change("ConfigMap", "gateway", lambda one: {**one, "data": {"a": "2"}})["data"] == {"a": "2"}
        case "delete":
            assert cluster.delete("ConfigMap", "gateway")
        case "get":
            assert cluster.get("ConfigMap", "gateway")
        case "list":
            assert cluster.list("ConfigMap").items
    assert fault.happened.is_set()
    assert waits.waits
    assert (api.get("ConfigMap", "gateway", "kiva") or {}).get("data") == {"get": {"a": "1"}, "list": {"a": "1"}, "delete": None}.get(verb, {"a": "2"})


def test_a_server_that_is_started_again_in_the_middle(api, waits, tmp_path):
    def sleep(seconds):
        waits.clock.sleep(seconds)
        if waits.at_s > 20:
            api.start()

    cluster = open_cluster("kiva-test", "kiva", api.kubeconfig(tmp_path / "config"), clock=Clock(waits.clock.now_s, sleep))
    cluster.apply(settings(a="1"))
    api.stop()
    assert cluster.apply(settings(a="2"))["data"] == {"a": "2"}
    assert 20 < waits.at_s < 60


def test_a_server_that_stays_away(cluster, api, waits):
    cluster.apply(settings(a="1"))
    api.stop()
    with pytest.raises(Unreachable, match="nothing answers at the API server of cluster 'kiva-test'"):
        cluster.apply(settings(a="2"))
    assert 50 < waits.at_s <= 60
    api.start()


def test_what_is_watched_adds_up_whatever_becomes_of_the_connection(cluster, api):
    api.add(settings("0"), "kiva")
    events, told = cluster.watch("ConfigMap", "app=kiva", pause_s=1), []
    trouble = {3: api.drop_watches, 6: api.compact, 8: api.drop_connections, 9: api.compact, 12: api.drop_watches}

    def work():
        for number in range(1, 15):
            api.add(settings(str(number)), "kiva")
            trouble.get(number, lambda: None)()
            if number % 3 == 0:
                api.remove("ConfigMap", str(number - 1), "kiva")
            if number % 4 == 0:
                api.change("ConfigMap", str(number), {"metadata": {"labels": {"app": "other"}}}, "kiva")
        api.add(settings("last"), "kiva")

    told += [next(events), next(events)]
    assert [type(one) for one in told] == [Found, Synced]
    worker = threading.Thread(target=work)
    worker.start()
    for event in events:
        told.append(event)
        if isinstance(event, Synced) and ("kiva", "last") in folded(told):
            break
    worker.join()
    there = {("kiva", one["metadata"]["name"]): one for one in api.list("ConfigMap", "kiva") if one["metadata"].get("labels") == {"app": "kiva"}}
    assert {key: one["metadata"]["resourceVersion"] for key, one in folded(told).items()} == {
        key: one["metadata"]["resourceVersion"] for key, one in there.items()
    }


class Patient(Exception):
    """Someone has begun to wait."""


@pytest.mark.parametrize("free", [True, False], ids=["given back", "never there"])
@pytest.mark.parametrize("number", [2, 8])
def test_of_many_who_want_the_lease_at_once_one_gets_it(cluster, api, tmp_path, number, free):
    if free:
        with lease.held(cluster, "kiva", "deploy"):
            pass

    def waiting(_seconds):
        raise Patient

    clock = Clock(lambda: 0.0, waiting)
    clusters = [open_cluster("kiva-test", "kiva", tmp_path / "config", clock=clock) for _ in range(number)]
    gate, got, patient = threading.Barrier(number), [], []

    def want(one, name):
        gate.wait()
        try:
            got.append(lease._acquired(one, "kiva", name, None).holder)
        except Patient:
            patient.append(name)

    threads = [threading.Thread(target=want, args=[one, f"operator {index}"]) for index, one in enumerate(clusters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert len(patient) == number - 1
    assert lease.holder_of(cluster, "kiva") == got[0]

"""What a cluster is asked by each method, and what is made of its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_api import Reply, Reset, Stream, Waits, in_turn, scripted, status

from kivactl.errors import ToolError
from kivactl.tools.kube import EVERYWHERE, open_cluster
from kivactl.tools.kube_errors import AlreadyThere, Changed, Conflict, Denied, Missing
from kivactl.tools.kube_kinds import KINDS, known
from kivactl.tools.kube_objects import Event, Found, Gone, Node, Permission, Synced, Version, parse_event, parse_node, parse_version

RECORDED = Path(__file__).parent / "recorded" / "kube"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kiva-qwen"}, "spec": {"replicas": 2}}
MONITORS = {
    "kind": "APIResourceList",
    "resources": [{"name": "servicemonitors", "kind": "ServiceMonitor", "namespaced": True}, {"name": "servicemonitors/status", "kind": "X"}],
}
LOST = status(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again", name="kiva-qwen")
NOT_FOUND = status(404, "NotFound", name="kiva-qwen", kind="deployments")


def thing(name, version="1", **more):
    return {"metadata": {"name": name, "namespace": "kiva", "resourceVersion": version, "uid": name}, **more}


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def cluster_of(tmp_path, waits):
    """A cluster by a script, and what it was asked; to be used as a context."""
    from contextlib import contextmanager

    @contextmanager
    def made(*replies):
        with scripted(in_turn(*replies) if not callable(replies[0]) else replies[0]) as api:
            config = {"clusters": [{"name": "c", "cluster": {"server": api.url}}], "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}
            (tmp_path / "config").write_text(json.dumps(config))
            yield open_cluster("prod", "kiva", tmp_path / "config", clock=waits.clock), api.requests

    return made


def said(request):
    return f"{request.method} {request.path}" + ("?" + "&".join(f"{key}={value}" for key, value in request.query.items()) if request.query else "")


@pytest.mark.parametrize(
    ("call", "line", "body"),
    [
        (lambda c: c.get("Deployment", "kiva-qwen"), "GET /apis/apps/v1/namespaces/kiva/deployments/kiva-qwen", None),
        (lambda c: c.get("Pod", "p", "other"), "GET /api/v1/namespaces/other/pods/p", None),
        (lambda c: c.get("Node", "gpu-1"), "GET /api/v1/nodes/gpu-1", None),
        (lambda c: c.get("apps/v1/Deployment", "a/../b"), "GET /apis/apps/v1/namespaces/kiva/deployments/a%2F..%2Fb", None),
        (lambda c: c.list("Pod", "a=b,c in (d,e)"), "GET /api/v1/namespaces/kiva/pods?labelSelector=a=b,c in (d,e)&limit=500", None),
        (lambda c: c.list("Pod", fields="spec.nodeName=n", namespace=EVERYWHERE), "GET /api/v1/pods?fieldSelector=spec.nodeName=n&limit=500", None),
        (
            lambda c: c.apply(DEPLOYMENT),
            "PATCH /apis/apps/v1/namespaces/kiva/deployments/kiva-qwen?fieldManager=kivactl&fieldValidation=Strict",
            {**DEPLOYMENT, "metadata": {"name": "kiva-qwen", "namespace": "kiva"}},
        ),
        (
            lambda c: c.apply({**DEPLOYMENT, "metadata": {"name": "x", "namespace": "other"}}, dry_run=True, manager="helm", force=True),
            "PATCH /apis/apps/v1/namespaces/other/deployments/x?fieldManager=helm&force=true&dryRun=All&fieldValidation=Strict",
            {**DEPLOYMENT, "metadata": {"name": "x", "namespace": "other"}},
        ),
        (
            lambda c: c.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kiva"}}),
            "POST /api/v1/namespaces?fieldManager=kivactl&fieldValidation=Strict",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kiva"}},
        ),
        (
            lambda c: c.patch("Deployment", "kiva-qwen", {"spec": {"replicas": 3}}, subresource="scale"),
            "PATCH /apis/apps/v1/namespaces/kiva/deployments/kiva-qwen/scale?fieldManager=kivactl",
            {"spec": {"replicas": 3}},
        ),
        (
            lambda c: c.delete("Pod", "p"),
            "DELETE /api/v1/namespaces/kiva/pods/p",
            {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"},
        ),
        (
            lambda c: c.delete("Job", "j", wait_for_dependents=True),
            "DELETE /apis/batch/v1/namespaces/kiva/jobs/j",
            {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"},
        ),
        (
            lambda c: c.can_i(Permission("create", "Pod", subresource="exec")),
            "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {"namespace": "kiva", "verb": "create", "resource": "pods", "subresource": "exec"}},
            },
        ),
        (lambda c: c.version(), "GET /version", None),
        (lambda c: c.nodes("a=b"), "GET /api/v1/nodes?labelSelector=a=b&limit=500", None),
        (
            lambda c: c.events("apps/v1/Deployment", "kiva-qwen"),
            "GET /api/v1/namespaces/kiva/events?fieldSelector=involvedObject.kind=Deployment,involvedObject.name=kiva-qwen&limit=500",
            None,
        ),
        (
            lambda c: c.logs("p", "engine", tail=5, previous=True, since_s=60),
            "GET /api/v1/namespaces/kiva/pods/p/log?container=engine&tailLines=5&previous=true&sinceSeconds=60",
            None,
        ),
        (lambda c: list(c.follow("p")), "GET /api/v1/namespaces/kiva/pods/p/log?tailLines=10&follow=true", None),
    ],
)
def test_what_is_asked(cluster_of, call, line, body):
    with cluster_of(Reply(200, {})) as (cluster, requests):
        call(cluster)
    assert said(requests[-1]) == line
    assert requests[-1].body == body


def test_what_is_not_there_is_none(cluster_of):
    with cluster_of(NOT_FOUND) as (cluster, _):
        assert cluster.get("Deployment", "kiva-qwen") is None


def test_a_kind_that_is_not_there_is_more_than_an_object(cluster_of):
    with (
        cluster_of(status(404, "NotFound", "the server could not find the requested resource")) as (cluster, _),
        pytest.raises(Missing, match="knows no Deployment"),
    ):
        cluster.get("Deployment", "kiva-qwen")


def test_a_long_list_comes_in_pages(cluster_of):
    pages = [
        Reply(200, {"items": [thing("a"), thing("b")], "metadata": {"resourceVersion": "7", "continue": "next"}}),
        Reply(200, {"items": [thing("c")], "metadata": {"resourceVersion": "7"}}),
    ]
    with cluster_of(*pages) as (cluster, requests):
        found = cluster.list("Pod")
    assert [one["metadata"]["name"] for one in found.items] == ["a", "b", "c"]
    assert all((one["apiVersion"], one["kind"]) == ("v1", "Pod") for one in found.items)
    assert found.version == "7"
    assert requests[1].query == {"limit": "500", "continue": "next"}


def test_pages_that_ran_out_of_time_are_fetched_at_once(cluster_of):
    first = Reply(200, {"items": [thing("a")], "metadata": {"resourceVersion": "7", "continue": "next"}})
    whole = Reply(200, {"items": [thing("a", "8"), thing("b", "9")], "metadata": {"resourceVersion": "9"}})
    with cluster_of(first, status(410, "Expired"), whole) as (cluster, requests):
        assert len(cluster.list("Pod", "a=b").items) == 2
    assert requests[2].query == {"labelSelector": "a=b"}


def test_kinds_of_operators_are_asked_for_once(cluster_of):
    def script(asked):
        return Reply(200, MONITORS) if asked.path == "/apis/monitoring.coreos.com/v1" else Reply(200, {})

    with cluster_of(script) as (cluster, requests):
        cluster.get("monitoring.coreos.com/v1/ServiceMonitor", "kiva")
        cluster.apply({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "kiva"}})
        assert cluster.serves("monitoring.coreos.com/v1/ServiceMonitor")
    assert [said(one).partition("?")[0] for one in requests] == [
        "GET /apis/monitoring.coreos.com/v1",
        "GET /apis/monitoring.coreos.com/v1/namespaces/kiva/servicemonitors/kiva",
        "PATCH /apis/monitoring.coreos.com/v1/namespaces/kiva/servicemonitors/kiva",
    ]


def test_a_kind_that_was_not_there_may_be_there_later(cluster_of):
    unknown = status(404, "NotFound", "the server could not find the requested resource")
    kind = "monitoring.coreos.com/v1/ServiceMonitor"
    with cluster_of(unknown, Reply(200, {"resources": []}), Reply(200, MONITORS)) as (cluster, _):
        assert not cluster.serves(kind)
        with pytest.raises(Missing) as caught:
            cluster.get(kind, "x")
        assert caught.value.message == "cluster 'prod' knows no ServiceMonitor of monitoring.coreos.com/v1"
        assert cluster.serves(kind)


def test_a_kind_by_its_name_alone_must_be_in_the_table():
    assert known("Deployment") == KINDS["Deployment"]
    assert known("extensions/v1beta1/Deployment") is None
    with pytest.raises(ValueError, match="say it with its group and version"):
        known("ServiceMonitor")


def test_apply_tells_what_the_server_warns_of(cluster_of):
    warnings = []
    with cluster_of(Reply(200, DEPLOYMENT, [("warning", '299 - "would violate PodSecurity"')])) as (cluster, _):
        assert cluster.apply(DEPLOYMENT, dry_run=True, warn=warnings.append) == DEPLOYMENT
    assert warnings == ["would violate PodSecurity"]


def test_apply_is_sent_again_when_someone_was_faster_but_not_when_fields_are_theirs(cluster_of):
    with cluster_of(LOST, Reset(), Reply(200, DEPLOYMENT)) as (cluster, requests):
        assert cluster.apply(DEPLOYMENT) == DEPLOYMENT
        assert len(requests) == 3
    causes = [{"reason": "FieldManagerConflict", "message": 'conflict with "helm" using apps/v1', "field": ".spec.replicas"}]
    with cluster_of(status(409, "Conflict", causes=causes)) as (cluster, requests):
        with pytest.raises(Conflict, match=r"was changed by 'helm': \.spec\.replicas"):
            cluster.apply(DEPLOYMENT)
        assert len(requests) == 1


def test_a_change_is_made_anew_of_what_is_there_by_then(cluster_of):
    replies = [Reply(200, thing("d", "1", spec={"n": 1})), LOST, Reply(200, thing("d", "2", spec={"n": 10})), Reply(200, thing("d", "3", spec={"n": 11}))]
    with cluster_of(*replies) as (cluster, requests):
        changed = cluster.change("ConfigMap", "d", lambda one: {**one, "spec": {"n": one["spec"]["n"] + 1}})
    assert changed["spec"] == {"n": 11}
    assert [one.method for one in requests] == ["GET", "PUT", "GET", "PUT"]
    assert requests[3].body == thing("d", "2", spec={"n": 11})


def test_a_change_that_changes_nothing_is_not_sent(cluster_of):
    with cluster_of(Reply(200, thing("d"))) as (cluster, requests):
        assert cluster.change("ConfigMap", "d", lambda _: None) == thing("d")
    assert [one.method for one in requests] == ["GET"]


def test_a_change_that_always_comes_too_late_is_told(cluster_of, waits):
    def script(asked):
        return Reply(200, thing("d")) if asked.method == "GET" else LOST

    with cluster_of(script) as (cluster, requests), pytest.raises(Changed, match="is being changed by someone else"):
        cluster.change("ConfigMap", "d", lambda one: one)
    assert len(requests) == 10
    assert waits.waits == [0.1, 0.2, 0.4, 0.8]


def test_what_a_lost_answer_may_have_made_is_looked_at(cluster_of):
    with cluster_of(Reset(), status(409, "AlreadyExists"), Reply(200, thing("kiva-qwen", "5"))) as (cluster, _):
        assert cluster.create(DEPLOYMENT) == thing("kiva-qwen", "5")
    with cluster_of(status(409, "AlreadyExists")) as (cluster, _), pytest.raises(AlreadyThere):
        cluster.create(DEPLOYMENT)


@pytest.mark.parametrize(("replies", "done"), [([Reply(200, {})], True), ([NOT_FOUND], False), ([Reset(), NOT_FOUND], True)])
def test_deleting_says_whether_there_was_something(cluster_of, replies, done):
    with cluster_of(*replies) as (cluster, _):
        assert cluster.delete("Deployment", "kiva-qwen") is done


def test_a_refusal_says_who_may_not_do_what(cluster_of):
    refusal = status(
        403, "Forbidden", 'deployments.apps "x" is forbidden: User "anna" cannot patch resource "deployments" in API group "apps" in the namespace "kiva"'
    )
    with cluster_of(refusal) as (cluster, _), pytest.raises(Denied) as caught:
        cluster.apply(DEPLOYMENT)
    assert caught.value.message == "the account anna lacks the permission to patch deployments.apps in namespace kiva of cluster 'prod'"


def lines(*changes):
    return Stream([json.dumps({"type": kind, "object": one}).encode() + b"\n" for kind, one in changes])


def test_watching_goes_on_through_whatever_comes(cluster_of):
    replies = [
        Reply(200, {"items": [thing("a"), thing("b")], "metadata": {"resourceVersion": "10"}}),
        lines(("MODIFIED", thing("a", "11")), ("BOOKMARK", {"metadata": {"resourceVersion": "12"}})),
        Reset(),
        Stream([b'{"type": "ADDED", "object": {"meta'], cut=True),
        lines(("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})),
        Reply(200, {"items": [thing("a", "11"), thing("c", "20")], "metadata": {"resourceVersion": "21"}}),
        status(410, "Expired", "too old resource version: 21 (30)"),
        Reply(200, {"items": [], "metadata": {"resourceVersion": "31"}}),
        lines(),
    ]
    with cluster_of(*replies) as (cluster, requests):
        events = cluster.watch("Pod", "a=b", pause_s=7)
        got = []
        while not isinstance(got[-1:][0] if got else None, Synced) or got[-1].version != "31":
            got.append(next(events))
        events.close()
    told = [type(one).__name__ + " " + (one.version if isinstance(one, Synced) else one.object["metadata"]["name"]) for one in got]
    assert told == [
        *("Found a", "Found b", "Synced 10", "Found a", "Synced 12", "Synced 12"),
        *("Gone b", "Found c", "Synced 21", "Gone a", "Gone c", "Synced 31"),
    ]
    assert said(requests[1]) == ("GET /api/v1/namespaces/kiva/pods?labelSelector=a=b&watch=true&allowWatchBookmarks=true&timeoutSeconds=7&resourceVersion=10")
    assert requests[2].query["resourceVersion"] == "12"


def test_watching_since_a_listing_tells_only_what_is_new(cluster_of):
    listing = Reply(200, {"items": [thing("a")], "metadata": {"resourceVersion": "10"}})
    with cluster_of(listing, lines(("ADDED", thing("b", "11")), ("DELETED", thing("a", "12")))) as (cluster, _):
        events = cluster.watch("Pod", since=cluster.list("Pod"))
        assert next(events) == Found(thing("b", "11"))
        assert next(events) == Gone(thing("a", "12"))
        assert next(events) == Synced("12")


@pytest.mark.parametrize(
    "message",
    [
        'container "engine" in pod "p" is waiting to start: ContainerCreating',
        'container "engine" in pod "p" is waiting to start: trying and failing to pull image',
        'previous terminated container "engine" in pod "p" not found',
    ],
)
def test_a_container_that_has_not_started_has_no_log(cluster_of, message):
    with cluster_of(status(400, "BadRequest", message)) as (cluster, _):
        assert cluster.logs("p", "engine") == ()


def test_logs(cluster_of):
    with cluster_of(Reply(200, "one\ntwo \u2028 still two\n")) as (cluster, _):
        assert cluster.logs("p") == ("one", "two \u2028 still two")
    with cluster_of(Stream([b"one\ntw", b"o\nthr"])) as (cluster, _):
        assert list(cluster.follow("p")) == ["one", "two", "thr"]
    with cluster_of(Stream([b"one\n"], cut=True)) as (cluster, _):
        log = cluster.follow("p")
        assert next(log) == "one"
        with pytest.raises(ToolError, match="the log of pod p broke off"):
            next(log)
    several = status(400, "BadRequest", "a container name must be specified for pod p, choose one of: [envoy meter usage]")
    with cluster_of(several) as (cluster, _), pytest.raises(ToolError, match="choose one of"):
        cluster.logs("p")


def test_events_come_with_the_newest_last(cluster_of):
    items = json.loads((RECORDED / "events.json").read_text())["items"]
    with cluster_of(Reply(200, {"items": items, "metadata": {}})) as (cluster, _):
        found = cluster.events("Pod", "kiva-qwen-7d9c5b7f4-x2x7k")
    assert [(one.reason, one.count, one.warning, one.last_at) for one in found] == [
        ("Scheduled", 1, False, "2026-03-01T10:00:00Z"),
        ("Pulling", 1, False, "2026-03-01T10:00:00.250000Z"),
        ("BackOff", 12, True, "2026-03-01T10:04:31Z"),
        ("FailedScheduling", 3, True, "2026-03-01T10:05:00.123456Z"),
    ]
    assert "password=***" in found[2].message


@pytest.mark.parametrize("one", [{}, {"involvedObject": None, "series": None, "message": None}])
def test_an_event_of_which_little_is_known(one):
    assert parse_event(one) == Event("", "", True, "", "", 1, "")


def test_nodes(cluster_of):
    items = json.loads((RECORDED / "nodes.json").read_text())["items"]
    with cluster_of(Reply(200, {"items": items, "metadata": {}})) as (cluster, _):
        gpu, broken = cluster.nodes()
    assert gpu == Node(
        "gpu-1",
        True,
        True,
        {"kiva/pool": "gpu"},
        ("nvidia.com/gpu=present:NoSchedule", "maintenance:NoExecute"),
        {"cpu": "64", "memory": "515Gi", "nvidia.com/gpu": "4"},
    )
    assert (broken.ready, broken.schedulable, broken.why) == (False, False, "Kubelet stopped posting node status.")
    assert parse_node({}).why == "its kubelet says nothing"


@pytest.mark.parametrize(("answer", "version"), [({"major": "1", "minor": "36+"}, Version(1, 36, "")), ({}, Version(0, 0, ""))])
def test_versions(answer, version):
    assert parse_version(answer) == version


@pytest.mark.parametrize(("review", "allowed"), [({"allowed": True}, True), ({"allowed": False, "reason": "no"}, False), ({}, False)])
def test_permissions(cluster_of, review, allowed):
    with cluster_of(Reply(201, {"status": review})) as (cluster, _):
        assert cluster.can_i(Permission("delete", "Node")) is allowed

"""Whether a gateway's pods have what was written for them, with a cluster that answers by script."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from kivactl.errors import NotReadyError, ToolError
from kivactl.targets.kubernetes.takeover import Sign, shown_by, until_taken_over, witness_of
from kivactl.targets.steering import Told
from kivactl.tools import tls
from kivactl.tools.clock import Clock
from kivactl.tools.kube_errors import Denied, Missing
from kivactl.tools.kube_objects import Listing, Ran


class Time:
    def __init__(self):
        self.now_s = 0.0

    def sleep(self, duration_s):
        self.now_s += duration_s


class Scripted:
    """A cluster.

    Attributes:
        pods: Phases by name.
        may: Permissions on pods.
        says: What a program in a pod prints, or the error; called with the pod's name.
        ports: Where a forwarded port of a pod leads, by pod.
        marks: Annotations that were set, in order.
    """

    def __init__(self, **pods):
        self.time = Time()
        self.clock = Clock(lambda: self.time.now_s, self.time.sleep)
        self.pods, self.may, self.says, self.ports, self.marks = pods, {"exec", "portforward", "patch"}, None, {}, []
        self.containers = ("envoy", "meter")
        self.closed = 0

    def list(self, kind, selector):
        assert (kind, selector) == ("Pod", "app.kubernetes.io/instance=kiva-gateway")
        spec = {"containers": [{"name": self.containers[0]}], "initContainers": [{"name": name} for name in self.containers[1:]]}
        return Listing(tuple({"metadata": {"name": name}, "spec": spec, "status": {"phase": phase}} for name, phase in self.pods.items()), "1")

    def can_i(self, permission):
        assert (permission.verb, permission.kind) == ("create", "Pod")
        return permission.subresource in self.may

    def patch(self, kind, name, patch):
        if "patch" not in self.may:
            raise Denied("no")
        if name not in self.pods:
            raise Missing("gone")
        self.marks.append((name, patch["metadata"]["annotations"]["kiva/config"]))

    def run_in(self, pod, container, argv, *, timeout_s):
        assert (container, argv[:2], argv[3:]) == ("meter", ["python3", "-c"], ["/run/kiva/gateway-admin.sock", "/config_dump"])
        answer = self.says(pod)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forward(self, pod, port):
        if "portforward" not in self.may:
            raise Denied("no")
        cluster = self

        class Forward:
            port = cluster.ports[pod]

            def close(self):
                cluster.closed += 1

        return Forward()


def dump(value):
    return Ran(0, json.dumps({"value": value}), "")


def sign(*counters):
    return Sign("/config_dump", lambda found: found["value"] == "new", counters)


def told(cluster, *counters, before=True, between=lambda: None):
    with witness_of(cluster, "kiva-gateway", sign(*counters), 4001, before=before) as witness:
        between()
        return until_taken_over(cluster, "kiva-gateway", "mark", witness)


def test_every_pod_is_made_to_look_and_asked_until_it_has_it():
    cluster = Scripted(a="Running", b="Running", c="Pending")
    cluster.says = lambda pod: dump("new" if pod == "a" or cluster.time.now_s >= 2 else "old")
    assert told(cluster) == Told(taken_over=True, note="seen in 2 pods after 2.0 s")
    assert cluster.marks == [("a", "mark"), ("b", "mark")]


@pytest.mark.parametrize("answer", [Ran(1, "", ""), Ran(0, "no json", ""), ToolError("the connection broke off")])
def test_who_cannot_say_is_asked_again(answer):
    cluster = Scripted(a="Running")
    cluster.says = lambda _: answer if cluster.time.now_s < 1 else dump("new")
    assert told(cluster).taken_over


def test_a_kubelet_that_does_not_look_is_told_again_and_in_the_end_it_is_an_error():
    cluster = Scripted(a="Running", b="Running")
    cluster.says = lambda pod: dump("new" if pod == "a" else "old")
    with pytest.raises(NotReadyError, match="1 of 2 pods of the gateway did not take over the change within 180 s") as failure:
        told(cluster)
    assert failure.value.hint == "kivactl status; then the same command again"
    assert cluster.marks[:4] == [("a", "mark"), ("b", "mark"), ("b", "mark-2"), ("b", "mark-3")]


def test_a_pod_that_ends_meanwhile_is_not_waited_for():
    cluster = Scripted(a="Running", b="Running")

    def says(pod):
        if pod == "b":
            cluster.pods.pop("b", None)
            return Missing("gone")
        return dump("new")

    cluster.says = says
    assert told(cluster).taken_over


def test_without_a_pod_nobody_has_anything():
    assert told(Scripted(a="Pending")) == Told()


UNSEEN = "1 pod of the gateway, which cannot be asked, takes it over usually within seconds, at the latest after 90 s"


def test_where_nobody_may_be_asked_it_is_said():
    cluster = Scripted(a="Running")
    cluster.may = {"patch"}
    assert told(cluster) == Told(within_s=90, note=UNSEEN)
    cluster.may = set()
    assert told(cluster).note == UNSEEN.replace("usually within seconds, ", "")


@pytest.mark.parametrize("error", [Denied("no"), Missing("no program")])
def test_a_question_that_is_refused_when_it_is_asked_is_no_error(error):
    cluster = Scripted(a="Running")
    cluster.says = lambda _: error
    assert told(cluster).note == UNSEEN


@contextmanager
def metrics(counts):
    """A gateway's metrics port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/metrics/gateway"
            self.send_response(200)
            self.end_headers()
            self.wfile.write("".join(f'# TYPE {name} counter\n{name}{{x="y"}} {count}\n' for name, count in counts.items()).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("without", ["permission", "tools"])
def test_where_no_program_may_be_run_the_counters_say_it(without):
    counts = {"one_config_reload": 3, "other_config_reload": 1}
    with metrics(counts) as port:
        cluster = Scripted(a="Running")
        cluster.ports = {"a": port}
        if without == "permission":
            cluster.may -= {"exec"}
        else:
            cluster.containers = ("envoy",)

        def later(duration_s):
            cluster.time.now_s += duration_s
            if cluster.time.now_s >= 1:
                counts["one_config_reload"] = 4

        cluster.clock = Clock(lambda: cluster.time.now_s, later)
        assert told(cluster, "one_config_reload") == Told(taken_over=True, note="seen in 1 pod after 1.0 s")
        with pytest.raises(NotReadyError):
            told(cluster, "one_config_reload", "other_config_reload")
        assert cluster.closed == 2
        # What was written long ago shows in no counter.
        assert told(cluster, "one_config_reload", before=False).note == UNSEEN


def test_counters_that_cannot_be_read_say_nothing():
    cluster = Scripted(a="Running")
    cluster.may -= {"exec"}
    cluster.ports = {"a": 9}
    assert told(cluster, "one_config_reload").note == UNSEEN


def test_a_certificate_is_seen_by_its_fingerprint(monkeypatch):
    cluster = Scripted(a="Running")
    cluster.ports = {"a": 4711}
    monkeypatch.setattr(tls, "shown_fingerprint", lambda address, port: "new" if (address, port) == ("127.0.0.1", 4711) and cluster.time.now_s > 1 else None)
    with shown_by(cluster, "kiva-gateway", 4000, "new") as witness:
        assert until_taken_over(cluster, "kiva-gateway", "mark", witness).note == "seen in 1 pod after 1.5 s"
    cluster.may -= {"portforward"}
    with shown_by(cluster, "kiva-gateway", 4000, "new") as witness:
        assert witness is None

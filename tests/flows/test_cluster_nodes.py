"""Maintenance of a node in a cluster: closed, emptied by evictions, opened again; whatever gets in the way."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cluster_deployment import cluster_site
from cluster_site import NAMESPACE
from cluster_specs import model

from kivactl.errors import KivaError, NotReadyError, UsageError
from kivactl.plan import Outcome, Status
from kivactl.runbooks import engine, runs
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.binding import bind
from kivactl.runbooks.record import Person, Verdict
from kivactl.runbooks.steps import Order
from kivactl.targets.kubernetes import nodes
from kivactl.tools.kube_errors import Denied, Unreachable

pytestmark = pytest.mark.charts
NODE = {"node": "gpu-1"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    with cluster_site(tmp_path, monkeypatch, models=[model("qwen", replicas=2), model("small")]) as site:
        site.deploy()
        yield site


def acting(site, name, params=None):
    action = ACTIONS[name]
    return action.act(Site(site.deployment, site.path.parent / "run", "run"), action.params(**(NODE if params is None else params)))


def acted(site, name, params=None):
    return list(acting(site, name, params))


def seen(site, name, params=None):
    probe = PROBES[name]
    return probe.read(Site(site.deployment, site.path.parent / "run", "run"), probe.params(**(NODE if params is None else params)))


def closed(site, node="gpu-1"):
    return bool(site.api.get("Node", node)["spec"].get("unschedulable"))


def recorded(site):
    return dict(site.deployment.target.record().maintenance)


def test_pods_are_evicted_as_their_budget_lets_them_and_serve_elsewhere_before_the_work(site):
    site.kubelet.node("gpu-2", gpus=4)
    before = seen(site, "node.pods")
    assert len(before) >= 3
    *_, last = acted(site, "node.take-out")
    assert (last.data["evicted"], last.data["result"]) == (before, {"unserved": "none"})
    assert (closed(site), seen(site, "node.closed"), seen(site, "node.pods"), seen(site, "components.faults", {})) == (True, True, [], [])
    evictions = [one for one in site.api.requests if one.subresource == "eviction"]
    assert {one.name for one in evictions if one.code == 201} == set(before)
    assert any(one.code == 429 for one in evictions), "the second replica had to wait for the first one's successor"
    assert not [one for one in site.api.requests if one.verb == "delete" and one.kind_name == "Pod"]
    acted(site, "node.take-out")
    assert list(recorded(site)) == ["gpu-1"]

    *_, last = acted(site, "node.bring-back")
    assert last.data["measured"].keys() == {"degraded"}
    assert (closed(site), seen(site, "node.closed"), recorded(site)) == (False, False, {})
    assert acted(site, "node.bring-back")[-1].message == "not closed"


def test_only_one_pod_has_to_leave(site):
    site.kubelet.node("gpu-2", gpus=4)
    pod, other = seen(site, "node.pods")[-2:]
    assert acted(site, "node.take-out", {**NODE, "replica": pod})[-1].data["evicted"] == [pod]
    assert other in seen(site, "node.pods")
    with pytest.raises(UsageError, match=f"there is no pod '{pod}' of 'kiva' on the node 'gpu-1'"):
        acted(site, "node.take-out", {**NODE, "replica": pod})


def test_what_finds_no_room_elsewhere_is_told_and_the_work_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setattr("kivactl.targets.kubernetes.following._PATIENCE_S", 10.0)
    with cluster_site(tmp_path, monkeypatch, models=[model("small")]) as site:
        site.deploy()
        *_, last = acted(site, "node.take-out")
        assert "engine small" in last.data["result"]["unserved"]
        assert "no node has that free (1 cordoned)" in last.data["result"]["unserved"]
        acted(site, "node.bring-back")
        for _ in range(200):
            if not seen(site, "components.faults", {}):
                break
            site.deployment.clock.sleep(0.5)
        assert seen(site, "components.faults", {}) == []


def test_where_a_budget_waits_for_room_that_there_is_not_the_reason_is_told(site, monkeypatch):
    monkeypatch.setattr(nodes, "_AWAY_S", 40.0)
    with pytest.raises(
        NotReadyError, match=r"pods stay on the node 'gpu-1': .*budget kiva-qwen needs 1 healthy pods and has 1.*kiva-qwen-.*no node has that free"
    ) as failure:
        acted(site, "node.take-out")
    assert "kivactl runbook scale" in failure.value.hint
    acted(site, "node.bring-back")
    assert (closed(site), recorded(site)) == (False, {})


def by_hand(site, outcomes, unschedulable):
    """Go on until somebody is asked to, then do it."""
    told = []
    for outcome in outcomes:
        told.append(outcome)
        if "have it done by one who may" in outcome.message:
            site.api.change("Node", "gpu-1", {"spec": {"unschedulable": unschedulable}}, manager="kubectl")
    return next(one.message for one in told if "have it done" in one.message)


def test_who_may_not_close_nodes_is_told_the_command_and_waits_for_one_who_may(site, monkeypatch):
    site.kubelet.node("gpu-2", gpus=4)
    site.api.admission.forbid("patch", "nodes")
    told = by_hand(site, acting(site, "node.take-out"), True)
    assert "lacks the permission to patch nodes of cluster 'prod'" in told
    assert "cordon gpu-1); waiting for it" in told
    assert seen(site, "node.pods") == []
    assert "uncordon gpu-1" in by_hand(site, acting(site, "node.bring-back"), None)
    assert recorded(site) == {}

    monkeypatch.setattr(nodes, "_BY_HAND_S", 20.0)
    with pytest.raises(NotReadyError, match="nobody has cordoned the node 'gpu-1'") as failure:
        acted(site, "node.take-out")
    assert failure.value.hint.endswith("cordon gpu-1")
    acted(site, "node.bring-back")
    assert (closed(site), recorded(site)) == (False, {})


def test_who_may_not_even_see_nodes_changes_nothing(site):
    site.api.admission.forbid("*", "nodes")
    with pytest.raises(Denied, match="lacks the permission to get nodes"):
        acted(site, "node.take-out")
    assert recorded(site) == {}


def test_a_node_that_somebody_else_closed_stays_theirs(site):
    site.kubelet.node("gpu-2", gpus=4)
    site.api.change("Node", "gpu-1", {"spec": {"unschedulable": True}})
    first, *_ = acted(site, "node.take-out")
    assert (first.status, first.message) == (Status.SKIPPED, "closed already, by somebody else, who has to open it again")
    assert seen(site, "node.pods") == []
    assert acted(site, "node.bring-back")[-1].message == "closed by somebody else, who has to open it"
    assert closed(site)


def test_a_budget_that_lets_nobody_go_is_obeyed_and_named_and_the_undo_opens_the_node(site, monkeypatch):
    monkeypatch.setattr(nodes, "_AWAY_S", 40.0)
    site.kubelet.node("gpu-2", gpus=4)
    site.api.change("PodDisruptionBudget", "kiva-qwen", {"spec": {"maxUnavailable": 0}}, NAMESPACE)
    site.deployment.clock.sleep(1)
    with pytest.raises(NotReadyError, match=r"pods stay on the node 'gpu-1': .*The disruption budget kiva-qwen needs 2 healthy pods and has 2") as failure:
        acted(site, "node.take-out")
    assert "kubectl --context prod" in failure.value.hint
    assert sum("-qwen-" in pod for pod in seen(site, "node.pods")) == 2, "not one of them was deleted"
    acted(site, "node.bring-back")
    assert (closed(site), recorded(site)) == (False, {})


@pytest.mark.parametrize("after", ["closing", "takes no new pods", "to go"])
def test_cut_off_anywhere_the_undo_leaves_nothing_closed(site, after):
    site.kubelet.node("gpu-2", gpus=4)
    outcomes = acting(site, "node.take-out")
    while after not in next(outcomes).message:
        pass
    outcomes.close()
    acted(site, "node.bring-back")
    assert (closed(site), recorded(site)) == (False, {})


def test_an_api_server_that_goes_away_meanwhile_and_comes_back(site):
    site.kubelet.node("gpu-2", gpus=4)
    outcomes = acting(site, "node.take-out")
    while "takes no new pods" not in next(outcomes).message:
        pass
    site.api.stop()
    with pytest.raises(Unreachable):
        list(outcomes)
    site.api.start()
    acted(site, "node.take-out")
    assert seen(site, "node.pods") == []
    acted(site, "node.bring-back")
    assert (closed(site), recorded(site)) == (False, {})


def test_there_is_no_such_node(site):
    for action in ("node.take-out", "node.bring-back"):
        with pytest.raises(UsageError, match="there is no node named 'gpu-9'") as failure:
            acted(site, action, {"node": "gpu-9"})
        assert failure.value.hint == "there are: cpu-1, gpu-1"
    assert recorded(site) == {}


def test_a_deploy_keeps_what_is_closed(site):
    site.kubelet.node("gpu-2", gpus=4)
    acted(site, "node.take-out")
    site.deploy()
    assert list(recorded(site)) == ["gpu-1"]
    kept = json.loads(site.api.get("ConfigMap", "kiva-kivactl", NAMESPACE)["data"]["record.json"])
    assert list(kept["maintenance"]) == ["gpu-1"]


# The whole procedure


@pytest.fixture
def procedure(site, monkeypatch):
    """The runbook as its engine runs it; only that nobody is there to answer with a token."""
    site.kubelet.node("gpu-2", gpus=4)
    answer = replace(ACTIONS["platform.answer"], act=lambda *_: iter((Outcome("answer", Status.DONE, "played"),)))
    monkeypatch.setitem(ACTIONS, "platform.answer", answer)
    return bind("node-maintenance", site.deployment.loaded, NODE)


ADA = Person("Ada", "ada", "host")


def record(site):
    return runs.record_of(next(path for path in runs.runs_folder(site.deployment.layout).iterdir() if path.is_dir()))


def test_the_procedure_ends_with_everything_open_and_serving(site, procedure):
    for _ in engine.run_runbook(procedure, site.deployment, Order(ADA, answers={"work-on-node": "yes"}), engine.Rooms()):
        pass
    assert record(site).verdict is Verdict.PASSED
    assert (closed(site), recorded(site), seen(site, "components.faults", {})) == (False, {}, [])
    assert [step.name for step in procedure.steps] == ["clear", "work-on-node", "open", "answer"]


def interrupt(outcomes):
    outcomes.throw(KeyboardInterrupt())
    for _ in outcomes:
        pass


def test_interrupted_in_the_middle_its_undo_opens_the_node(site, procedure):
    outcomes = engine.run_runbook(procedure, site.deployment, Order(ADA, answers={"work-on-node": "yes"}), engine.Rooms())
    while "takes no new pods" not in str(next(outcomes)):
        pass
    assert closed(site)
    with pytest.raises((KeyboardInterrupt, KivaError)):
        interrupt(outcomes)
    assert (closed(site), recorded(site)) == (False, {})


def test_refused_by_the_one_who_does_the_work_its_undo_opens_the_node(site, procedure):
    with pytest.raises(KivaError):
        for _ in engine.run_runbook(procedure, site.deployment, Order(ADA, answers={"work-on-node": "no"}), engine.Rooms()):
            pass
    assert (closed(site), recorded(site)) == (False, {})

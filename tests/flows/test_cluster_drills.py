"""Drills in a cluster: pods are killed and stopped, and what becomes of them; against an API server, the real Helm and the charts that we ship."""

from __future__ import annotations

import pytest
from cluster_deployment import cluster_site
from cluster_site import NAMESPACE
from cluster_specs import model

from kivactl.errors import NotReadyError, PreconditionError, UsageError
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Site
from kivactl.tools.kube_errors import Denied, Unreachable

pytestmark = pytest.mark.charts

GATEWAYS = {"gateway": {"replicas": 2}, "ledger_secret": "db"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    ledger = {"usage": {"ledger": "postgresql://kiva@db.example.org/kiva"}}
    with cluster_site(tmp_path, monkeypatch, GATEWAYS, models=[model("qwen", replicas=2), model("small")], **ledger) as site:
        site.deploy()
        yield site


def acted(site, name, params=None):
    action = ACTIONS[name]
    return list(action.act(Site(site.deployment, site.path.parent / "run", "run"), action.params(**(params or {}))))


def seen(site, name, params=None):
    probe = PROBES[name]
    return probe.read(Site(site.deployment, site.path.parent / "run", "run"), probe.params(**(params or {})))


def until(site, condition):
    for _ in range(400):
        if condition():
            return True
        site.deployment.clock.sleep(0.1)
    return False


def of(site, name):
    return [pod for pod in site.pods("engine") if f"-{name}-" in pod]


def test_a_killed_replica_stays_in_its_pod_and_is_started_anew(site):
    first, second = of(site, "qwen")
    assert seen(site, "replicas.serving-beside") == seen(site, "replicas.serving-beside", {"replica": second}) == 1
    *_, last = acted(site, "replica.kill")
    assert (last.data["mark"], last.data["result"]["component"]) == ("fault", first)
    assert site.kubelet.signals == [(first, "SIGKILL")]
    broken = last.data["result"]
    assert until(site, lambda: seen(site, "component.restored", broken))
    assert of(site, "qwen") == [first, second], "the pod stays where it is, as after a crash"
    acted(site, "replica.repair")
    assert seen(site, "components.faults") == []


def test_a_replica_that_hangs_is_found_by_its_check_and_started_anew(site):
    first = of(site, "qwen")[0]
    broken = acted(site, "replica.hang", {"replica": first})[-1].data["result"]
    assert until(site, lambda: seen(site, "component.health", {"component": first}) != "serving"), "its readiness check takes it out"
    assert seen(site, "component.restored", broken) is False
    assert until(site, lambda: seen(site, "component.restored", broken))


def test_one_that_nobody_heals_is_woken_by_the_undo(site):
    site.kubelet.script(pods="kiva-qwen-*", restarted_after=0)
    first, second = of(site, "qwen")
    broken = acted(site, "replica.hang")[-1].data["result"]
    assert until(site, lambda: seen(site, "component.health", {"component": first}) != "serving")
    acted(site, "replica.repair")
    assert {signal for pod, signal in site.kubelet.signals if pod in {first, second}} == {"SIGSTOP", "SIGCONT"}
    assert (seen(site, "component.health", {"component": first}), seen(site, "component.restored", broken)) == ("serving", False)


def test_a_replica_whose_pod_is_gone_is_back_when_its_model_has_all_it_needs(site):
    first, second = of(site, "qwen")
    broken = acted(site, "replica.kill", {"replica": first})[-1].data["result"]
    site.api.remove("Pod", first, NAMESPACE)
    assert until(site, lambda: first not in site.pods("engine"))
    acted(site, "replica.repair", {"replica": first})
    assert seen(site, "component.restored", broken)
    assert second in of(site, "qwen")
    assert len(of(site, "qwen")) == 2


def test_a_gateway_is_killed_without_time_to_end_and_another_pod_takes_its_place(site):
    before = set(site.pods("gateway"))
    started, last = acted(site, "gateway.kill")
    assert "nobody is answered" not in started.message
    broken = last.data["result"]
    (deleted,) = [one for one in site.api.requests if one.verb == "delete" and one.kind_name == "Pod"]
    assert (deleted.name, b'"gracePeriodSeconds":0' in deleted.body) == (broken["component"], True)
    acted(site, "gateway.repair")
    assert until(site, lambda: seen(site, "component.restored", broken))
    assert len(before & set(site.pods("gateway"))) == 1


def test_the_outage_of_a_single_gateway_is_said_beforehand(tmp_path, monkeypatch):
    with cluster_site(tmp_path, monkeypatch) as site:
        site.deploy()
        started, *_ = acted(site, "gateway.kill")
        assert "it is the gateway's only pod, so nobody is answered until another one serves" in started.message


def test_without_the_permission_nothing_is_broken(site):
    site.api.admission.forbid("create", "pods/exec")
    with pytest.raises(Denied, match="lacks the permission to create pods/exec in namespace kiva"):
        acted(site, "replica.kill")
    site.api.admission.clear()
    site.api.admission.forbid("delete", "pods")
    with pytest.raises(Denied, match="lacks the permission to delete pods"):
        acted(site, "gateway.kill")
    site.api.admission.clear()
    assert (site.kubelet.signals, seen(site, "components.faults")) == ([], [])


def test_what_is_not_there_is_not_broken(site):
    with pytest.raises(UsageError, match="there is no replica named 'kiva-qwen-nobody'"):
        acted(site, "replica.kill", {"replica": "kiva-qwen-nobody"})
    with pytest.raises(UsageError):
        acted(site, "replica.hang", {"replica": site.pods("gateway")[0]})
    acted(site, "platform.stop")
    for action in ("replica.kill", "gateway.kill"):
        with pytest.raises(PreconditionError, match="nothing of 'kiva' runs"):
            acted(site, action)


def test_an_api_server_that_is_gone_ends_it_in_a_sentence(site):
    site.api.stop()
    with pytest.raises(Unreachable):
        acted(site, "replica.kill")
    site.api.start()
    site.kubelet.script(pods="kiva-qwen-*", trouble="NotReady")
    assert until(site, lambda: seen(site, "components.faults") != [])
    with pytest.raises(NotReadyError, match="does not serve within 5 s"):
        acted(site, "replica.repair", {"within": "5s"})

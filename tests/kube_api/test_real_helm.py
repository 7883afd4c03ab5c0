"""Real Helm 3.17, 4.1 and 4.3 work with the tests' API server, through the adapter."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest
from kube_api.conftest import deployment

from kivactl.errors import KivaError, PreconditionError, ToolError
from kivactl.tools import helm as adapter
from kivactl.tools import process
from kivactl.tools.helm import BrokenOff, FieldConflict, PendingRelease, UnreachableCluster, parse_stored

pytestmark = pytest.mark.charts


def states(helm, release="kiva-x"):
    return [(one.revision, one.status) for one in helm.history(release)]


def replicas(api):
    return api.get("Deployment", "kiva-x", "kiva")["spec"]["replicas"]


def test_a_release_from_its_beginning_to_its_end(api, every_helm, chart):
    assert every_helm.status("kiva-x") is None
    made = every_helm.install_or_upgrade("kiva-x", chart, {})
    assert (made.state.revision, made.state.status, made.state.chart) == (1, "deployed", "demo-0.1.0")
    assert api.get("Service", "kiva-x", "kiva")["spec"]["clusterIP"].startswith("10.96.")

    every_helm.install_or_upgrade("kiva-x", chart, {"replicas": 3, "word": "second"}, description="two more")
    assert replicas(api) == 3
    assert api.get("ConfigMap", "kiva-x", "kiva")["data"] == {"word": "second"}
    assert states(every_helm) == [(1, "superseded"), (2, "deployed")]
    assert every_helm.status("kiva-x").description == "two more"
    assert every_helm.values("kiva-x") == {"replicas": 3, "word": "second"}
    assert "replicas: 1" in every_helm.manifest("kiva-x", 1)

    every_helm.rollback("kiva-x", 1)
    assert replicas(api) == 1
    assert states(every_helm) == [(1, "superseded"), (2, "superseded"), (3, "deployed")]
    assert [one.name for one in every_helm.releases()] == ["kiva-x"]

    assert every_helm.uninstall("kiva-x") is True
    assert api.list("Deployment", "kiva") == api.list("Secret", "kiva") == []
    assert every_helm.uninstall("kiva-x") is False


def test_the_same_again_changes_no_object(api, helm, chart):
    helm.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    before = {kind: api.get(kind, "kiva-x", "kiva")["metadata"]["resourceVersion"] for kind in ("Deployment", "Service", "ConfigMap")}
    helm.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    assert {kind: api.get(kind, "kiva-x", "kiva")["metadata"]["resourceVersion"] for kind in before} == before


def test_a_dry_run_writes_nothing(api, helm, chart):
    helm.install_or_upgrade("kiva-x", chart, {})
    api.requests.clear()
    would = helm.install_or_upgrade("kiva-x", chart, {"replicas": 5}, dry_run=True)
    assert "replicas: 5" in would.manifest
    assert api.writes() == []
    assert states(helm) == [(1, "deployed")]


def test_a_stored_release_is_read_without_helm(api, helm, chart):
    helm.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    (secret,) = api.list("Secret", "kiva")
    stored = parse_stored(secret["data"]["release"])
    assert (stored.state.status, stored.values) == ("deployed", {"replicas": 2})
    assert stored.manifest.strip() == helm.manifest("kiva-x").strip()
    assert stored.state == helm.status("kiva-x")


def test_a_field_that_is_gone_from_the_chart_is_gone_from_the_cluster(api, helm, chart):
    helm.install_or_upgrade("kiva-x", chart, {"spec": {"minReadySeconds": 7}})
    assert api.get("Deployment", "kiva-x", "kiva")["spec"]["minReadySeconds"] == 7
    helm.install_or_upgrade("kiva-x", chart, {})
    assert "minReadySeconds" not in api.get("Deployment", "kiva-x", "kiva")["spec"]


def test_a_denied_upgrade_leaves_a_failed_revision_and_the_next_one_goes_on(api, every_helm, chart):
    every_helm.install_or_upgrade("kiva-x", chart, {})
    api.admission.deny("Deployment", "images must be by digest", when=lambda one: one["spec"]["replicas"] > 1)
    with pytest.raises(PreconditionError, match=r"policy\.example\.org.*images must be by digest"):
        every_helm.install_or_upgrade("kiva-x", chart, {"replicas": 2, "word": "second"})
    assert states(every_helm) == [(1, "deployed"), (2, "failed")]
    assert replicas(api) == 1
    api.admission.clear()
    every_helm.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    assert states(every_helm) == [(1, "superseded"), (2, "failed"), (3, "deployed")]
    assert replicas(api) == 2


def test_values_against_the_schema(helm, chart):
    with pytest.raises(ToolError, match="do not fit its chart") as caught:
        helm.install_or_upgrade("kiva-x", chart, {"replicas": "two"})
    assert any("replicas" in line for line in caught.value.details)


def test_a_killed_helm_leaves_a_pending_release_that_a_rollback_frees(api, every_helm, chart):
    every_helm.install_or_upgrade("kiva-x", chart, {})
    slow = api.faults.add("patch", "ConfigMap", answer="slow", seconds=60)
    pid = []

    def kill():
        assert slow.happened.wait(30)
        os.kill(pid[0], signal.SIGKILL)

    spawn = subprocess.Popen

    class Watched(spawn):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            pid[:] = [self.pid]

    killer = threading.Thread(target=kill)
    killer.start()
    process.subprocess.Popen = Watched
    try:
        with pytest.raises(ToolError, match="SIGKILL"):
            every_helm.install_or_upgrade("kiva-x", chart, {"replicas": 2, "word": "second"})
    finally:
        process.subprocess.Popen = spawn
    killer.join()
    api.drop_connections()
    api.faults.clear()
    assert states(every_helm) == [(1, "deployed"), (2, "pending-upgrade")]
    assert every_helm.status("kiva-x").pending
    with pytest.raises(PendingRelease):
        every_helm.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    every_helm.rollback("kiva-x", 1)
    assert states(every_helm)[-1] == (3, "deployed")
    every_helm.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    assert replicas(api) == 2


def test_an_interrupted_upgrade_ends_with_a_revision_that_is_not_pending(api, helm, chart):
    helm.install_or_upgrade("kiva-x", chart, {})
    slow = api.faults.add("patch", "ConfigMap", answer="slow", seconds=0.3)

    def interrupt():
        assert slow.happened.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        helm.install_or_upgrade("kiva-x", chart, {"replicas": 2, "word": "second"})
    assert states(helm) == [(1, "superseded"), (2, "deployed")]


def test_an_interrupted_wait_for_a_hook_leaves_a_failed_revision(api, helm, chart, monkeypatch):
    monkeypatch.setattr(adapter, "PATIENCE_S", 0.1)
    helm.install_or_upgrade("kiva-x", chart, {})

    def interrupt():
        while not any(one.kind_name == "Job" and one.verb == "watch" for one in api.requests):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        helm.install_or_upgrade("kiva-x", chart, {"hook": True}, timeout_s=100)
    assert states(helm) == [(1, "deployed"), (2, "failed")]
    assert "context canceled" in helm.status("kiva-x").description


def test_the_server_that_goes_away_in_the_middle_leaves_what_the_next_run_finishes(api, helm, chart):
    helm.install_or_upgrade("kiva-x", chart, {})
    api.faults.add("patch", "Deployment", answer="disconnect", times=None)
    with pytest.raises(BrokenOff):
        helm.install_or_upgrade("kiva-x", chart, {"replicas": 2, "word": "second"})
    assert states(helm)[-1] == (2, "failed")
    api.faults.clear()
    helm.install_or_upgrade("kiva-x", chart, {"replicas": 2, "word": "second"})
    assert replicas(api) == 2


def test_a_server_that_is_not_there(api, helm, chart):
    api.stop()
    with pytest.raises(UnreachableCluster, match="connection refused"):
        helm.install_or_upgrade("kiva-x", chart, {})
    api.start()
    helm.install_or_upgrade("kiva-x", chart, {})
    assert states(helm) == [(1, "deployed")]


def test_a_busy_server_is_asked_again(api, helm, chart):
    api.faults.add("create" if helm.version.major < 4 else "patch", "Service", answer=429, seconds=1)
    helm.install_or_upgrade("kiva-x", chart, {})
    assert [one.code for one in api.requests if one.kind_name == "Service" and one.verb != "get"] == [429, 201]


def test_what_is_there_already_is_not_taken(api, helm, chart):
    api.add(deployment())
    with pytest.raises(PreconditionError, match="there is a Deployment kiva-x in the namespace kiva already"):
        helm.install_or_upgrade("kiva-x", chart, {})


def test_permissions_and_quotas(api, helm, chart):
    api.admission.forbid("create", "secrets")
    with pytest.raises(PreconditionError, match="user kiva of the context 'kiva-test' may not create secrets"):
        helm.install_or_upgrade("kiva-x", chart, {})
    api.admission.clear()
    api.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {"count/deployments.apps": "0"}}}, "kiva")
    with pytest.raises(PreconditionError, match="the quota team of the namespace kiva"):
        helm.install_or_upgrade("kiva-x", chart, {})


def test_a_namespace_that_is_not_there(api, helm, chart):
    api.remove("Namespace", "kiva")
    with pytest.raises(PreconditionError, match="no namespace kiva"):
        helm.install_or_upgrade("kiva-x", chart, {})


def test_a_hook_that_ends_and_one_that_does_not(api, kubelet, helm, chart):
    with kubelet.running():
        helm.install_or_upgrade("kiva-x", chart, {"hook": True}, timeout_s=20)
        kubelet.script(pods="kiva-x-hook*", exit_code=1)
        with pytest.raises(ToolError, match="hook of the release kiva-x failed") as caught:
            helm.install_or_upgrade("kiva-x", chart, {"hook": True}, timeout_s=20)
    assert "logs job/kiva-x-hook" in caught.value.hint
    assert states(helm) == [(1, "deployed"), (2, "failed")]


def test_fields_of_others_are_taken_only_when_asked_to(api, helm4, chart):
    helm4.install_or_upgrade("kiva-x", chart, {})
    api.change("Deployment", "kiva-x", {"spec": {"replicas": 7}}, "kiva", manager="kubectl-scale")
    with pytest.raises(FieldConflict, match=r"\.spec\.replicas of .* belongs to 'kubectl-scale'"):
        helm4.install_or_upgrade("kiva-x", chart, {"replicas": 2})
    assert replicas(api) == 7
    helm4.install_or_upgrade("kiva-x", chart, {"replicas": 2}, force_conflicts=True)
    assert replicas(api) == 2


def test_https_with_a_token(tmp_path, helm, chart):
    from kube_api.server import KubeApi

    from kivactl.tools.helm import Helm

    with KubeApi(tls=True, token="right") as api:
        api.namespace("kiva")
        config = api.kubeconfig(tmp_path / "https", namespace="kiva")
        there = Helm(config, "kiva-test", "kiva")
        assert there.install_or_upgrade("kiva-x", chart, {}).state.status == "deployed"
        config.write_text(config.read_text().replace('"right"', '"wrong"'))
        with pytest.raises(PreconditionError, match="refuses the credentials"):
            there.releases()


def test_a_context_that_is_not_there(kubeconfig, helm):
    from kivactl.tools.helm import Helm

    with pytest.raises(KivaError, match="no context 'elsewhere'"):
        Helm(kubeconfig, "elsewhere", "kiva").releases()

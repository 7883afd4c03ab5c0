"""The procedures of a platform in a cluster, against an API server, the real Helm and the charts that we ship."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cluster_deployment import MeterPod, cluster_site
from cluster_site import NAMESPACE
from cluster_specs import model
from usage_lines import NOON_S, access_line, append, count_line, refused_line

from kivactl.errors import CheckError, InvalidMeasurementError, NotReadyError, PreconditionError, ToolError, UsageError
from kivactl.flows import canary, cluster, health, ledger, maintenance, scaling
from kivactl.flows.backup.stage import build_stage, stage_of
from kivactl.flows.canary import Figures
from kivactl.flows.restore.manifest import FILE, faults_of_files, parse_manifest
from kivactl.flows.usage import budgets_in_cluster, budgets_of, report_in_cluster, report_of
from kivactl.plan import Outcome, Status
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Site
from kivactl.targets.status import Health
from kivactl.tools.kube_objects import Ran
from kivactl.usage.meter import Meter, World
from kivactl.usage.pieces import piece_of
from kivactl.usage.report import By
from kivactl.usage.snapshot import sums_of

pytestmark = pytest.mark.charts


@pytest.fixture
def site(tmp_path, monkeypatch):
    with cluster_site(tmp_path, monkeypatch, models=[model("qwen", replicas=2), model("small")]) as site:
        yield site


@pytest.fixture
def meter(site, tmp_path, monkeypatch):
    """A meter's pod with some use in two months; nothing else is deployed."""
    pod = MeterPod(site, tmp_path, monkeypatch)
    layout = pod.layout
    append(layout.access_log, access_line("a", tenant="default", version="qwen"), access_line("b", tenant="default", version="qwen"))
    append(layout.access_log, access_line("c", at_s=NOON_S - 30 * 86_400), refused_line("d", 503, tenant="default"))
    append(layout.usage / "m-0.jsonl", count_line("a"), count_line("b"), count_line("c"))
    one = Meter(layout.meter_orders, World(now_s=lambda: NOON_S, say=lambda _: None, reopen_logs=lambda _: True))
    one.run_pass()
    one.close()
    return pod


def acted(site, name, params=None):
    action = ACTIONS[name]
    at = Site(site.deployment, site.path.parent / "run", "run")
    return list(action.act(at, action.params(**(params or {}))))


def seen(site, name, params=None):
    probe = PROBES[name]
    return probe.read(Site(site.deployment, site.path.parent / "run", "run"), probe.params(**(params or {})))


# Starting, stopping, looking


def test_a_platform_is_looked_at_stopped_started_and_restarted(site):
    assert seen(site, "platform.health") == "not deployed"
    assert seen(site, "components.faults") == ["nothing is deployed"]
    assert seen(site, "spec.deployed") is False
    site.deploy()
    assert (seen(site, "platform.health"), seen(site, "components.faults"), seen(site, "cluster.drift")) == ("serving", [], [])
    assert seen(site, "spec.deployed") is True
    assert (seen(site, "model.serving", {"model": "qwen"}), seen(site, "model.all-serving", {"model": "qwen"})) == (True, True)
    pods = site.pods("engine")
    assert seen(site, "replica.health", {"replica": pods[0]}) == "serving"
    assert [one.step for one in acted(site, "platform.status")] == [*site.pods("gateway"), *pods, "platform"]
    with pytest.raises(CheckError, match="pods of the platform are left: kiva-"):
        acted(site, "platform.nothing-left")

    acted(site, "platform.stop")
    assert (site.pods(), seen(site, "platform.health")) == ([], "stopped")
    assert acted(site, "platform.nothing-left")[-1].message == "no pod is left"
    assert seen(site, "components.faults"), "what is stopped does not serve"
    acted(site, "platform.start")
    assert (len(site.pods("engine")), seen(site, "components.faults")) == (3, [])

    before = set(site.pods("engine"))
    (*_, told) = acted(site, "replica.restart", {"model": "qwen"})
    assert told.message == "qwen started anew"
    assert told.data["measured"].keys() == {"degraded"}
    while len(site.pods("engine")) > 3:
        site.deployment.clock.sleep(0.1)
    gone = before - set(site.pods("engine"))
    assert len(gone) == 2
    assert all("-qwen-" in name for name in gone)
    (pod,) = [name for name in site.pods("engine") if "-small-" in name]
    acted(site, "replica.restart", {"replica": pod, "model": "small"})
    assert pod not in site.pods("engine")
    everything = set(site.pods("engine"))
    acted(site, "replica.restart")
    while len(site.pods("engine")) > 3:
        site.deployment.clock.sleep(0.1)
    assert not everything & set(site.pods("engine"))


def test_what_is_not_there_is_not_restarted(site):
    with pytest.raises(PreconditionError, match="nothing is deployed in the cluster 'prod'"):
        maintenance.chosen(site.deployment)
    site.deploy()
    assert maintenance.chosen(site.deployment) == ["qwen", "small"]
    (gateway,), pod = site.pods("gateway"), next(name for name in site.pods("engine") if "-small-" in name)
    for replica, of in (("kiva-qwen-x", None), (gateway, None), (pod, "qwen")):
        before = len(site.api.writes())
        with pytest.raises(UsageError, match="there is no replica"):
            acted(site, "replica.restart", {"replica": replica, "model": of})
        assert len(site.api.writes()) == before
    with pytest.raises(UsageError):
        acted(site, "replica.restart", {"model": "nobody"})


def test_an_emergency_stop_waits_for_nobody(site):
    site.deploy()
    pods = site.pods()
    outcomes = acted(site, "platform.kill")
    assert [one.message for one in outcomes if one.status is Status.STARTED] == ["killing"] * 3
    assert (site.pods(), seen(site, "platform.health")) == ([], "stopped")
    deleted = [one for one in site.api.requests if one.verb == "delete" and one.kind_name == "Pod"]
    assert deleted
    assert {one.name for one in deleted} <= set(pods)
    assert all(json.loads(one.body)["gracePeriodSeconds"] == 0 for one in deleted)
    acted(site, "platform.start")
    assert seen(site, "platform.health") == "serving"


def test_what_somebody_else_changed(site):
    site.deploy()
    site.api.change("Deployment", "kiva-qwen", {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}, NAMESPACE, manager="kubectl-edit")
    assert seen(site, "cluster.drift") == ["Deployment kiva-qwen by kubectl-edit"]


def test_a_model_that_sleeps_is_no_fault(tmp_path, monkeypatch):
    values = {"monitoring": {"prometheus": "http://prometheus:9090"}}
    scaled = model("qwen", kubernetes={"autoscale": {"by": "keda", "min": 0, "max": 2}})
    with cluster_site(tmp_path, monkeypatch, values, models=[scaled, model("small")]) as site:
        site.deploy()
        site.api.change("Deployment", "kiva-qwen", {"spec": {"replicas": 0}}, NAMESPACE)
        while any("-qwen-" in name for name in site.pods("engine")):
            site.deployment.clock.sleep(0.1)
        assert [one.health for one in cluster.status_of(site.deployment).components if one.model == "qwen"] == [Health.STOPPED]
        assert seen(site, "components.faults") == []
        with pytest.raises(PreconditionError, match="the replicas of 'qwen' come and go by load, 0 to 2 of them"):
            list(scaling.scale(site.deployment, "qwen", 2))


# Judging a version


def judged(site, monkeypatch, figures, meanwhile=lambda: None, for_s=12.0, **more):
    def tested(*_arguments):
        meanwhile()
        yield Outcome("load test", Status.DONE, "measured")
        return figures

    monkeypatch.setattr(canary, "_tested", tested)
    return list(canary.observe(site.deployment, "qwen", for_s=for_s, min_requests=20, load_s=5.0, folder=site.path.parent / "x", **more))


def test_a_version_is_judged_by_a_load_test(site, monkeypatch):
    with pytest.raises(PreconditionError, match="no replica of 'qwen' is deployed and in service"):
        judged(site, monkeypatch, Figures(20, 0, 0.1, 0.01))
    site.deploy()
    *_, last = judged(site, monkeypatch, Figures(20, 0, 0.1, 0.01))
    assert (last.status, last.data["result"]["requests"]) == (Status.DONE, 20)
    with pytest.raises(CheckError, match="misses the platform's service levels"):
        judged(site, monkeypatch, Figures(20, 20, 0.1, 0.01))
    with pytest.raises(InvalidMeasurementError, match="answered 3 requests only"):
        judged(site, monkeypatch, Figures(3, 0, 0.1, 0.01))


def test_a_pod_that_goes_while_it_is_watched_ends_it(site):
    site.deploy()
    watch = canary._WatchOfPods(site.deployment, "qwen")
    watch.look(0.0)
    pod = next(name for name in site.pods("engine") if "-qwen-" in name)
    site.api.remove("Pod", pod, NAMESPACE)
    while pod in site.pods("engine"):
        site.deployment.clock.sleep(0.1)
    asked = len(site.api.requests)
    watch.look(1.0)
    assert len(site.api.requests) == asked or pod, "the API server is asked every few seconds only"
    with pytest.raises(CheckError, match=f"{pod} went away while it was observed"):
        watch.look(6.0)


def test_a_pod_that_does_not_serve_for_a_while_ends_it(site, monkeypatch):
    site.deploy()
    watch = canary._WatchOfPods(site.deployment, "small")
    (pod,) = [one for one in cluster.status_of(site.deployment).components if one.model == "small"]
    now = SimpleNamespace(health=Health.RESTARTING, name=pod.name, reason="its container crashes", model="small")
    monkeypatch.setattr(canary, "status_now", lambda _: SimpleNamespace(components=[now]))
    watch.look(0.0)
    with pytest.raises(CheckError, match=f"{pod.name} does not serve: its container crashes"):
        watch.look(6.0)


# The ledger


def test_reports_and_budgets_are_those_of_the_ledger(site, meter):
    for by, month in ((By.TENANT, None), (By.MODEL, "2026-11"), (By.DAY, "2026-10")):
        assert report_in_cluster(site.deployment, by, month) == report_of(meter.layout, "kiva", by, month)
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert budgets_in_cluster(site.deployment, now) == budgets_of(meter.layout, "kiva", now)
    with pytest.raises(UsageError, match="is not a month"):
        report_in_cluster(site.deployment, By.TENANT, "soon")


def test_checks_ask_the_ledger(site, meter):
    assert seen(site, "ledger.requests") == 4
    assert health.error_ratio(site.deployment, 3600.0, NOON_S + 60) == pytest.approx(1 / 3)
    assert seen(site, "records.faults") == []
    content = bytearray(meter.layout.ledger.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    meter.layout.ledger.write_bytes(bytes(content))
    (fault,) = seen(site, "records.faults")
    assert "ledger" in fault


@pytest.mark.parametrize(
    ("ran", "kind", "said"),
    [
        (Ran(3, "", "nothing has been metered for 'kiva' yet: there is no ledger\n"), PreconditionError, "nothing has been metered for 'kiva' yet"),
        (Ran(1, "", "/usr/bin/python3: No module named kivactl.usage.asked\n"), PreconditionError, "is of an older kivactl"),
        (Ran(1, "", "Traceback\nKeyError: 'x'\n"), ToolError, "could not be asked for its ledger: KeyError: 'x'"),
        (Ran(137, "", ""), ToolError, "exit code 137"),
        (Ran(0, "hello", ""), ToolError, "answered something else"),
        (Ran(0, "[]", ""), ToolError, "answered something else"),
    ],
)
def test_a_meter_that_cannot_be_asked(site, meter, ran, kind, said):
    meter.broken = ran
    with pytest.raises(kind, match=said) as caught:
        seen(site, "ledger.requests")
    assert caught.value.hint


def test_without_a_meter_that_runs_the_way_out_is_said(site, meter):
    site.api.remove("Pod", "kiva-gateway-0", NAMESPACE)
    while site.pods("gateway"):
        site.deployment.clock.sleep(0.1)
    with pytest.raises(NotReadyError, match="the ledger lies in the volume of the gateway, and no meter runs there") as caught:
        report_in_cluster(site.deployment)
    assert "kivactl runbook start" in caught.value.hint


def test_before_anything_is_deployed(site):
    with pytest.raises(PreconditionError, match="nothing has been metered for 'kiva' yet: no meter is deployed"):
        report_in_cluster(site.deployment)


def test_a_ledger_on_a_server_is_asked_from_here(tmp_path, monkeypatch):
    address = "postgresql://kiva@db.example.org/kiva"
    with cluster_site(tmp_path, monkeypatch, {"ledger_secret": "db"}, usage={"ledger": address}) as site:
        MeterPod(site, tmp_path, monkeypatch).broken = Ran(1, "", "nobody may ask")
        opened = []

        def no_ledger(where, platform, *, read_only):
            opened.append((where, platform, read_only))
            raise PreconditionError("as the server says")

        monkeypatch.setattr(ledger, "open_ledger", no_ledger)
        with pytest.raises(PreconditionError, match="as the server says"):
            report_in_cluster(site.deployment)
    assert opened == [(address, "kiva", True)]


def test_usage_on_the_command_line(site, meter, kivactl, monkeypatch):
    monkeypatch.chdir(site.path.parent)
    report = json.loads(kivactl("-o", "json", "usage", "report", "--month", "2026-11").stdout)
    assert sum(row["requests"] for row in report["rows"]) == 3
    assert json.loads(kivactl("-o", "json", "usage", "budgets").stdout)[0]["tenant"] == "default"
    meter.broken = Ran(3, "", "the ledger is busy\n")
    seen_ = kivactl("usage", "report")
    assert (seen_.code, seen_.stderr.splitlines()[0]) == (3, "error: the ledger is busy")


# Backups


def provisioned(site, signing_key):
    layout = site.deployment.layout
    layout.signing_key.parent.mkdir(parents=True, exist_ok=True)
    layout.signing_key.write_bytes(signing_key)


def test_a_backup_holds_keys_record_releases_and_ledger(site, tmp_path, monkeypatch, signing_key):
    provisioned(site, signing_key)
    site.deploy()
    pod = MeterPod(site, tmp_path, monkeypatch)
    append(pod.layout.access_log, access_line("a", tenant="default"))
    append(pod.layout.usage / "m-0.jsonl", count_line("a"))
    with closing(Meter(pod.layout.meter_orders, World(now_s=lambda: NOON_S, say=lambda _: None, reopen_logs=lambda _: True))) as one:
        one.run_pass()
    build_stage(site.deployment)
    stage = stage_of(site.deployment.layout)
    manifest = parse_manifest((stage / FILE).read_bytes(), "kiva")
    assert list(faults_of_files(stage, manifest)) == []
    releases = ("gateway", "monitoring", "qwen", "small")
    assert {"cluster/record.json", *(f"cluster/releases/kiva-{name}.json" for name in releases)} <= manifest.files.keys()
    assert {"state/tokens/signing.key", "spec/kiva.yaml", "state/usage/ledger.db"} <= manifest.files.keys()
    assert sums_of(stage / "state/usage/ledger.db")["requests"] == 1
    assert (manifest.ledger.kind, manifest.ledger.requests) == ("sqlite", 1)
    assert json.loads((stage / "cluster/record.json").read_text())["deploys"][0]["number"] == 1
    values = json.loads((stage / "cluster/releases/kiva-qwen.json").read_text())
    assert (values["revision"], values["values"]["model"]["name"]) == (1, "qwen")
    assert [words[2:4] for words in pod.asked][-1] == ["kivactl.usage.handing", "drop"]
    assert {path.stat().st_mode & 0o777 for path in stage.rglob("*") if path.is_file()} == {0o600}
    told = (stage / "cluster/record.json").stat().st_mtime_ns
    build_stage(site.deployment)
    assert (stage / "cluster/record.json").stat().st_mtime_ns == told, "what did not change is not read again"


def test_before_a_first_deploy_there_is_no_ledger_to_copy(site, signing_key):
    provisioned(site, signing_key)
    manifest = build_stage(site.deployment)
    assert manifest["ledger"] is None
    assert "cluster/record.json" in manifest["files"]


@pytest.mark.parametrize("spoil", ["cut", "other", "no piece"])
def test_a_copy_that_comes_damaged_is_none(site, meter, tmp_path, spoil):
    def spoiled(argv, ran):
        if argv[3] != "read":
            return ran
        other = b64encode(zlib.compress(piece_of(ran.stdout)[::-1])).decode()
        return Ran(0, {"cut": "", "other": other, "no piece": "!!"}[spoil], "")

    meter.broken = spoiled
    into = tmp_path / "ledger.db"
    with pytest.raises(CheckError, match="the copy of the ledger"):
        ledger.copy(site.deployment, into)
    assert list(tmp_path.glob("*ledger.db*")) == []
    assert meter.asked[-1][3] == "drop"
    assert list(meter.layout.usage.glob("handed-*")) == []


def test_models_in_volumes_are_not_promised(tmp_path, monkeypatch, signing_key):
    with cluster_site(tmp_path, monkeypatch, backup={"models": "content"}) as site:
        provisioned(site, signing_key)
        with pytest.raises(PreconditionError, match="the models of a platform in a cluster lie in its volumes"):
            build_stage(site.deployment)
        assert not (stage_of(site.deployment.layout) / FILE).exists()

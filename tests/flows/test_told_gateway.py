"""Tokens, keys, certificates and shares of a platform in a cluster: what reaches its gateway, what a deploy must not undo, and what faults leave."""

from __future__ import annotations

import base64
import json
import os
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from helm.charts import binary
from told_gateway import NAMESPACE, RELEASE, SPEC, Site

from kivactl.errors import KivaError, NotReadyError, PreconditionError, UsageError
from kivactl.flows import shares, tokens, trust
from kivactl.flows.certs import apply_certificate, plan_certificate
from kivactl.flows.rotation import apply_rotation
from kivactl.flows.tokens import apply_revoke
from kivactl.plan import Status
from kivactl.stack.certificates import parse
from kivactl.stack.gateway.access import keys_in, revoked_in
from kivactl.targets.kubernetes import gateway as cluster_gateway
from kivactl.targets.kubernetes import rollout
from kivactl.targets.kubernetes.record import change_record
from kivactl.targets.kubernetes.rollout import Rollout
from kivactl.targets.publication import key_id, next_key, signing_key
from kivactl.targets.register import read_register
from kivactl.tools import tls
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_errors import Denied
from kivactl.tools.lease import held

pytestmark = pytest.mark.charts

DAY = timedelta(days=1)


@pytest.fixture
def helm_on_path(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "helm").symlink_to(binary("helm"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for what in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{what}_HOME", str(tmp_path / f"helm-{what.lower()}"))


@pytest.fixture
def bare(tmp_path, helm_on_path, monkeypatch):
    """A cluster with nothing in it."""
    one = Site(tmp_path)
    monkeypatch.setattr(Cluster, "run_in", one.pods.run_in)
    try:
        with one.kubelet.running():
            yield one
    finally:
        one.api.stop()


@pytest.fixture
def site(bare):
    bare.deploy()
    return bare


def issue(site, tenant="police"):
    return tokens.issue(site.deployment, tenant, name="client", lifetime=DAY)[1]


def revoke(site, *entries):
    return list(apply_revoke(site.deployment, frozenset(one.id for one in entries)))[-1].message


def rotate(site, **words):
    return list(apply_rotation(site.deployment, **words))


def revoked(site):
    return revoked_in(site.pods.files()["revoked.json"])


def keys(site):
    return {key["kid"] for key in keys_in(site.pods.files()["authentication.json"])["keys"]}


def deny(site, *what):
    """Neither programs in pods nor forwarded ports nor what else is named."""
    for one in ("pods/exec", "pods/portforward"):
        site.api.admission.forbid("create", one)
    for one in what:
        site.api.admission.forbid("patch", one)


# Tokens


def test_a_revoked_token_reaches_every_pod_of_the_gateway_and_none_is_started_anew(site):
    before, entry = site.gateways(), issue(site)
    assert site.revision() == 1, "a new token is nothing that a gateway has to be told"
    message = revoke(site, entry)
    assert message.startswith("1 token revoked, the gateway refuses them (seen in 1 pod after ")
    assert revoked(site) == {entry.id}
    assert (site.gateways(), site.revision()) == (before, 2)
    assert site.deployment.target.drift() == ()
    assert (site.plan().changes, site.plan().notes) == ((), ())
    assert site.deployment.target.record().last.releases[RELEASE] == 2


def test_the_kubelet_is_told_again_when_it_does_not_look(site):
    site.pods.looks_after = 30
    marks = []
    entry = issue(site)

    def note():
        (pod,) = (one for one in site.api.list("Pod", NAMESPACE) if one["metadata"]["name"] in site.gateways())
        marks.append(pod["metadata"]["annotations"]["kiva/config"])

    site.pods.before = note
    revoke(site, entry)
    assert len(set(marks)) == 2
    assert marks[-1] == f"{marks[0]}-2"


def test_where_no_pod_may_be_asked_it_is_said_how_long_it_may_take(site):
    deny(site)
    entry = issue(site)
    assert revoke(site, entry) == (
        "1 token revoked; 1 pod of the gateway, which cannot be asked, takes it over usually within seconds, at the latest after 90 s"
    )
    assert revoked(site) == {entry.id}
    deny(site, "pods")
    entry = issue(site)
    assert revoke(site, entry).endswith("which cannot be asked, takes it over at the latest after 90 s")


def test_a_permission_that_shows_as_missing_only_when_it_is_used(site, monkeypatch):
    def denied(*_arguments, **_options):
        raise Denied("no")

    monkeypatch.setattr(Cluster, "run_in", denied)
    assert "at the latest after 90 s" in revoke(site, issue(site))


def test_a_pod_that_never_has_it_ends_in_an_error_and_the_same_command_looks_again(site):
    site.pods.looks_after = 10**6
    entry = issue(site)
    with pytest.raises(NotReadyError, match="1 of 1 pod of the gateway did not take over the change within 180 s"):
        revoke(site, entry)
    site.pods.looks_after = 1
    (message,) = [one.message for one in trust.renew_announcement(site.deployment)]
    assert message.startswith("keys and revocations are as they should be, it has them (seen in 1 pod")
    assert site.revision() == 2, "nothing had to be written again"


def test_without_a_deploy_a_revocation_waits_in_the_register(bare):
    entry = issue(bare)
    assert revoke(bare, entry) == "1 token revoked"
    bare.deploy()
    assert revoked(bare) == {entry.id}


def test_a_stopped_platform_is_told_and_stays_stopped(site):
    change_record(site.deployment.target.cluster, "kiva", lambda record: replace(record, stopped_at="2026-11-29T12:00:00+00:00"))
    site.api.change("Deployment", RELEASE, {"spec": {"replicas": 0}}, NAMESPACE)
    entry = issue(site)
    revoke(site, entry)
    assert revoked(site) == {entry.id}
    assert site.api.get("Deployment", RELEASE, NAMESPACE)["spec"]["replicas"] == 0
    list(site.deployment.target.start())
    assert site.api.get("Deployment", RELEASE, NAMESPACE)["spec"]["replicas"] == 1


def test_however_often_tokens_are_revoked_the_way_back_stays(site):
    site.write(gateway={"tenants": [{"name": "police"}, {"name": "fire"}]})
    site.deploy()
    for _ in range(11):
        revoke(site, issue(site))
    kept = [one["metadata"]["name"] for one in site.api.list("Secret", NAMESPACE) if one["metadata"]["name"].startswith(f"sh.helm.release.v1.{RELEASE}.")]
    assert len(kept) == 2
    list(site.deployment.target.go_back(1, lambda: ()))
    assert len(revoked(site)) == 11


# Keys


def test_a_rotation_makes_the_new_key_known_before_it_signs(site):
    old = key_id(signing_key(site.layout))
    seen = []
    site.pods.before = lambda: seen.append((key_id(signing_key(site.layout)), frozenset(keys(site))))
    done = rotate(site)[-1]
    new = key_id(signing_key(site.layout))
    assert new != old
    assert all(signs == old and {old, new} <= known for signs, known in seen[:3])
    assert keys(site) == {old, new}
    assert "the gateway goes by it (seen in 1 pod" in done.message
    assert site.plan().changes == ()


def test_a_rotation_that_cannot_be_seen_waits_as_long_as_it_may_take(site):
    deny(site)
    began_s = site.time.now_s()
    outcomes = rotate(site)
    assert any("the new key signs in 90 s" in one.message for one in outcomes if one.status is Status.PROGRESS)
    assert site.time.now_s() - began_s >= 90


def test_a_key_that_is_known_to_others_is_gone_at_once(site):
    old = key_id(signing_key(site.layout))
    entry = issue(site)
    assert rotate(site, at_once=True)[-1].data["invalid"] == 1
    assert old not in keys(site)
    assert revoked(site) == set(), "a key that nobody accepts needs no list"
    assert entry.id in {one.id for one in read_register(site.layout).tokens if one.revoked_at}


# What must not undo it


def test_a_deploy_that_was_decided_before_does_not_undo_a_revocation(site):
    entry = issue(site)
    site.write(gateway={"tenants": [{"name": "police"}, {"name": "tax"}, {"name": "fire"}]})
    target = site.deployment.target
    course = target._course(site.desired())
    other = key_id(signing_key(site.layout))
    revoke(site, entry)
    rotate(site)
    with target.locked("deploy") as lease:
        list(Rollout(target.cluster, target.helm, target.charts, "kiva", "", lease.check).run(course))
    assert revoked(site) == {entry.id}
    assert keys(site) == {other, key_id(signing_key(site.layout))}
    assert "fire" in json.dumps(site.pods.files()["admission.json"])
    target.finish("x", "2026-11-29T12:00:00+00:00")
    assert site.plan().changes == ()


def test_a_token_is_revoked_while_somebody_deploys(site):
    entry = issue(site)
    with site.deployment.target.locked("deploy"):
        assert "the gateway refuses them" in revoke(site, entry)
    assert revoked(site) == {entry.id}


def test_who_writes_the_release_at_the_same_moment_is_waited_for(site):
    entry = issue(site)
    cluster = site.deployment.target.cluster
    ready, go = threading.Event(), threading.Event()

    def hold():
        with held(cluster, "kiva.gateway", "deploy"):
            ready.set()
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(30)
    threading.Timer(1.0, go.set).start()
    assert "the gateway refuses them" in revoke(site, entry)
    thread.join()


def test_the_way_back_to_an_earlier_deploy_lets_nobody_in_again(site):
    entry = issue(site)
    site.write(gateway={"tenants": [{"name": "police"}, {"name": "fire"}]})
    site.deploy()
    revoke(site, entry)
    rotate(site)
    known = keys(site)
    list(site.deployment.target.go_back(1, lambda: ()))
    assert "fire" not in json.dumps(site.pods.files()["admission.json"])
    assert revoked(site) == {entry.id}
    assert keys(site) == known


@pytest.mark.parametrize("chart", ["the same", "another"])
def test_an_automatic_way_back_lets_nobody_in_again(site, monkeypatch, chart):
    """The gateway's new pods do not come up; in between a token was revoked."""
    entry = issue(site)
    if chart == "another":  # as after an update of kivactl: the revision of before is not of the charts at hand
        real = rollout.fingerprint
        monkeypatch.setattr(rollout, "fingerprint", lambda release, charts: f"other-{real(release, charts)}")
    before = site.api.get("Deployment", RELEASE, NAMESPACE)["spec"]["template"]
    other = f"registry.example.org/kiva/gateway@sha256:{'b' * 64}"
    site.write(kubernetes={**SPEC["kubernetes"], "images": {**SPEC["kubernetes"]["images"], "gateway": other}})
    target = site.deployment.target
    wanted = site.desired()
    site.kubelet.script(image=other, trouble="ImagePullBackOff")
    told = []

    def deploy():
        for outcome in target.apply(wanted):
            if outcome.step == "gateway" and outcome.status is Status.PROGRESS and not told:
                told.append(revoke(site, entry))

    with pytest.raises(KivaError, match="it is back at revision 1"):
        deploy()
    assert told
    assert revoked(site) == {entry.id}
    assert site.api.get("Deployment", RELEASE, NAMESPACE)["spec"]["template"] == before


# Faults


@pytest.mark.parametrize(
    ("verb", "kind", "answer"),
    [
        ("patch", "ConfigMap", 409),
        ("patch", "ConfigMap", 500),
        ("patch", "ConfigMap", "denied"),
        ("create", "Secret", 503),
        ("update", "Secret", 409),
        ("update", "Lease", 409),
        ("patch", "Pod", 500),
    ],
)
def test_after_a_fault_the_same_command_works(site, verb, kind, answer):
    entry = issue(site)
    fault = site.api.faults.add(verb, kind, times=None if answer == "denied" else 40, answer=answer)
    with suppress(KivaError):  # some are got over
        revoke(site, entry)
    assert fault.seen
    site.api.faults.clear()
    list(trust.renew_announcement(site.deployment))
    assert revoked(site) == {entry.id}
    assert site.plan().changes == ()


def test_an_api_server_that_goes_away_in_the_middle(site, monkeypatch):
    entry = issue(site)
    real = cluster_gateway.write_with_own_chart

    def gone(*arguments):
        site.api.stop()
        return real(*arguments)

    monkeypatch.setattr(cluster_gateway, "write_with_own_chart", gone)
    with pytest.raises(KivaError) as failure:
        revoke(site, entry)
    assert "prod" in failure.value.message
    assert [one.id for one in read_register(site.layout).tokens if one.revoked_at] == [entry.id]
    monkeypatch.setattr(cluster_gateway, "write_with_own_chart", real)
    site.api.start()
    list(trust.renew_announcement(site.deployment))
    assert revoked(site) == {entry.id}


def test_a_helm_that_was_killed_leaves_nothing_in_the_way(site):
    entry = issue(site)
    secret = site.api.get("Secret", f"sh.helm.release.v1.{RELEASE}.v1", NAMESPACE)
    pending = json.loads(json.dumps(secret))
    pending["metadata"] = {"name": f"sh.helm.release.v1.{RELEASE}.v2", "labels": {**secret["metadata"]["labels"], "status": "pending-upgrade", "version": "2"}}
    pending["data"]["release"] = _with_status(secret["data"]["release"], "pending-upgrade", 2)
    site.api.add(pending, NAMESPACE)
    assert "the gateway refuses them" in revoke(site, entry)
    assert revoked(site) == {entry.id}


def test_a_rotation_that_was_cut_off_is_done_again(site):
    site.api.faults.add("patch", "ConfigMap", times=None, answer="denied")
    old = signing_key(site.layout)
    with pytest.raises(KivaError):
        rotate(site)
    assert signing_key(site.layout) == old, "the gateway does not know another key yet"
    assert next_key(site.layout).exists()
    site.api.faults.clear()
    rotate(site)
    assert key_id(signing_key(site.layout)) in keys(site)
    assert not next_key(site.layout).exists()


def test_a_gateway_of_another_version_is_said(site):
    files = {name: json.dumps(content) for name, content in site.pods.files().items()} | {"revoked.json": "[]"}
    target = site.deployment.target
    stored = target.gateway._deployed()[1]
    target.helm.install_or_upgrade(RELEASE, target.charts / "kiva-gateway", {**stored.values, "files": files})
    with pytest.raises(PreconditionError, match="not of this version") as failure:
        revoke(site, issue(site))
    assert failure.value.hint == "kivactl deploy"


# Certificates


def renewed(site, **words):
    return list(apply_certificate(site.deployment, **words))[-1]


def in_cluster(site):
    return base64.b64decode(site.api.get("Secret", f"{RELEASE}-tls", NAMESPACE)["data"]["tls.crt"])


def test_a_new_certificate_is_in_the_secret_and_waited_for(site, monkeypatch):
    class Forward:
        port = 4711

        def close(self):
            pass

    looks = []

    def shown(_address, port, _timeout_s=2):
        looks.append(port)
        return parse(in_cluster(site))[0].fingerprint if len(looks) > 3 else "another"

    monkeypatch.setattr(Cluster, "forward", lambda *_: Forward())
    monkeypatch.setattr(tls, "shown_fingerprint", shown)
    before = in_cluster(site)
    done = renewed(site)
    assert ", the gateway shows it (seen in 1 pod after 1.5 s)" in done.message
    assert done.data["served"] is True
    assert in_cluster(site) == site.layout.certificate.read_bytes() != before
    assert set(looks) == {4711}
    assert site.plan().changes == ()
    assert site.revision() == 1


def test_a_certificate_that_nobody_may_look_at(site):
    deny(site)
    done = renewed(site)
    assert done.message.endswith("1 pod of the gateway, which cannot be asked, takes it over usually within seconds, at the latest after 90 s")
    assert done.data["served"] is False


def test_a_certificate_that_did_not_reach_the_cluster_is_due(site):
    assert plan_certificate(site.deployment, only_if_due=True).empty
    site.api.faults.add("patch", "Secret", f"{RELEASE}-tls", times=None, answer="denied")
    with pytest.raises(KivaError):
        renewed(site)
    site.api.faults.clear()
    plan = plan_certificate(site.deployment, only_if_due=True)
    assert plan.notes == ("the present certificate: the gateway in the cluster does not have it",)
    deny(site)
    renewed(site)
    assert in_cluster(site) == site.layout.certificate.read_bytes()
    assert plan_certificate(site.deployment, only_if_due=True).empty


def test_somebody_elses_certificate_is_not_renewed(site):
    site.write(kubernetes={**SPEC["kubernetes"], "gateway": {"certificate": "cert-manager:ca"}})
    with pytest.raises(UsageError, match=r"comes from `kubernetes[.]gateway[.]certificate: cert-manager:ca`, which renews it"):
        plan_certificate(site.deployment, only_if_due=False)


# Shares


def set_shares(site, **wanted):
    return list(shares.set_shares(site.deployment, "chat", wanted))[-1].message


def test_shares_of_a_rollout_reach_the_gateway_and_a_deploy_keeps_to_them(site):
    assert set_shares(site, v1=90, v2=10).startswith("v1 90, v2 10, the gateway goes by them (seen in 1 pod after ")
    assert shares.current(site.deployment, "chat") == {"v1": 90, "v2": 10}
    plan = site.plan()
    assert (plan.changes, plan.notes) == ((), ("a rollout holds the shares of 'chat': v1 90, v2 10",))
    site.deploy()
    assert '"weight": 10' in json.dumps(site.pods.files()["routes.json"])
    assert set_shares(site, v1=90, v2=10).startswith("v1 90, v2 10 as before")
    set_shares(site, v1=100, v2=0)
    assert site.plan().notes == ()
    assert site.deployment.target.record().shares == {}


def test_at_the_end_of_a_rollout_the_shares_stand_in_the_spec_and_nothing_is_left_to_deploy(site):
    set_shares(site, v1=0, v2=100)
    list(shares.settle(site.deployment, "chat"))
    assert site.deployment.platform.aliases[0].models == {"v1": 0, "v2": 100}
    record = site.deployment.target.record()
    assert (record.shares, record.last.spec) == ({}, site.deployment.loaded.digest)
    assert (site.plan().changes, site.plan().notes) == ((), ())


def test_a_model_that_is_not_deployed_gets_no_share(site):
    site.write(models=[*SPEC["models"], {**SPEC["models"][0], "name": "v3"}])
    with pytest.raises(PreconditionError, match="'v3' is not deployed"):
        set_shares(site, v1=50, v3=50)


def test_without_a_gateway_there_are_no_shares(bare):
    with pytest.raises(PreconditionError, match="is not deployed"):
        set_shares(bare, v1=50, v2=50)


def test_shares_that_did_not_reach_the_gateway_reach_it_by_the_same_command(site):
    site.api.faults.add("patch", "ConfigMap", f"{RELEASE}-routes", times=None, answer="denied")
    with pytest.raises(KivaError):
        set_shares(site, v1=90, v2=10)
    site.api.faults.clear()
    set_shares(site, v1=90, v2=10)
    assert '"weight": 10' in json.dumps(site.pods.files()["routes.json"])
    assert site.plan().changes == ()


def _with_status(release, status, revision):
    import gzip

    data = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(release))))
    data["info"]["status"], data["version"] = status, revision
    return base64.b64encode(base64.b64encode(gzip.compress(json.dumps(data).encode()))).decode()

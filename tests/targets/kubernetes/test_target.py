"""The target against an API server and the real Helm: planned, rolled out, changed, stopped, started, taken back."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from cluster_site import IMAGE, NAMESPACE, desired, engine, gateway
from helm.charts import LAYERS, binary

from kivactl.errors import NotReadyError, PreconditionError, UsageError
from kivactl.plan import Difference, Status, Verb
from kivactl.spec.kubernetes import Kubernetes
from kivactl.targets.kubernetes.desired import GATEWAY
from kivactl.targets.kubernetes.target import open_kubernetes
from kivactl.tools.clock import Clock

pytestmark = pytest.mark.charts

OTHER = IMAGE.replace("a" * 64, "b" * 64)
ONE = desired(engine("smollm2"))


def changes(plan):
    return [(change.verb, change.subject) for change in plan.changes]


def done(outcomes):
    return [one.step for one in outcomes if one.status is Status.DONE]


def secret(value):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kiva-gateway-tls"}, "type": "Opaque", "data": {"tls.key": value}}


def test_a_first_deploy_brings_everything_up_and_a_second_has_nothing_to_do(site):
    plan = site.target.plan(ONE, "deploy kiva on kubernetes")
    assert changes(plan) == [(Verb.CREATE, "monitoring"), (Verb.CREATE, "engine smollm2"), (Verb.CREATE, "gateway")]
    outcomes = site.deploy(ONE)
    assert done(outcomes) == ["monitoring", "engine smollm2", "gateway"]
    assert (site.ready("kiva-smollm2"), site.ready("kiva-gateway")) == (1, 2)
    before = len(site.api.writes())
    again = site.target.plan(ONE, "again")
    assert (again.changes, again.notes) == ((), ())
    assert done(site.target.apply(ONE)) == []
    assert site.revision("kiva-smollm2") == 1
    assert {one.kind_name for one in site.api.writes()[before:]} == {"Lease", "ConfigMap"}


def test_a_plan_changes_nothing(site):
    site.deploy(ONE)
    before = len(site.api.writes())
    site.target.plan(desired(engine("smollm2", image={"reference": OTHER}), engine("other")), "x")
    assert site.api.writes()[before:] == []


def test_another_image_is_shown_and_rolled_out_beside_the_old_one(site):
    site.deploy(ONE)
    wanted = desired(engine("smollm2", image={"reference": OTHER}))
    (change,) = site.target.plan(wanted, "x").changes
    assert (change.verb, change.subject, change.disruption) == (Verb.REPLACE, "engine smollm2", "")
    assert change.differences == (Difference("Deployment kiva-smollm2 containers.engine.image", IMAGE, OTHER),)
    site.deploy(wanted)
    assert (site.image(), site.ready(), site.revision("kiva-smollm2")) == (OTHER, 1, 2)


def test_without_a_free_gpu_the_plan_tells_the_outage_and_the_rollout_recreates(site):
    both = desired(engine("smollm2"), engine("other"))
    site.deploy(both)
    wanted = desired(engine("smollm2", image={"reference": OTHER}), engine("other"))
    (change,) = site.target.plan(wanted, "x").changes
    assert change.disruption.startswith("smollm2: about ")
    assert change.disruption.endswith(" without answers: no free GPU for a second pod")
    site.deploy(wanted)
    deployment = site.api.get("Deployment", "kiva-smollm2", NAMESPACE)
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert site.target.plan(wanted, "x").changes == ()
    # The other one goes, a GPU is free: no reason to change anything, until something else changes.
    site.deploy(desired(engine("smollm2", image={"reference": OTHER})))
    assert site.target.plan(desired(engine("smollm2", image={"reference": OTHER})), "x").changes == ()
    site.deploy(ONE)
    assert site.api.get("Deployment", "kiva-smollm2", NAMESPACE)["spec"]["strategy"]["type"] == "RollingUpdate"


def test_what_cannot_fit_is_refused_before_anything_is_written(site):
    site.deploy(ONE)
    before = len(site.api.writes("Secret"))
    wanted = desired(engine("smollm2"), engine("large", gpus=4))
    with pytest.raises(PreconditionError) as failure:
        site.target.plan(wanted, "x")
    assert failure.value.message == "'large' needs 4 nvidia.com/gpu on one node; the largest node has 2"
    with pytest.raises(PreconditionError, match="needs 4"):
        list(site.target.apply(wanted))
    assert len(site.api.writes("Secret")) == before


def test_a_new_model_is_served_before_the_gateway_names_it_and_one_that_goes_is_forgotten_first(site):
    site.deploy(desired(engine("old")))
    wanted = desired(engine("new"))
    plan = site.target.plan(wanted, "x")
    assert changes(plan) == [(Verb.CREATE, "engine new"), (Verb.UPDATE, "gateway"), (Verb.DELETE, "release kiva-old")]
    assert plan.changes[2].disruption == "'old' is not served any more"
    assert done(site.deploy(wanted)) == ["engine new", "gateway", "release kiva-old"]
    assert site.api.get("Deployment", "kiva-old", NAMESPACE) is None


def test_where_its_place_is_needed_what_goes_goes_first(site):
    site.deploy(desired(engine("old", gpus=2)))
    wanted = desired(engine("new", gpus=2))
    plan = site.target.plan(wanted, "x")
    assert changes(plan) == [(Verb.UPDATE, "gateway"), (Verb.DELETE, "release kiva-old"), (Verb.CREATE, "engine new")]
    assert "what goes, goes first, for its place is needed: 'kiva-old'" in plan.notes
    assert done(site.deploy(wanted)) == ["gateway", "release kiva-old", "engine new"]


def test_other_replicas_are_no_exchange(site):
    site.deploy(ONE)
    wanted = desired(engine("smollm2", replicas=2))
    (change,) = site.target.plan(wanted, "x").changes
    assert (change.verb, change.differences) == (Verb.UPDATE, (Difference("Deployment kiva-smollm2 replicas", "1", "2"),))
    site.deploy(wanted)
    assert site.ready() == 2


def test_other_routes_are_shown_by_what_they_mean(site):
    site.deploy(ONE)
    wanted = desired(engine("smollm2"), gateway=gateway("smollm2", "alias"))
    (change,) = site.target.plan(wanted, "x").changes
    assert change.subject == "gateway"
    assert change.differences == (Difference("ConfigMap kiva-gateway-routes routes.json: gateway.models", '["smollm2"]', '["smollm2", "alias"]'),)


def test_a_secret_is_applied_before_all_else_and_its_value_is_nowhere(site):
    wanted = replace(ONE, objects=(secret("c2VjcmV0LXZhbHVl"),))
    plan = site.target.plan(wanted, "x")
    assert changes(plan)[0] == (Verb.CREATE, "Secret kiva-gateway-tls")
    outcomes = site.deploy(wanted)
    assert outcomes[0].step == "Secret kiva-gateway-tls"
    other = site.target.plan(replace(ONE, objects=(secret("b3RoZXItdmFsdWU="),)), "x")
    assert other.changes[0].differences[0].after == "changed"
    told = repr((plan, outcomes, other, wanted, site.api.list("ConfigMap")))
    assert "c2VjcmV0LXZhbHVl" not in told
    assert "b3RoZXItdmFsdWU" not in told


def test_a_plan_that_no_longer_holds_has_another_basis(site):
    before = site.target.plan(ONE, "x").basis
    assert site.target.plan(ONE, "x").basis == before
    site.deploy(desired(engine("other")))
    assert site.target.plan(ONE, "x").basis != before


def test_the_record_says_who_deployed_what(site):
    site.deploy(ONE, "digest-1")
    record = site.target.record()
    assert (record.platform, record.endpoint, record.unfinished) == ("kiva", "https://llm.example.org/v1", None)
    (deploy,) = record.deploys
    assert (deploy.number, deploy.spec, deploy.releases) == (1, "digest-1", {"kiva-gateway": 1, "kiva-monitoring": 1, "kiva-smollm2": 1})
    assert "kiva-smollm2" in record.ready_s


def test_stop_ends_the_gateway_before_the_engines_and_start_brings_back_as_many(site):
    site.deploy(desired(engine("smollm2", replicas=2)))
    assert done(site.target.stop()) == ["gateway", "engine smollm2"]
    assert (site.ready("kiva-gateway"), site.ready("kiva-smollm2")) == (0, 0)
    assert site.target.record().stopped_at
    assert any("was stopped at" in note for note in site.target.plan(desired(engine("smollm2", replicas=2)), "x").notes)
    assert done(site.target.start()) == ["engine smollm2", "gateway"]
    assert (site.ready("kiva-gateway"), site.ready("kiva-smollm2")) == (2, 2)
    assert site.target.record().stopped_at == ""
    assert site.target.plan(desired(engine("smollm2", replicas=2)), "x").changes == ()


def pods(site, release="kiva-smollm2"):
    """Names of the pods of a release that are not being ended."""
    there = [pod["metadata"] for pod in site.api.list("Pod", NAMESPACE)]
    return {one["name"] for one in there if one["labels"]["app.kubernetes.io/instance"] == release and "deletionTimestamp" not in one}


def test_a_model_is_restarted_pod_by_pod_and_a_pod_by_its_name(site):
    site.deploy(ONE)
    (first,) = pods(site)
    assert done(site.target.restart(["smollm2"])) == ["engine smollm2"]
    (second,) = pods(site)
    assert second != first
    assert done(site.target.restart([second])) == ["engine smollm2"]
    assert site.ready() == 1
    assert second not in pods(site)
    with pytest.raises(UsageError, match="no model or pod named 'qwen'"):
        list(site.target.restart(["qwen"]))
    assert site.target.drift() == ()


def test_pods_that_get_requests_are_alive(site):
    site.deploy(ONE)
    assert len(site.target.alive()) == 3


def test_nothing_deployed_is_said(site):
    with pytest.raises(PreconditionError, match="nothing of 'kiva' is deployed in namespace kiva of cluster 'prod'"):
        list(site.target.stop())
    with pytest.raises(PreconditionError, match="cannot be taken out"):
        site.target.take_out(["smollm2-0"])


def test_routes_are_exchanged_alone(site):
    site.deploy(ONE)
    routes = {"resources": [{"name": "gateway", "models": ["other"]}]}
    assert site.target.gateway.route(routes).changed
    assert not site.target.gateway.route(routes).changed
    found = site.api.get("ConfigMap", "kiva-gateway-routes", NAMESPACE)
    assert json.loads(found["data"]["routes.json"]) == routes
    assert site.revision(GATEWAY) == 2


def test_the_way_back_to_an_earlier_deploy(site):
    site.deploy(ONE, "digest-1")
    site.deploy(desired(engine("smollm2", image={"reference": OTHER}), engine("more")), "digest-2")
    plan = site.target.plan_return(None, "back")
    assert changes(plan) == [(Verb.UPDATE, "gateway"), (Verb.DELETE, "release kiva-more"), (Verb.REPLACE, "engine smollm2")]
    assert plan.notes[0].startswith("deploy 1 was made at 2026-11-29T12:00:00+00:00 by ")
    assert done(site.target.go_back(None)) == ["gateway", "release kiva-more", "engine smollm2"]
    assert (site.image(), site.ready("kiva-more")) == (IMAGE, 0)
    newest = site.target.record().last
    assert (newest.number, newest.verb, newest.spec) == (3, "rollback to 1", "digest-1")
    assert site.target.plan(ONE, "x").changes == ()
    with pytest.raises(UsageError) as failure:
        site.target.plan_return(7, "back")
    assert failure.value.hint == "one of: 1, 2, 3"
    with pytest.raises(PreconditionError, match="deploy 2 cannot be had back: Helm no longer keeps its revision of kiva-more"):
        site.target.plan_return(2, "back")


def test_there_is_no_way_back_before_the_first_deploy(site):
    with pytest.raises(UsageError, match="no deploy to go back to"):
        site.target.plan_return(None, "back")


def test_a_missing_namespace_is_said_with_the_command_that_makes_it(site):
    site.api.remove("Namespace", NAMESPACE)
    with pytest.raises(PreconditionError) as failure:
        site.target.plan(ONE, "x")
    assert failure.value.hint == f"kubectl create namespace kiva --context prod --kubeconfig {site.kubeconfig}"


def test_another_platform_in_the_same_namespace_is_left_alone(site):
    site.deploy(ONE)
    other = replace(engine("foreign"), name="city-foreign", values={**engine("foreign").values, "platform": "city"})
    site.target.helm.install_or_upgrade(other.name, site.target.charts / other.chart, other.values)
    assert site.target.plan(ONE, "x").changes == ()


@pytest.mark.parametrize("version", LAYERS)
def test_every_supported_helm_deploys_changes_and_takes_back(site, tmp_path, monkeypatch, version):
    folder = tmp_path / version
    folder.mkdir()
    (folder / "helm").symlink_to(binary("helm", version))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert str(site.target.helm.version).startswith(version)
    site.deploy(ONE)
    wanted = desired(engine("smollm2", image={"reference": OTHER}))
    (change,) = site.target.plan(wanted, "x").changes
    assert change.differences == (Difference("Deployment kiva-smollm2 containers.engine.image", IMAGE, OTHER),)
    site.deploy(wanted)
    site.api.change("Deployment", "kiva-smollm2", {"spec": {"replicas": 2}}, NAMESPACE, "kubectl-scale")
    (drift,) = site.target.drift()
    assert drift.by == "kubectl-scale"
    site.kubelet.script(pods="kiva-smollm2-*", image="broken", trouble="ImagePullBackOff")
    with pytest.raises(NotReadyError, match="there is no image broken; it is back at revision 2"):
        list(site.target.apply(desired(engine("smollm2", image={"reference": "broken"}))))
    assert done(site.target.go_back(1)) == ["engine smollm2"]
    assert site.image() == IMAGE
    assert (site.target.plan(ONE, "x").changes, site.target.drift()) == ((), ())


def spec(**kubernetes):
    images = {"engine": IMAGE, "gateway": IMAGE}
    return Kubernetes.model_validate({"context": "prod", "images": images, **kubernetes})


def test_the_cluster_is_the_one_that_the_spec_names(site):
    target = open_kubernetes("kiva", spec(kubeconfig=str(site.kubeconfig)), Clock())
    assert (target.cluster.context, target.cluster.namespace, target.platform) == ("prod", "kiva", "kiva")
    with pytest.raises(PreconditionError, match="other"):
        open_kubernetes("kiva", spec(context="other", kubeconfig=str(site.kubeconfig)), Clock())
    with pytest.raises(PreconditionError, match="names no cluster"):
        open_kubernetes("kiva", None, Clock())


def test_within_one_process_the_lock_counts_for_everything_and_another_is_refused(site):
    first, second = (open_kubernetes("kiva", spec(kubeconfig=str(site.kubeconfig)), Clock()) for _ in range(2))
    with first.locked("runbook"), second.locked("deploy") as lease:
        lease.check()
        found = site.api.get("Lease", "kivactl-kiva", NAMESPACE)
        assert " runbook (pid " in found["spec"]["holderIdentity"]
    assert site.api.get("Lease", "kivactl-kiva", NAMESPACE)["spec"]["holderIdentity"] == ""


def test_without_a_permission_to_read_nodes_it_is_tried_and_said(site):
    site.api.admission.forbid("list", "nodes")
    plan = site.target.plan(ONE, "x")
    assert "the cluster's nodes may not be read: whether everything fits shows when it starts" in plan.notes
    site.deploy(ONE)
    assert site.ready() == 1

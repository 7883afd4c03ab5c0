"""Deploys to a cluster with the real Helm and the real charts: what is written, and what is not."""

from __future__ import annotations

import base64

import pytest
from cluster_platform import NAMESPACE, site
from cluster_specs import model

from kivactl.errors import CheckError, KivaError, PreconditionError
from kivactl.flows import verification
from kivactl.flows.cluster import apply_rollback, plan_rollback
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.plan import Status, Verb

pytestmark = pytest.mark.charts

AWAY = (503, {"error": {"message": "no healthy upstream"}})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "WITHIN_S", 10.0)
    with site(tmp_path, monkeypatch) as one:
        yield one


def changes(plan):
    return [(change.verb, change.subject) for change in plan.changes]


def done(outcomes):
    return [one.step for one in outcomes if one.status is Status.DONE]


def test_the_first_deploy_ends_with_a_token_of_each_model(place):
    outcomes = place.deploy(model("a"), model("b"))
    steps = done(outcomes)
    assert steps[:2] == ["Secret kiva-gateway-tls", "monitoring"]
    assert set(steps[2:4]) == {"engine a", "engine b"}
    assert steps[4:] == ["gateway", "verification"]
    assert sorted(place.gateway.asked) == [("a", True), ("b", True)]
    (deploy,) = place.record().deploys
    assert deploy.releases == dict.fromkeys(("kiva-a", "kiva-b", "kiva-gateway", "kiva-monitoring"), 1)


def test_the_certificate_goes_into_a_secret_and_no_key_into_helms_history(place):
    place.deploy()
    secret = place.api.get("Secret", "kiva-gateway-tls", NAMESPACE)
    assert secret["type"] == "kubernetes.io/tls"
    assert base64.b64decode(secret["data"]["tls.key"]) == place.operator.layout.certificate_key.read_bytes()
    private = [path.read_text().split("\n")[1] for path in (place.operator.layout.certificate_key, place.operator.layout.signing_key)]
    for one in (*place.api.list("ConfigMap", NAMESPACE), *place.api.list("Deployment", NAMESPACE)):
        assert not any(key in repr(one) for key in private)
    assert base64.b64encode(private[1].encode()).decode()[:40] not in repr(place.api.list("Secret", NAMESPACE))


def test_nothing_changed_is_nothing_to_do(place):
    place.deploy()
    before = len(place.api.writes())
    assert plan_deploy(place.deployment).empty
    assert place.api.writes()[before:] == []


def test_a_changed_option_concerns_one_release(place):
    place.deploy(model("a"), model("b"))
    before = len(place.api.writes())
    place.operator.spec(model("a", max_length=4096), model("b"))
    (change,) = plan_deploy(place.deployment).changes
    assert (change.verb, change.subject) == (Verb.REPLACE, "engine a")
    (difference,) = change.differences
    assert (difference.path, difference.after) == ("Deployment kiva-a containers.engine.command[8] (--max-model-len)", "4096")
    place.deploy(model("a", max_length=4096), model("b"))
    names = {one.name for one in place.api.writes()[before:] if one.kind_name not in {"Lease", "Secret"}} - {"kiva-kivactl"}
    assert names
    assert all(name.startswith("kiva-a") for name in names)
    assert place.record().deploys[-1].releases == {"kiva-a": 2, "kiva-b": 1, "kiva-gateway": 1, "kiva-monitoring": 1}


def test_a_model_that_is_removed_leaves_the_gateway_before_its_engine_goes(place):
    place.deploy(model("a"), model("b"))
    place.operator.spec(model("a"))
    plan = plan_deploy(place.deployment)
    assert changes(plan) == [(Verb.UPDATE, "monitoring"), (Verb.UPDATE, "gateway"), (Verb.DELETE, "release kiva-b")]
    assert plan.changes[-1].disruption == "'b' is not served any more"
    assert done(place.deploy(model("a"))) == ["monitoring", "gateway", "release kiva-b", "verification"]
    assert place.api.get("Deployment", "kiva-b", NAMESPACE) is None
    assert place.api.get("Deployment", "kiva-a", NAMESPACE) is not None


def test_a_failing_proof_leaves_the_deploy_unfinished_and_the_next_one_goes_on(place):
    place.deploy(model("a"))
    place.gateway.answer = AWAY
    with pytest.raises(CheckError) as failure:
        place.deploy(model("a", max_length=4096))
    assert failure.value.message == "no token came through the gateway within 10 s: no engine of 'a' answers at the moment: no healthy upstream"
    assert failure.value.hint == "look why: kivactl logs; on from here: kivactl deploy; back to deploy 1: kivactl rollback"
    assert place.record().unfinished.verb == "deploy"
    assert len(place.record().deploys) == 1
    place.gateway.answer = None
    plan = plan_deploy(place.deployment)
    assert changes(plan) == [(Verb.UPDATE, "verification")]
    assert plan.notes[0].startswith("an earlier deploy (")
    assert done(apply_deploy(place.deployment, plan)) == ["verification"]
    assert (place.record().unfinished, len(place.record().deploys)) == (None, 2)


def test_a_failing_proof_of_the_first_deploy_offers_no_way_back(place):
    place.gateway.answer = AWAY
    with pytest.raises(CheckError) as failure:
        place.deploy()
    assert "rollback" not in failure.value.hint


def test_from_an_unproved_deploy_back_leads_to_the_last_proved_one(place):
    place.deploy(model("a"))
    place.gateway.answer = AWAY
    with pytest.raises(CheckError):
        place.deploy(model("a", max_length=4096))
    place.gateway.answer = None
    plan = plan_rollback(place.deployment, None)
    assert changes(plan) == [(Verb.REPLACE, "engine a")]
    assert done(apply_rollback(place.deployment, None, plan)) == ["engine a", "verification"]
    assert "2048" in place.command_of("a")
    assert [one.verb for one in place.record().deploys] == ["deploy", "rollback to 1"]


def test_the_proof_waits_until_pods_see_what_was_written(place):
    place.gateway.answer = (404, {"error": {"message": "there is no model 'qwen'", "code": "model_not_found"}})
    plan = plan_deploy(place.deployment)
    seen = []
    for outcome in apply_deploy(place.deployment, plan):
        seen.append(outcome)
        if outcome.step == "verification" and outcome.status is Status.PROGRESS:
            assert "serves no model named 'qwen'" in outcome.message
            place.gateway.answer = None
    assert (seen[-1].step, seen[-1].status) == ("verification", Status.DONE)
    assert place.record().unfinished is None


def test_while_it_is_proved_nobody_else_deploys(place):
    outcomes = apply_deploy(place.deployment, plan_deploy(place.deployment))
    next(one for one in outcomes if one.step == "verification")
    assert place.api.get("Lease", "kivactl-kiva", NAMESPACE)["spec"]["holderIdentity"]
    list(outcomes)
    assert not place.api.get("Lease", "kivactl-kiva", NAMESPACE)["spec"]["holderIdentity"]


def test_without_keys_nothing_is_asked_of_the_cluster(place):
    place.operator.layout.signing_key.unlink()
    before = len(place.api.requests)
    with pytest.raises(PreconditionError) as failure:
        plan_deploy(place.deployment)
    assert (failure.value.message, failure.value.hint) == ("there are no keys and certificates for 'kiva' yet", "kivactl provision")
    assert len(place.api.requests) == before


def test_a_plan_that_no_longer_holds_is_refused(place):
    plan = plan_deploy(place.deployment)
    place.deploy()
    place.operator.spec(model("qwen", max_length=4096))
    with pytest.raises(PreconditionError, match="the platform changed since the plan was made"):
        list(apply_deploy(place.deployment, plan))


def test_a_missing_namespace_is_nobodys_to_make_by_a_typing_error(place):
    place.operator.spec(namespace="kvia")
    with pytest.raises(PreconditionError) as failure:
        plan_deploy(place.deployment)
    assert failure.value.message == "there is no namespace kvia in cluster 'prod'"
    assert failure.value.hint.startswith("kubectl create namespace kvia --context prod")
    assert place.api.get("Namespace", "kvia") is None


def test_a_forbidden_way_to_the_gateway_is_told_at_once(place):
    place.api.admission.forbid("*", "pods/portforward")
    with pytest.raises(KivaError) as failure:
        place.deploy()
    assert failure.value.message == "the account kiva lacks the permission to create pods/portforward in namespace kiva of cluster 'prod'"
    assert place.record().unfinished is not None

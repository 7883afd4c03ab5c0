"""The chart kiva-engine: when an engine starts, gets requests, is replaced and ends, alone or over several nodes."""

from __future__ import annotations

import pytest
from helm.charts import the
from helm.engine_release import PROBES, container, engine, environment, patience_s, pod, refusal

pytestmark = pytest.mark.charts

# When it starts and gets requests


@pytest.mark.parametrize("shape", ["minimal", "gpu", "multi-node"])
def test_only_a_generated_token_makes_an_engine_ready_and_keeps_it_alive(shape: str):
    for probe in PROBES:
        assert container(engine(shape))[probe]["httpGet"] == {"path": "/kiva/generating", "port": "http"}


@pytest.mark.parametrize("budget_s", [1, 10, 11, 278, 725, 5400])
def test_an_engine_has_the_time_to_start_that_its_model_needs(budget_s: int):
    manifests = engine(startup={"budgetSeconds": budget_s})
    assert budget_s <= patience_s(container(manifests)["startupProbe"]) < budget_s + 10
    assert the(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > budget_s


def test_a_download_does_not_use_up_the_time_to_start():
    with_load, without = engine("preload"), engine("preload", preload={"enabled": False})
    assert container(with_load) == container(without)
    assert [one["name"] for one in pod(with_load)["spec"]["initContainers"]] == ["wait"]
    assert "initContainers" not in pod(without)["spec"]
    assert "activeDeadlineSeconds" not in the(with_load, "Job")["spec"]


@pytest.mark.parametrize("after_s", [1, 5, 15, 16, 60, 600])
def test_a_stalled_engine_loses_its_requests_first_and_is_started_anew_after_four_times_as_long(after_s: int):
    probes = container(engine(stalled={"afterSeconds": after_s, "probeTimeoutSeconds": after_s + 1}))
    assert patience_s(probes["readinessProbe"]) < after_s + 5
    assert patience_s(probes["livenessProbe"]) >= max(4 * after_s, 60)


def test_the_kubelet_waits_longer_for_proof_than_the_engine_looks_for_it():
    for shape in ("minimal", "gpu"):
        own = container(engine(shape))
        assert all(own[probe]["timeoutSeconds"] > float(environment(own)["KIVA_PROBE_S"]) for probe in PROBES)
    assert "stalled.probeTimeoutSeconds" in refusal(stalled={"afterSeconds": 30, "probeTimeoutSeconds": 10})
    assert "stalled.probeTimeoutSeconds" in refusal(environment={"KIVA_PROBE_S": "10"})


def test_an_engine_that_stalled_or_never_started_is_not_given_the_time_to_finish():
    manifests = engine(drain={"seconds": 600})
    for probe in ("startupProbe", "livenessProbe"):
        assert container(manifests)[probe]["terminationGracePeriodSeconds"] == 30
    assert pod(manifests)["spec"]["terminationGracePeriodSeconds"] > 600


def test_gateways_see_only_engines_that_are_ready_and_the_usage_is_fetched_from_all():
    manifests = engine()
    for name, all_of_them in (("kiva-x", False), ("kiva-x-all", True)):
        service = the(manifests, "Service", name)["spec"]
        assert service["clusterIP"] == "None"
        assert service.get("publishNotReadyAddresses", False) is all_of_them
        assert [port["port"] for port in service["ports"]] == [8000]


# When it is replaced and ends


def test_a_replica_of_an_engine_is_replaced_only_after_the_new_one_has_generated():
    manifests = engine()
    assert the(manifests, "Deployment")["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert container(manifests)["readinessProbe"]["httpGet"]["path"] == "/kiva/generating"


def test_where_no_gpu_is_free_an_old_engine_goes_first():
    assert the(engine(strategy={"maxSurge": 0, "maxUnavailable": 1}), "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert the(engine("recreate"), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert the(engine("multi-node", strategy={"kind": "recreate"}), "LeaderWorkerSet")["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"] == {
        "maxSurge": 0,
        "maxUnavailable": "100%",
    }


def test_a_rollout_that_could_never_happen_is_refused():
    assert "strategy.maxSurge" in refusal(strategy={"maxSurge": 0, "maxUnavailable": 0})


@pytest.mark.parametrize(("settle_s", "drain_s"), [(1, 0), (15, 60), (5, 600), (60, 3600)])
def test_an_engine_is_killed_only_after_it_was_held_and_had_its_time_to_drain(settle_s: int, drain_s: int):
    manifests = engine(drain={"settleSeconds": settle_s, "seconds": drain_s})
    assert container(manifests)["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(settle_s)]
    assert pod(manifests)["spec"]["terminationGracePeriodSeconds"] == settle_s + drain_s + 15
    argv = container(manifests)["command"]
    assert argv[argv.index("--shutdown-timeout") + 1] == str(drain_s)


def test_an_engine_that_would_drain_longer_than_it_lives_is_refused():
    argv = ["python3", "-m", "vllm.entrypoints.openai.api_server", "--shutdown-timeout", "60"]
    assert container(engine(command=argv))["command"] == argv
    assert "drain.seconds" in refusal(command=[*argv[:-1], "61"])


def test_a_new_chart_that_changes_nothing_restarts_nothing():
    manifests = engine("gpu")
    assert "helm.sh/chart" in the(manifests, "Deployment")["metadata"]["labels"]
    assert not [key for key in pod(manifests)["metadata"]["labels"] if "chart" in key or "version" in key]


def test_other_weights_are_other_pods():
    assert pod(engine(model={"identity": "other"})) != pod(engine())


@pytest.mark.parametrize("key", ["replicas", "disruptionBudget", "networkPolicy", "strategy"])
def test_what_is_not_about_pods_restarts_none(key: str):
    change = {
        "replicas": 5,
        "disruptionBudget": {"enabled": False},
        "networkPolicy": {"monitoringNamespace": "x"},
        "strategy": {"maxSurge": 3},
    }[key]
    assert pod(engine(**{key: change})) == pod(engine())


# Several pods that are one engine


def test_of_two_pods_that_are_one_engine_only_the_first_gets_requests():
    manifests = engine("multi-node")
    group = the(manifests, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    for name in ("kiva-x", "kiva-x-all"):
        wanted = the(manifests, "Service", name)["spec"]["selector"].items()
        assert wanted <= group["leaderTemplate"]["metadata"]["labels"].items()
        assert not wanted <= group["workerTemplate"]["metadata"]["labels"].items()
    (worker,) = group["workerTemplate"]["spec"]["containers"]
    assert not {"ports", *PROBES} & worker.keys()


def test_the_service_of_a_group_is_not_the_engines_service():
    manifests = engine("multi-node")
    made_by_the_controller = the(manifests, "LeaderWorkerSet")["metadata"]["name"]
    assert made_by_the_controller not in {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Service"}


def test_the_first_pod_does_not_wait_for_itself_and_a_part_does_not_come_back_alone():
    spec = the(engine("multi-node"), "LeaderWorkerSet")["spec"]
    assert spec["startupPolicy"] == "LeaderCreated"
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"


def test_the_other_pods_of_an_engine_outlive_its_drain():
    worker = the(engine("multi-node", drain={"settleSeconds": 10, "seconds": 90}), "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    assert worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "100"]
    assert worker["terminationGracePeriodSeconds"] > 100


def test_the_pods_of_an_engine_know_each_other_and_only_the_first_serves():
    group = the(engine("multi-node", multiNode={"pods": 4}), "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    first, other = (group[part]["spec"]["containers"][0]["command"] for part in ("leaderTemplate", "workerTemplate"))
    for argv, rank in ((first, "0"), (other, "$(LWS_WORKER_INDEX)")):
        assert [argv[argv.index(option) + 1] for option in ("--nnodes", "--node-rank", "--master-addr")] == ["4", rank, "$(LWS_LEADER_ADDRESS)"]
    assert "--headless" not in first
    # The module of the API server reads --headless and serves all the same.
    assert other[:5] == ["python3", "-m", "vllm.entrypoints.cli.main", "serve", "--headless"]


def test_the_pods_of_an_engine_may_talk_to_each_other_and_those_of_others_not_to_them():
    policy = the(engine("multi-node"), "NetworkPolicy")["spec"]
    among_themselves = {"podSelector": policy["podSelector"]}
    assert {"from": [among_themselves]} in policy["ingress"]
    assert {"to": [among_themselves]} in policy["egress"]
    assert len(the(engine(), "NetworkPolicy")["spec"]["ingress"]) == 1


def test_an_engine_over_several_nodes_needs_what_all_of_them_can_have():
    assert "ReadWriteOnce" in refusal(shape="multi-node", storage={"access": "ReadWriteOnce"})
    assert "multiNode.workerCommand" in refusal(shape="multi-node", command=["vllm", "serve"])
    assert "at most 45" in refusal(shape="multi-node", release="k" * 46)
    assert engine("multi-node", "k" * 45)
    own = engine("multi-node", command=["first"], multiNode={"workerCommand": ["other"]})
    group = the(own, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert [group[part]["spec"]["containers"][0]["command"] for part in ("leaderTemplate", "workerTemplate")] == [["first"], ["other"]]

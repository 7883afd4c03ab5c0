"""The chart kiva-engine: what an engine gets of the cluster, who reaches it, and how many there are."""

from __future__ import annotations

import pytest
from helm.charts import Json, kinds, the
from helm.engine_release import container, engine, environment, pod, refusal

pytestmark = pytest.mark.charts

# What it gets


@pytest.mark.parametrize(
    ("shape", "resource", "count"),
    [
        ("gpu", "nvidia.com/gpu", 1),
        ("tensor-parallel", "nvidia.com/gpu", 4),
        ("mig", "nvidia.com/mig-3g.40gb", 1),
        ("time-slicing", "nvidia.com/gpu.shared", 1),
    ],
)
def test_an_engine_gets_the_gpus_it_asks_for(shape: str, resource: str, count: int):
    resources = container(engine(shape))["resources"]
    assert resources["requests"][resource] == resources["limits"][resource] == count


def test_an_engine_on_cpus_asks_for_no_gpu_and_is_not_slowed_down():
    resources = container(engine())["resources"]
    assert not [name for name in resources["requests"] if "/" in name]
    assert "cpu" not in resources["limits"]


def test_shared_memory_is_memory_of_its_own_size():
    (volume,) = [volume for volume in pod(engine("tensor-parallel"))["spec"]["volumes"] if volume["name"] == "shared-memory"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container(engine("tensor-parallel"))["volumeMounts"]


def test_an_engine_goes_where_it_is_told():
    spec = pod(engine("spread-and-priority", pullSecrets=["a", "b"], runtimeClass="nvidia", placement={"tolerations": [{"operator": "Exists"}]}))["spec"]
    assert spec["nodeSelector"] == {"kiva/pool": "gpu"}
    assert spec["priorityClassName"] == "kiva-engines"
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    (constraint,) = spec["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert constraint["matchLabelKeys"] == ["pod-template-hash"]


def test_nothing_is_said_about_nodes_when_nothing_was_asked():
    spec = pod(engine(placement={"spread": ""}))["spec"]
    assert not {"nodeSelector", "priorityClassName", "runtimeClassName", "tolerations", "imagePullSecrets", "topologySpreadConstraints"} & spec.keys()


def test_no_other_service_reaches_into_an_engines_environment():
    assert pod(engine())["spec"]["enableServiceLinks"] is False


def test_an_engine_looks_nothing_up_on_the_internet_and_writes_only_where_it_may():
    own = container(engine())
    told, mounts = environment(own), {mount["mountPath"] for mount in own["volumeMounts"] if not mount.get("readOnly")}
    assert told["HF_HUB_OFFLINE"] == "1"
    assert mounts == {"/tmp", "/cache", "/usage", "/dev/shm"}
    for variable in ("HOME", "VLLM_CACHE_ROOT", "KIVA_USAGE_LOG"):
        assert told[variable].startswith(tuple(mounts))


def test_the_pods_name_comes_before_the_variables_that_refer_to_it_and_the_users_word_counts():
    own = container(engine(environment={"AAA": "$(KIVA_REPLICA)", "HF_HUB_OFFLINE": "0"}))
    assert own["env"][0] == {"name": "KIVA_REPLICA", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert environment(own)["AAA"] == "$(KIVA_REPLICA)"
    assert environment(own)["HF_HUB_OFFLINE"] == "0"
    assert "environment.KIVA_REPLICA" in refusal(environment={"KIVA_REPLICA": "x"})


def test_secrets_come_by_reference():
    own = container(engine(secretEnvironment={"API_KEY": {"secret": "keys", "key": "api"}}))
    assert environment(own)["API_KEY"] == {"secretKeyRef": {"name": "keys", "key": "api"}}
    assert "API_KEY" in refusal(environment={"API_KEY": "x"}, secretEnvironment={"API_KEY": {"secret": "keys", "key": "api"}})


def test_an_external_store_fills_the_secret_that_the_job_reads():
    manifests = engine("external-secret")
    secret = the(manifests, "ExternalSecret")["spec"]
    assert secret["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "vault"}
    assert secret["data"] == [{"secretKey": "token", "remoteRef": {"key": "kiva/hub", "property": "token"}}]
    (load,) = the(manifests, "Job")["spec"]["template"]["spec"]["initContainers"]
    assert environment(load)["HF_TOKEN"]["secretKeyRef"] == {"name": secret["target"]["name"], "key": "token"}


# Who reaches it


def test_only_the_gateway_reaches_an_engine():
    policy = the(engine(), "NetworkPolicy")["spec"]
    gateway = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "kiva-gateway", "kiva/platform": "kiva"}}}
    assert policy["ingress"] == [{"from": [gateway], "ports": [{"protocol": "TCP", "port": 8000}]}]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    own = the(engine(networkPolicy={"gateway": {"a": "b"}}), "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert own == [{"podSelector": {"matchLabels": {"a": "b"}}}]


def test_prometheus_reaches_engines_only_when_its_namespace_is_named():
    senders = the(engine(networkPolicy={"monitoringNamespace": "watch"}), "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert senders[1:] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}]


def test_an_engine_resolves_names_only_when_there_is_somebody_to_reach_and_never_the_clouds_metadata():
    assert the(engine(), "NetworkPolicy")["spec"]["egress"] == []
    names, traces = the(engine("gpu"), "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert {"ipBlock": {"cidr": "169.254.0.0/16", "except": ["169.254.169.254/32"]}} in names["to"]
    assert traces["ports"] == [{"protocol": "TCP", "port": 4318}]


def test_renders_no_network_policy_when_the_cluster_has_its_own():
    assert "NetworkPolicy" not in kinds(engine("preload", networkPolicy={"enabled": False}))


# When nodes are drained


def test_renders_no_disruption_budget_when_there_is_one_engine():
    assert "PodDisruptionBudget" not in kinds(engine())
    assert "PodDisruptionBudget" not in kinds(engine(autoscaling={"kind": "hpa", "min": 1, "max": 1}))
    assert "PodDisruptionBudget" not in kinds(engine(replicas=2, disruptionBudget={"enabled": False}))


def test_a_drain_takes_one_engine_at_a_time_and_any_that_does_not_generate():
    spec = the(engine(replicas=2), "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_engines_that_may_become_several_are_protected_as_soon_as_they_are():
    assert the(engine("scale-to-zero"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


# How many there are


@pytest.mark.parametrize("shape", ["hpa", "keda", "scale-to-zero"])
def test_a_rollout_does_not_reset_what_the_autoscaler_decided(shape: str):
    assert "replicas" not in the(engine(shape), "Deployment")["spec"]
    assert "replicas" not in the(engine(shape, multiNode={"pods": 2}), "LeaderWorkerSet")["spec"]
    assert the(engine(), "Deployment")["spec"]["replicas"] == 1


def test_renders_no_autoscaler_when_the_number_is_fixed():
    assert not {"HorizontalPodAutoscaler", "ScaledObject"} & set(kinds(engine()))


def test_the_clusters_autoscaler_looks_at_waiting_requests_and_the_cache():
    spec = the(engine("hpa"), "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    metrics = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in spec["metrics"]}
    assert metrics == {"vllm_num_requests_waiting": "4", "vllm_kv_cache_usage_perc": "850m"}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600


@pytest.mark.parametrize(
    ("values", "target"),
    [({}, ("apps/v1", "Deployment", "kiva-x")), ({"multiNode": {"pods": 2}}, ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "kiva-x-lws"))],
)
@pytest.mark.parametrize(("shape", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_an_autoscaler_scales_the_engines_that_there_are(shape: str, kind: str, values: Json, target: tuple[str, str, str]):
    manifests = engine(shape, **values)
    found = the(manifests, kind)["spec"]["scaleTargetRef"]
    assert (found["apiVersion"], found["kind"], found["name"]) == target
    assert the(manifests, target[1], target[2])


def triggers(manifests: list[Json]) -> dict[str, Json]:
    """KEDA's triggers by name."""
    return {trigger["name"]: trigger["metadata"] for trigger in the(manifests, "ScaledObject")["spec"]["triggers"]}


def test_keda_asks_for_the_model_of_this_namespace_only():
    found = triggers(engine("keda"))
    assert found["waiting"]["query"] == 'sum(vllm:num_requests_waiting{namespace="kiva",model_name="qwen2.5-7b"})'
    assert found["waiting"]["threshold"] == "5"
    assert found["cache"]["threshold"] == "0.8"
    assert "demand" not in found


def test_a_model_that_is_away_comes_when_it_is_asked_for_and_stays_while_it_works():
    manifests = engine("scale-to-zero")
    spec, demand = the(manifests, "ScaledObject")["spec"], triggers(manifests)["demand"]
    assert spec["minReplicaCount"] == 0
    assert spec["cooldownPeriod"] == 1800
    # Nobody but the gateway knows of requests while there is no engine; requests that run for longer than that look are the engine's.
    assert 'envoy_cluster_upstream_rq_total{namespace="kiva",envoy_cluster_name="engine-qwen2.5-7b"}' in demand["query"]
    assert "vllm:num_requests_running" in demand["query"]
    assert demand["query"].count("or vector(0)") == 2
    assert demand["activationThreshold"] == "0"
    assert triggers(engine("scale-to-zero", autoscaling={"demand": "my_demand"}))["demand"]["query"] == "my_demand"


def test_without_prometheus_no_engine_is_taken_away():
    fallback = the(engine("scale-to-zero"), "ScaledObject")["spec"]["fallback"]
    assert fallback == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}

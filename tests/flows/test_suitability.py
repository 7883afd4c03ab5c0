"""What `doctor` asks of a cluster: everything that a spec needs there, said before a deploy fails on it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cluster_deployment import cluster_site
from cluster_site import NAMESPACE
from cluster_specs import cluster, model
from kube_api.kubelet import Kubelet
from kube_api.server import KubeApi

from kivactl.flows.findings import State
from kivactl.flows.suitability import examine, findings_of, kinds_for, permissions_for
from kivactl.spec.platform import Platform
from kivactl.tools.kube import Cluster, open_cluster
from kivactl.tools.kube_objects import Permission, Version

POLICIES = "network policies"


@pytest.fixture
def api():
    with KubeApi() as api:
        api.namespace(NAMESPACE)
        kubelet = Kubelet(api)
        kubelet.node("gpu-1", gpus=2, labels={"kiva/pool": "gpu"})
        kubelet.storage_class("fast", default=True)
        yield api
        assert api.crashes == []


def platform(cluster_values=None, *models, **more) -> Platform:
    content = {"name": "kiva", "target": "kubernetes", "kubernetes": cluster(**(cluster_values or {})), "models": list(models) or [model()], **more}
    return Platform.model_validate(content)


def look(api, tmp_path, spec=None):
    spec = spec or platform()
    found = open_cluster("prod", NAMESPACE, api.kubeconfig(tmp_path / "kubeconfig", "prod"))
    findings = list(examine(spec, spec.kubernetes, found))
    assert len({one.name for one in findings}) == len(findings)
    assert all(one.remedy for one in findings if one.state is not State.OK)
    return {one.name: one for one in findings}


def test_a_cluster_that_has_everything(api, tmp_path):
    findings = look(api, tmp_path)
    assert {name for name, one in findings.items() if one.state is not State.OK} == {POLICIES}
    assert findings["nvidia.com/gpu"].found == "2 on 1 node"
    assert findings["storage class"].found == "fast, the default"
    assert findings["API server"].found.startswith("v1.")
    assert "cannot be seen from here" in findings[POLICIES].found
    assert POLICIES not in look(api, tmp_path, platform({"network_policies": False}))
    assert {one.kind_name for one in api.writes()} <= {"SelfSubjectAccessReview"}


@pytest.mark.parametrize(("minor", "age"), [(34, "older"), (35, ""), (37, ""), (38, "newer")])
def test_the_version(api, tmp_path, monkeypatch, minor, age):
    monkeypatch.setattr(Cluster, "version", lambda self: Version(1, minor, f"v1.{minor}.0"))
    finding = look(api, tmp_path)["API server"]
    assert finding.state is (State.WARNING if age else State.OK)
    assert (f"v1.{minor}.0, which is {age}: kivactl is proved with 1.35 to 1.37" == finding.found) is bool(age)


def test_permissions_that_are_missing_stand_in_one_line(api, tmp_path):
    api.admission.forbid("create", "deployments")
    api.admission.forbid("patch", "networkpolicies")
    api.admission.forbid("list", "nodes")
    findings = look(api, tmp_path)
    assert findings["permissions"].state is State.MISSING
    assert findings["permissions"].found == "missing: create deployments.apps, patch networkpolicies.networking.k8s.io"
    assert (findings["permissions to look"].state, findings["permissions to look"].found) == (State.WARNING, "missing: list nodes")
    assert findings["GPUs"].state is State.WARNING


def test_only_what_the_spec_needs_is_asked_for():
    def verbs(spec):
        return {(one.verb, one.kind) for one in permissions_for(spec, spec.kubernetes)}

    least = platform(
        {"network_policies": False, "ledger_secret": "db", "storage": {"kind": "host-path", "path": "/srv", "preload": False}},
        usage={"ledger": "postgresql://k@db/k"},
    )
    assert not {"NetworkPolicy", "PersistentVolumeClaim", "Job", "HorizontalPodAutoscaler", "Ingress"} & {kind for _, kind in verbs(least)}
    most = platform({"gateway": {"expose": "ingress", "host": "llm.example.org"}}, model(kubernetes={"autoscale": {"min": 1, "max": 2}}))
    for kind in ("NetworkPolicy", "PersistentVolumeClaim", "Job", "HorizontalPodAutoscaler", "Ingress", "Secret"):
        assert ("create", kind) in verbs(most), kind
    assert Permission("create", "Pod", subresource="exec") in permissions_for(most, most.kubernetes)


def test_no_namespace(tmp_path):
    with KubeApi() as api:
        finding = look(api, tmp_path)[f"namespace {NAMESPACE}"]
    assert (finding.state, finding.remedy) == (State.MISSING, "kubectl --context prod create namespace kiva")


def test_a_namespace_that_may_not_be_seen(api, tmp_path):
    api.admission.forbid("get", "namespaces")
    assert look(api, tmp_path)[f"namespace {NAMESPACE}"].state is State.WARNING


@pytest.mark.parametrize(
    ("values", "name", "state"),
    [
        ({"storage": {"class_name": "fast", "size": "1GiB"}}, "storage class fast", State.OK),
        ({"storage": {"class_name": "slow", "size": "1GiB"}}, "storage class slow", State.MISSING),
        ({"storage": {"claim": "models"}}, "claim models", State.MISSING),
    ],
)
def test_storage(api, tmp_path, values, name, state):
    assert look(api, tmp_path, platform(values))[name].state is state


def test_no_default_class(tmp_path):
    with KubeApi() as api:
        api.namespace(NAMESPACE)
        Kubelet(api).storage_class("slow")
        finding = look(api, tmp_path)["storage class"]
    assert (finding.state, finding.found) == (State.MISSING, "the cluster has no default")
    assert finding.remedy == "name one by `kubernetes.storage.class_name` in kiva.yaml; there are: slow"


def test_nothing_of_claims_where_none_is_made(api, tmp_path):
    spec = platform({"ledger_secret": "db", "storage": {"kind": "host-path", "path": "/srv"}}, usage={"ledger": "postgresql://kiva@db/kiva"})
    assert not [name for name in look(api, tmp_path, spec) if name.startswith(("storage", "claim"))]


@pytest.mark.parametrize(
    ("gpu", "nodes", "state", "said"),
    [
        ({"count": 2}, None, State.OK, "2 on 1 node"),
        ({"count": 4}, None, State.MISSING, "no ready node of its pool has enough for one pod of qwen"),
        ({"resource": "nvidia.com/mig-3g.40gb"}, None, State.MISSING, "0 on 0 nodes"),
        ({"count": 1}, {"pool": {"select": {"kiva/pool": "gpu"}}}, State.OK, "2 on 1 node"),
        ({"count": 1}, {"pool": {"select": {"kiva/pool": "other"}}}, State.MISSING, "no ready node of its pool"),
    ],
)
def test_gpus(api, tmp_path, gpu, nodes, state, said):
    on = {"gpu": gpu, **({"nodes": "pool"} if nodes else {})}
    parallel = {"engine": {"tensor-parallel-size": gpu["count"]}} if gpu.get("count", 1) > 1 else {}
    finding = look(api, tmp_path, platform({"nodes": nodes or {}}, model(kubernetes=on, **parallel)))[gpu.get("resource", "nvidia.com/gpu")]
    assert finding.state is state
    assert said in finding.found


def test_no_gpus_are_looked_for_where_none_are_wanted(api, tmp_path):
    spec = platform({}, model(kv_cache="1GiB", kubernetes={"gpu": {"count": 0}}))
    assert not [name for name in look(api, tmp_path, spec) if "gpu" in name.lower()]


NEEDS = {
    "cert-manager": ({"gateway": {"certificate": "cert-manager:ca", "host": "llm.example.org", "expose": "load-balancer"}}, {}),
    "Gateway API: TLSRoute": ({"gateway": {"expose": "gateway-api", "host": "llm.example.org", "class_name": "infra/main"}}, {}),
    "Prometheus operator: ServiceMonitor": ({"monitoring": {"style": "operator"}}, {}),
    "External Secrets": ({"secrets": "external:vault"}, {}),
    "KEDA": ({"monitoring": {"prometheus": "http://prometheus:9090"}}, {"kubernetes": {"autoscale": {"by": "keda", "min": 0, "max": 2}}}),
    "LeaderWorkerSet": ({}, {"kubernetes": {"pods_per_replica": 2}, "engine": {"tensor-parallel-size": 2}}),
}


@pytest.mark.parametrize("name", NEEDS)
def test_kinds_that_somebody_has_to_install(tmp_path, name):
    values, of_model = NEEDS[name]
    spec = platform(values, model(**of_model))
    assert name in kinds_for(spec, spec.kubernetes)
    assert not kinds_for(platform(), platform().kubernetes)
    for custom, state in (((), State.MISSING), (None, State.OK)):
        with KubeApi(**({} if custom is None else {"custom": custom})) as api:
            api.namespace(NAMESPACE)
            finding = look(api, tmp_path, spec)[name]
        assert finding.state is state
        assert ("the cluster does not know" in finding.found) is (state is State.MISSING)


def test_secrets_that_the_spec_names(api, tmp_path):
    spec = platform(
        {"pull_secrets": ["registry"], "ledger_secret": "db", "storage": {"size": "1GiB", "hub_secret": "hub"}}, usage={"ledger": "postgresql://k@db/k"}
    )
    api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry"}}, NAMESPACE)
    findings = look(api, tmp_path, spec)
    assert {name: findings[f"Secret {name}"].state for name in ("registry", "db", "hub")} == {"registry": State.OK, "db": State.MISSING, "hub": State.MISSING}


def test_a_cluster_that_does_not_answer(tmp_path):
    api = KubeApi()
    api.start()
    config = api.kubeconfig(tmp_path / "kubeconfig", "prod")
    api.stop()
    spec = platform()
    clockless = open_cluster("prod", NAMESPACE, config).impatient(0.1)
    (finding,) = examine(spec, spec.kubernetes, clockless)
    assert (finding.name, finding.state) == ("API server", State.MISSING)


def test_no_such_context(tmp_path):
    with KubeApi() as api:
        config = api.kubeconfig(tmp_path / "kubeconfig", "other")
        *_, finding = findings_of(platform({"kubeconfig": str(config)}))
    assert (finding.name, finding.state) == ("kubeconfig", State.MISSING)
    assert "other" in finding.remedy


@pytest.mark.charts
def test_the_whole_command(tmp_path, monkeypatch):
    with cluster_site(tmp_path, monkeypatch) as site:
        code = "import sys; from kivactl.__main__ import main; sys.exit(main())"
        child = subprocess.run([sys.executable, "-c", code, "-o", "json", "doctor"], cwd=site.path.parent, capture_output=True, text=True, check=False)
        found = {one["name"]: one for one in json.loads(child.stdout)}
    assert found["kubeconfig"]["found"].startswith("context prod, http")
    assert found["Helm"]["state"] == "ok"
    assert found["permissions"]["state"] == "ok"
    assert "port 4000" not in found

"""The objects of Argo CD, Flux and helmfile: which chart and values they name, in which order, and that all of them lead to the same."""

from __future__ import annotations

import posixpath
from typing import Any

import pytest

from kivactl.stack.kubernetes.gitops import (
    IN_CLUSTER,
    Environment,
    Source,
    argocd_for,
    chart_folder,
    flux_for,
    helmfile_for,
    namespace_for,
    umbrella_for,
    values_file,
)
from kivactl.stack.kubernetes.releases import ChartRelease

GIT = Source(repository="https://git.example.org/kiva.git", revision="main", path="deploy")
REGISTRY = Source(repository="https://git.example.org/kiva.git", path="deploy", charts="oci://registry.example.org/charts", secret="pull", destination="prod")


def release(name: str, chart: str, order: int, **values: Any) -> ChartRelease:
    return ChartRelease(name, chart, "kiva", values, order)


def environment(name: str = "prod", **changes: Any) -> Environment:
    releases = (
        release("kiva-a", "kiva-engine", 0, replicas=3, startup={"budgetSeconds": 600}, drain={"seconds": 60}),
        release("kiva-b", "kiva-engine", 0, replicas=1),
        release("kiva-gateway", "kiva-gateway", 1),
        release("kiva-monitoring", "kiva-monitoring", 2),
    )
    versions = {"kiva-engine": "1.2.3", "kiva-gateway": "0.4.0", "kiva-monitoring": "0.1.0"}
    return Environment(
        **{
            "name": name,
            "platform": "kiva",
            "context": "c",
            "namespace": "kiva",
            "pod_security": "restricted",
            "releases": releases,
            "versions": versions,
            **changes,
        }
    )


def test_argo_cd_reads_chart_and_values_from_the_rendered_folder():
    files = argocd_for(environment(), GIT)
    assert sorted(files) == ["platform.yaml", "releases/kiva-a.yaml", "releases/kiva-b.yaml", "releases/kiva-gateway.yaml", "releases/kiva-monitoring.yaml"]
    source = files["releases/kiva-a.yaml"]["spec"]["source"]
    assert source["path"] == "deploy/charts/kiva-engine"
    (values,) = source["helm"]["valueFiles"]
    assert posixpath.normpath(f"{source['path']}/{values}") == GIT.inside(values_file("prod", "kiva-a"))
    assert source["helm"]["releaseName"] == "kiva-a"
    assert files["platform.yaml"]["spec"]["source"]["path"] == "deploy/prod/argocd/releases"


def test_argo_cd_takes_charts_from_a_registry_and_values_from_git():
    chart, values = argocd_for(environment(), REGISTRY)["releases/kiva-a.yaml"]["spec"]["sources"]
    assert (chart["repoURL"], chart["chart"], chart["targetRevision"]) == ("registry.example.org/charts", "kiva-engine", "1.2.3")
    assert chart["helm"]["valueFiles"] == ["$values/deploy/prod/values/kiva-a.yaml"]
    assert (values["ref"], values["repoURL"]) == ("values", REGISTRY.repository)


def test_argo_cd_rolls_out_where_it_is_told_but_keeps_its_own_objects():
    files = argocd_for(environment(), REGISTRY)
    assert files["platform.yaml"]["spec"]["destination"] == {"server": IN_CLUSTER, "namespace": "argocd"}
    assert files["releases/kiva-a.yaml"]["spec"]["destination"] == {"name": "prod", "namespace": "kiva"}
    assert argocd_for(environment(), GIT)["releases/kiva-a.yaml"]["spec"]["destination"] == {"server": IN_CLUSTER, "namespace": "kiva"}


def test_argo_cd_keeps_the_order_and_heals_nothing_by_itself():
    made = [file for name, file in argocd_for(environment(), GIT).items() if name.startswith("releases/")]
    assert [one["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] for one in made] == ["0", "0", "1", "2"]
    assert all(one["spec"]["syncPolicy"]["automated"] == {"prune": True, "selfHeal": False} for one in made)
    labelled = [one["metadata"]["name"] for one in made if "managedNamespaceMetadata" in one["spec"]["syncPolicy"]]
    assert labelled == ["prod-kiva-a"], "one of them says what the namespace admits"


def test_flux_reads_chart_and_values_from_git():
    files = flux_for(environment(), GIT)
    chart = files["releases/kiva-a.yaml"]["spec"]["chart"]["spec"]
    assert chart["chart"] == "./deploy/charts/kiva-engine"
    assert chart["valuesFiles"] == ["./deploy/charts/kiva-engine/values.yaml", "./deploy/prod/values/kiva-a.yaml"]
    assert chart["reconcileStrategy"] == "Revision", "new values without a new version of the chart are rolled out too"
    assert chart["sourceRef"]["name"] == files["source.yaml"]["metadata"]["name"] == files["platform.yaml"]["spec"]["sourceRef"]["name"]
    assert "values" not in files["releases/kiva-a.yaml"]["spec"]
    assert "secretRef" not in files["source.yaml"]["spec"]


def test_flux_takes_charts_from_a_registry():
    files = flux_for(environment(), REGISTRY)
    source = files["releases/chart-kiva-engine.yaml"]
    assert (source["spec"]["url"], source["spec"]["ref"]) == ("oci://registry.example.org/charts/kiva-engine", {"tag": "1.2.3"})
    spec = files["releases/kiva-a.yaml"]["spec"]
    assert spec["chartRef"] == {"kind": "OCIRepository", "name": source["metadata"]["name"]}
    assert spec["values"]["replicas"] == 3
    assert source["spec"]["secretRef"] == files["source.yaml"]["spec"]["secretRef"] == {"name": "pull"}


def test_flux_waits_for_what_comes_before():
    files = flux_for(environment(), GIT)
    waits = {name: [one["name"] for one in file["spec"].get("dependsOn", [])] for name, file in files.items() if file["kind"] == "HelmRelease"}
    assert waits == {
        "releases/kiva-a.yaml": [],
        "releases/kiva-b.yaml": [],
        "releases/kiva-gateway.yaml": ["prod-kiva-a", "prod-kiva-b"],
        "releases/kiva-monitoring.yaml": ["prod-kiva-gateway"],
    }
    listed = files["releases/kustomization.yaml"]["resources"]
    assert sorted(f"releases/{name}" for name in [*listed, "kustomization.yaml"]) == sorted(name for name in files if name.startswith("releases/"))


@pytest.mark.parametrize("source", [GIT, REGISTRY], ids=["git", "registry"])
def test_helmfile_needs_what_comes_before_and_finds_its_files(source):
    made = helmfile_for(environment(), source)
    assert made["helmDefaults"]["kubeContext"] == "c"
    by_name = {one["name"]: one for one in made["releases"]}
    assert by_name["kiva-gateway"]["needs"] == ["kiva/kiva-a", "kiva/kiva-b"]
    assert "needs" not in by_name["kiva-a"]
    assert posixpath.normpath(f"prod/{by_name['kiva-a']['values'][0]}") == values_file("prod", "kiva-a")
    if source is GIT:
        assert posixpath.normpath(f"prod/{by_name['kiva-a']['chart']}") == chart_folder("kiva-engine")
    else:
        assert (by_name["kiva-a"]["chart"], by_name["kiva-a"]["version"]) == ("oci://registry.example.org/charts/kiva-engine", "1.2.3")


def test_a_rollout_has_the_time_that_all_its_replicas_need_one_after_the_other():
    timeouts = {one["name"]: one["timeout"] for one in helmfile_for(environment(), GIT)["releases"]}
    assert timeouts == {"kiva-a": 3 * 660 + 60, "kiva-b": 600, "kiva-gateway": 600, "kiva-monitoring": 600}
    assert flux_for(environment(), GIT)["releases/kiva-a.yaml"]["spec"]["timeout"] == "2040s"
    assert umbrella_for(environment(), GIT)["releases"][0]["timeoutSeconds"] == 2040


def test_a_path_at_the_root_of_the_repository():
    source = Source(repository="https://git.example.org/kiva.git")
    assert argocd_for(environment(), source)["releases/kiva-a.yaml"]["spec"]["source"]["path"] == "charts/kiva-engine"
    assert flux_for(environment(), source)["platform.yaml"]["spec"]["path"] == "./prod/flux/releases"
    assert umbrella_for(environment(), source)["charts"] == {"repository": source.repository, "revision": "main", "path": "charts"}


def test_names_of_objects_fit_and_stay_apart():
    where = environment("a-very-long-name-of-an-environment")
    names = [where.object_name(f"{'r' * 40}-{number}") for number in range(20)]
    assert max(map(len, names)) <= 63
    assert len(set(names)) == len(names)
    assert where.object_name("kiva") == "a-very-long-name-of-an-environment-kiva"


def test_the_namespace_outlives_flux():
    made = namespace_for(environment())
    assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert made["metadata"]["annotations"] == {"kustomize.toolkit.fluxcd.io/prune": "disabled"}

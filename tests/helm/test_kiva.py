"""The umbrella chart: the same objects as `kivactl render` writes as files, for both controllers."""

from __future__ import annotations

import pytest
from helm.charts import Refused, kinds, notes, render, the

from kivactl.stack.kubernetes.gitops import Environment, Source, argocd_for, flux_for, umbrella_for
from kivactl.stack.kubernetes.releases import ChartRelease

pytestmark = pytest.mark.charts

REGISTRY = Source(repository="https://git.example.org/kiva.git", charts="oci://registry.example.org/charts", destination="prod", secret="pull")
GIT = Source(repository="https://git.example.org/kiva.git", path="deploy", destination="https://10.0.0.1:6443")


def environment(name: str = "prod") -> Environment:
    releases = (
        ChartRelease("kiva-a", "kiva-engine", "kiva", {"replicas": 2, "startup": {"budgetSeconds": 900}, "command": ["python3", "--flag"]}, 0),
        ChartRelease(f"kiva-{'b' * 45}", "kiva-engine", "kiva", {"replicas": 1}, 0),
        ChartRelease("kiva-gateway", "kiva-gateway", "kiva", {"files": {"a.json": '{"a": {{ 1 }}}'}}, 1),
        ChartRelease("kiva-monitoring", "kiva-monitoring", "kiva", {}, 2),
    )
    versions = {"kiva-engine": "1.2.3", "kiva-gateway": "0.4.0", "kiva-monitoring": "0.1.0"}
    return Environment(name, "kiva", "context", "kiva", "restricted", releases, versions)


def without_labels(manifest):
    return {**manifest, "metadata": {key: value for key, value in manifest["metadata"].items() if key != "labels"}}


@pytest.mark.parametrize("name", ["prod", "an-environment-with-a-name-that-is-far-too-long-for-all-of-it"])
def test_flux_gets_what_the_rendered_files_say(name):
    where = environment(name)
    made = render("kiva", {**umbrella_for(where, REGISTRY), "controller": "flux"})
    files = {(file["kind"], file["metadata"]["name"]): file for file in flux_for(where, REGISTRY).values() if "metadata" in file}
    assert kinds(made) == ["HelmRelease"] * 4 + ["OCIRepository"] * 3
    for manifest in made:
        assert without_labels(manifest) == without_labels(files[manifest["kind"], manifest["metadata"]["name"]])


@pytest.mark.parametrize("source", [REGISTRY, GIT], ids=["registry", "git"])
def test_argo_cd_gets_what_the_rendered_files_say_with_the_values_inside(source):
    where = environment()
    made = {manifest["metadata"]["name"]: manifest for manifest in render("kiva", umbrella_for(where, source))}
    for release in where.releases:
        file = argocd_for(where, source)[f"releases/{release.name}.yaml"]
        manifest = made[file["metadata"]["name"]]
        own = manifest["spec"].pop("source")
        (theirs,) = [one for one in [*file["spec"].pop("sources", []), file["spec"].pop("source", None)] if one and "helm" in one]
        assert own["helm"].pop("valuesObject") == release.values
        assert theirs["helm"].pop("valueFiles")
        assert own == theirs
        assert without_labels(manifest) == without_labels(file)


def test_flux_from_git():
    made = render("kiva", {**umbrella_for(environment(), GIT), "controller": "flux"})
    assert kinds(made) == ["GitRepository"] + ["HelmRelease"] * 4
    chart = the(made, "HelmRelease", "prod-kiva-a")["spec"]["chart"]["spec"]
    assert chart == {"chart": "./deploy/charts/kiva-engine", "reconcileStrategy": "Revision", "sourceRef": {"kind": "GitRepository", "name": "prod-kiva"}}


def test_nothing_is_made_of_nothing():
    assert render("kiva") == []
    assert "`releases` is empty" in notes("kiva")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"releases": [{"name": "a", "chart": "kiva-engine", "version": "1.0.0"}]}, "charts.repository"),
        ({"charts": {"repository": "oci://x"}, "releases": [{"name": "a", "chart": "kiva-engine", "version": "1.0.0"}] * 2}, "two are named a"),
        (
            {
                "controller": "flux",
                "charts": {"repository": "oci://x"},
                "releases": [{"name": "a", "chart": "kiva-engine", "version": "1.0.0"}, {"name": "b", "chart": "kiva-engine", "version": "1.0.1"}],
            },
            "two versions of the chart kiva-engine",
        ),
        ({"releases": [{"name": "a", "chart": "nginx", "version": "1.0.0"}]}, "schema"),
        ({"controller": "jenkins"}, "schema"),
        ({"releases": [{"name": "a", "chart": "kiva-engine", "version": "latest"}]}, "schema"),
    ],
    ids=["nowhere", "twice", "two-versions", "foreign-chart", "foreign-controller", "no-version"],
)
def test_what_would_roll_out_nothing_or_anything_is_refused(values, message):
    with pytest.raises(Refused, match=message):
        render("kiva", values)

"""A platform's releases as objects of those who roll out from Git: Argo CD, Flux, helmfile, and the values of the umbrella chart.

All of them name a chart and a file of values in the rendered folder, one object for each release, so that each model is rolled out and taken
back by itself. Secrets are in none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivactl.stack.kubernetes.releases import ChartRelease

Json = dict[str, Any]

IN_CLUSTER = "https://kubernetes.default.svc"
"""The cluster that Argo CD itself runs in, by the name that it uses."""

_LONGEST = 63
_LEAST_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Source:
    """Where the controllers find what was rendered.

    Attributes:
        repository: URL of the Git repository; may be empty for helmfile alone.
        revision: Its branch or tag.
        path: The rendered folder in it; empty when that is its root.
        charts: `oci://...` where the charts lie by name; those beside the values when empty.
        secret: Flux' Secret for repository and registry; none when empty.
        destination: The cluster as Argo CD knows it: a URL or a name.
    """

    repository: str = ""
    revision: str = "main"
    path: str = ""
    charts: str = ""
    secret: str = ""
    destination: str = IN_CLUSTER

    def inside(self, path: str) -> str:
        """A path of the rendered folder as one of the repository."""
        return f"{self.path}/{path}" if self.path else path


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment of a platform, ready to be rolled out.

    Attributes:
        name: Such as `prod`; also its folder.
        platform: Name of the platform.
        context: Context of the kubeconfig.
        namespace: Where everything is made.
        pod_security: What the namespace admits.
        releases: In the order of rolling out.
        versions: Of the charts, by name.
    """

    name: str
    platform: str
    context: str
    namespace: str
    pod_security: str
    releases: Sequence[ChartRelease]
    versions: Mapping[str, str]

    def object_name(self, release: str) -> str:
        """What a release's object is called among those of all environments."""
        name = f"{self.name}-{release}"
        return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def values_file(environment: str, release: str) -> str:
    """Where the values of a release lie in the rendered folder."""
    return f"{environment}/values/{release}.yaml"


def chart_folder(chart: str) -> str:
    """Where a chart lies in the rendered folder."""
    return f"charts/{chart}"


def namespace_for(environment: Environment) -> Json:
    """The namespace; whoever stops rolling it out keeps what is in it."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": environment.namespace,
            "labels": {
                "app.kubernetes.io/part-of": "kiva",
                **_pod_security(environment),
            },
            "annotations": {"kustomize.toolkit.fluxcd.io/prune": "disabled"},
        },
    }


def argocd_for(environment: Environment, source: Source) -> dict[str, Json]:
    """Argo CD's Applications by file: one that is applied by hand, and of which the others come, one for each release.

    Self-healing is off: a token that is revoked with kivactl must stay revoked until Git says so too. The first one also says what the
    namespace admits; as an object of its own it would be made where Argo CD runs.
    """
    root = {
        "repoURL": source.repository,
        "targetRevision": source.revision,
        "path": source.inside(f"{environment.name}/argocd/releases"),
    }
    files = {"platform.yaml": _application(environment, source, environment.platform, {"source": root}, namespace="argocd")}
    for release in environment.releases:
        wave = {"argocd.argoproj.io/sync-wave": str(release.order)}
        made = _application(environment, source, release.name, _argocd_sources(environment, release, source), namespace=release.namespace, annotations=wave)
        policy = made["spec"]["syncPolicy"]
        policy["syncOptions"].insert(0, "CreateNamespace=true")
        if release is environment.releases[0]:
            policy["managedNamespaceMetadata"] = {"labels": _pod_security(environment)}
        files[f"releases/{release.name}.yaml"] = made
    return files


def flux_for(environment: Environment, source: Source) -> dict[str, Json]:
    """Flux' objects by file: the repository and what is taken from it, applied by hand, and a HelmRelease for each release.

    A release waits for those before it. Values from Git go by file; with charts from a registry they stand in the HelmRelease.
    """
    repository = environment.object_name(environment.platform)
    reference = {"kind": "GitRepository", "name": repository}
    credentials = {"secretRef": {"name": source.secret}} if source.secret else {}
    files: dict[str, Json] = {
        "platform.yaml": _flux(
            "kustomize.toolkit.fluxcd.io/v1",
            "Kustomization",
            repository,
            {
                "interval": "10m",
                "path": f"./{source.inside(f'{environment.name}/flux/releases')}",
                "prune": True,
                "sourceRef": reference,
            },
        ),
        "source.yaml": _flux(
            "source.toolkit.fluxcd.io/v1",
            "GitRepository",
            repository,
            {"interval": "1m", "url": source.repository, "ref": {"branch": source.revision}, **credentials},
        ),
    }
    if source.charts:
        for chart in sorted({release.chart for release in environment.releases}):
            spec = {
                "interval": "10m",
                "url": f"{source.charts}/{chart}",
                "layerSelector": {"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "operation": "copy"},
                "ref": {"tag": environment.versions[chart]},
                **credentials,
            }
            files[f"releases/chart-{chart}.yaml"] = _flux("source.toolkit.fluxcd.io/v1", "OCIRepository", environment.object_name(chart), spec)
    for release in environment.releases:
        files[f"releases/{release.name}.yaml"] = _helm_release(environment, release, source, reference)
    files["releases/namespace.yaml"] = namespace_for(environment)
    resources = sorted(name.removeprefix("releases/") for name in files if name.startswith("releases/"))
    files["releases/kustomization.yaml"] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    return files


def helmfile_for(environment: Environment, source: Source) -> Json:
    """A helmfile in the environment's folder; each release needs those before it."""
    releases = []
    for release in environment.releases:
        chart = {"chart": f"{source.charts}/{release.chart}", "version": environment.versions[release.chart]}
        releases.append(
            {
                "name": release.name,
                "namespace": release.namespace,
                **(chart if source.charts else {"chart": f"../{chart_folder(release.chart)}"}),
                "values": [f"values/{release.name}.yaml"],
                "timeout": _patience_s(release),
                **({"needs": before} if (before := [f"{one.namespace}/{one.name}" for one in _before(environment, release)]) else {}),
            }
        )
    defaults = {"kubeContext": environment.context, "createNamespace": False, "wait": True, "historyMax": 10}
    return {"helmDefaults": defaults, "releases": releases}


def umbrella_for(environment: Environment, source: Source) -> Json:
    """The values of the umbrella chart `kiva`, which makes the objects of Argo CD or Flux in the cluster: all of an environment in one file."""
    return {
        "platform": environment.platform,
        "environment": environment.name,
        "charts": {"repository": source.charts or source.repository, **({} if source.charts else _git_charts(source))},
        "destination": {"namespace": environment.namespace, "cluster": source.destination, "podSecurity": environment.pod_security},
        "flux": {"secret": source.secret},
        "releases": [
            {
                "name": release.name,
                "chart": release.chart,
                "version": environment.versions[release.chart],
                "order": release.order,
                "timeoutSeconds": _patience_s(release),
                "values": release.values,
            }
            for release in environment.releases
        ],
    }


def _pod_security(environment: Environment) -> dict[str, str]:
    return {f"pod-security.kubernetes.io/{mode}": environment.pod_security for mode in ("enforce", "warn")}


def _git_charts(source: Source) -> Json:
    return {"revision": source.revision, "path": source.inside("charts")}


def _application(environment: Environment, source: Source, name: str, sources: Json, *, namespace: str, annotations: Mapping[str, str] | None = None) -> Json:
    cluster = {"server" if source.destination.startswith("https://") else "name": source.destination}
    if namespace == "argocd":  # what Applications are made of is where Argo CD is, wherever they lead
        cluster = {"server": IN_CLUSTER}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": environment.object_name(name),
            "namespace": "argocd",
            "labels": {"app.kubernetes.io/part-of": "kiva", "kiva/environment": environment.name},
            **({"annotations": dict(annotations)} if annotations else {}),
        },
        "spec": {
            "project": "default",
            **sources,
            "destination": {**cluster, "namespace": namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": False},
                "syncOptions": ["ServerSideApply=true", "PruneLast=true"],
            },
        },
    }


def _argocd_sources(environment: Environment, release: ChartRelease, source: Source) -> Json:
    values, where = values_file(environment.name, release.name), {"repoURL": source.repository, "targetRevision": source.revision}
    if not source.charts:  # from the chart's folder up to the rendered one
        helm = {"releaseName": release.name, "valueFiles": [f"../../{values}"]}
        return {"source": {**where, "path": source.inside(chart_folder(release.chart)), "helm": helm}}
    chart = {
        "repoURL": source.charts.removeprefix("oci://"),
        "chart": release.chart,
        "targetRevision": environment.versions[release.chart],
        "helm": {"releaseName": release.name, "valueFiles": [f"$values/{source.inside(values)}"]},
    }
    return {"sources": [chart, {**where, "ref": "values"}]}


def _helm_release(environment: Environment, release: ChartRelease, source: Source, repository: Json) -> Json:
    before = [{"name": environment.object_name(one.name)} for one in _before(environment, release)]
    folder = source.inside(chart_folder(release.chart))
    chart: Json = {"chartRef": {"kind": "OCIRepository", "name": environment.object_name(release.chart)}}
    if not source.charts:
        files = [f"./{folder}/values.yaml", f"./{source.inside(values_file(environment.name, release.name))}"]
        # `Revision`: new values are new even when the chart's version stays.
        chart = {"chart": {"spec": {"chart": f"./{folder}", "reconcileStrategy": "Revision", "sourceRef": repository, "valuesFiles": files}}}
    spec = {
        "interval": "10m",
        "timeout": f"{_patience_s(release)}s",
        "releaseName": release.name,
        "targetNamespace": release.namespace,
        "storageNamespace": release.namespace,
        "maxHistory": 10,
        **chart,
        **({"dependsOn": before} if before else {}),
        "install": {"crds": "Skip"},
        "upgrade": {"crds": "Skip", "remediation": {"retries": 1, "remediateLastFailure": True, "strategy": "rollback"}},
        "driftDetection": {"mode": "warn"},
        **({"values": release.values} if source.charts else {}),
    }
    return _flux("helm.toolkit.fluxcd.io/v2", "HelmRelease", environment.object_name(release.name), spec)


def _flux(api_version: str, kind: str, name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": "flux-system", "labels": {"app.kubernetes.io/part-of": "kiva"}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def _before(environment: Environment, release: ChartRelease) -> list[ChartRelease]:
    """The releases of the order just below: those above wait for them, and so for all."""
    below = max((one.order for one in environment.releases if one.order < release.order), default=None)
    return [one for one in environment.releases if one.order == below]


def _patience_s(release: ChartRelease) -> int:
    """Seconds until a rollout counts as failed: each replica may use its whole budget, one after the other."""
    budget_s = float(release.values.get("startup", {}).get("budgetSeconds", 0)) + float(release.values.get("drain", {}).get("seconds", 0))
    replicas = max(1, int(release.values.get("replicas", 1)))
    return max(_LEAST_PATIENCE_S, round(budget_s * replicas) + 60)

"""The kinds that the API serves: the built-in ones, and those that custom resource definitions add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


_ALL = {"pods", "services", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs", "horizontalpodautoscalers"}


@dataclass(frozen=True)
class Kind:
    """One kind in one version. `subresources` are served below each object."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def store_key(self) -> tuple[str, str]:
        return (self.group, self.plural)

    @property
    def categories(self) -> list[str]:
        return ["all"] if self.plural in _ALL else []

    @property
    def singular(self) -> str:
        return self.kind.lower()


def _kinds(group: str, version: str, lines: str) -> list[Kind]:
    """Lines of `plural Kind [cluster] [+status,scale] [=short,names]`."""
    found = []
    for line in lines.strip().splitlines():
        plural, kind, *rest = line.split()
        subresources = next((tuple(word[1:].split(",")) for word in rest if word.startswith("+")), ())
        short = next((tuple(word[1:].split(",")) for word in rest if word.startswith("=")), ())
        found.append(Kind(group, version, plural, kind, "cluster" not in rest, short, subresources, ("create",) if "ask" in rest else VERBS))
    return found


BUILT_IN = [
    *_kinds(
        "",
        "v1",
        """
        namespaces Namespace cluster +status,finalize =ns
        nodes Node cluster +status =no
        pods Pod +status,log,eviction,binding,portforward,exec =po
        services Service +status =svc
        configmaps ConfigMap =cm
        secrets Secret
        serviceaccounts ServiceAccount +token =sa
        persistentvolumeclaims PersistentVolumeClaim +status =pvc
        persistentvolumes PersistentVolume cluster +status =pv
        events Event =ev
        endpoints Endpoints =ep
        resourcequotas ResourceQuota +status =quota
        limitranges LimitRange =limits
        replicationcontrollers ReplicationController +status,scale =rc
        """,
    ),
    *_kinds(
        "apps",
        "v1",
        """
        deployments Deployment +status,scale =deploy
        replicasets ReplicaSet +status,scale =rs
        statefulsets StatefulSet +status,scale =sts
        daemonsets DaemonSet +status =ds
        controllerrevisions ControllerRevision
        """,
    ),
    *_kinds("batch", "v1", "jobs Job +status\ncronjobs CronJob +status =cj"),
    *_kinds("policy", "v1", "poddisruptionbudgets PodDisruptionBudget +status =pdb"),
    *_kinds("autoscaling", "v2", "horizontalpodautoscalers HorizontalPodAutoscaler +status =hpa"),
    *_kinds("networking.k8s.io", "v1", "networkpolicies NetworkPolicy =netpol\ningresses Ingress +status =ing\ningressclasses IngressClass cluster"),
    *_kinds(
        "rbac.authorization.k8s.io",
        "v1",
        "roles Role\nrolebindings RoleBinding\nclusterroles ClusterRole cluster\nclusterrolebindings ClusterRoleBinding cluster",
    ),
    *_kinds("coordination.k8s.io", "v1", "leases Lease"),
    *_kinds("storage.k8s.io", "v1", "storageclasses StorageClass cluster =sc"),
    *_kinds("scheduling.k8s.io", "v1", "priorityclasses PriorityClass cluster =pc"),
    *_kinds("node.k8s.io", "v1", "runtimeclasses RuntimeClass cluster"),
    *_kinds("discovery.k8s.io", "v1", "endpointslices EndpointSlice"),
    *_kinds("apiextensions.k8s.io", "v1", "customresourcedefinitions CustomResourceDefinition cluster +status =crd,crds"),
    *_kinds(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews SelfSubjectAccessReview cluster ask\nselfsubjectrulesreviews SelfSubjectRulesReview cluster ask",
    ),
    *_kinds("authentication.k8s.io", "v1", "selfsubjectreviews SelfSubjectReview cluster ask"),
]

CUSTOM = {
    "leaderworkersets": "leaderworkerset.x-k8s.io v1 LeaderWorkerSet status,scale",
    "scaledobjects": "keda.sh v1alpha1 ScaledObject status",
    "triggerauthentications": "keda.sh v1alpha1 TriggerAuthentication status",
    "certificates": "cert-manager.io v1 Certificate status",
    "issuers": "cert-manager.io v1 Issuer status",
    "clusterissuers": "cert-manager.io v1 ClusterIssuer status,cluster",
    "externalsecrets": "external-secrets.io v1 ExternalSecret status",
    "secretstores": "external-secrets.io v1 SecretStore status",
    "clustersecretstores": "external-secrets.io v1 ClusterSecretStore status,cluster",
    "podmonitors": "monitoring.coreos.com v1 PodMonitor status",
    "servicemonitors": "monitoring.coreos.com v1 ServiceMonitor status",
    "prometheusrules": "monitoring.coreos.com v1 PrometheusRule status",
    "gateways": "gateway.networking.k8s.io v1 Gateway status",
    "gatewayclasses": "gateway.networking.k8s.io v1 GatewayClass status,cluster",
    "httproutes": "gateway.networking.k8s.io v1 HTTPRoute status",
    "tlsroutes": "gateway.networking.k8s.io v1,v1alpha3,v1alpha2 TLSRoute status",
    "applications": "argoproj.io v1alpha1 Application status",
    "helmreleases": "helm.toolkit.fluxcd.io v2 HelmRelease status",
}
"""Plural name: group, versions (the stored one first), kind, and what its definition says besides."""


def definition(plural: str) -> Json:
    """The custom resource definition of one of `CUSTOM`; its schema keeps whatever it does not know."""
    group, versions, kind, options = CUSTOM[plural].split()
    subresources: Json = {"status": {}} if "status" in options else {}
    if "scale" in options:
        subresources["scale"] = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster" if "cluster" in options else "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [
                {"name": version, "served": True, "storage": number == 0, "schema": schema, "subresources": subresources}
                for number, version in enumerate(versions.split(","))
            ],
        },
    }


def kinds_of(crd: Json) -> list[Kind]:
    """The kinds that a custom resource definition adds, one per version served."""
    spec = crd["spec"]
    names = spec["names"]
    return [
        Kind(
            spec["group"],
            version["name"],
            names["plural"],
            names["kind"],
            spec["scope"] == "Namespaced",
            tuple(names.get("shortNames", ())),
            tuple(version.get("subresources") or ()),
            custom=True,
        )
        for version in spec["versions"]
        if version.get("served")
    ]


class Kinds:
    """What is served now, by path and by name."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], Kind] = {}
        for kind in BUILT_IN:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        self._kinds[(kind.group, kind.version, kind.plural)] = kind

    def remove(self, group: str, plural: str) -> None:
        for key in [key for key in self._kinds if (key[0], key[2]) == (group, plural)]:
            del self._kinds[key]

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def named(self, kind: str) -> Kind:
        """By `Deployment` or, for whatever has the same name twice, `Deployment.apps`."""
        for one in self._kinds.values():
            if kind in (one.kind, one.plural, f"{one.kind}.{one.group}"):
                return one
        raise KeyError(kind)

    def of(self, api_version: str, kind: str) -> Kind | None:
        return next((one for one in self._kinds.values() if (one.api_version, one.kind) == (api_version, kind)), None)

    def groups(self) -> dict[str, dict[str, list[Kind]]]:
        """Group, version, kinds."""
        found: dict[str, dict[str, list[Kind]]] = {}
        for kind in self._kinds.values():
            found.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
        return found

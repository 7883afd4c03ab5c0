"""Kinds of objects and where the API server keeps them. Pure.

Those that a platform is made of are written down here, so that a plan needs no discovery; any other is asked for once.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from kivactl.tools.kube_objects import Json


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind in one version.

    Attributes:
        group: Empty for the core.
        version: Such as `v1`.
        name: Such as `Deployment`.
        plural: As in paths, such as `deployments`.
        namespaced: Whether its objects lie in namespaces.
    """

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in manifests, such as `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As people and permissions name it, such as `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Where an object lies, or all of them; in all namespaces when that is empty."""
        place = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        words = [self.plural, *(quote(word, safe="") for word in (name, subresource) if word)]
        return f"{group_path(self.api_version)}{place}/{'/'.join(words)}"


def group_path(api_version: str) -> str:
    """Where the kinds of a group and version are, which is also where they are listed."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _kinds(api_version: str, *plurals: tuple[str, str], namespaced: bool = True) -> list[Kind]:
    group, _, version = api_version.rpartition("/")
    return [Kind(group, version, name, plural, namespaced) for name, plural in plurals]


KINDS = {
    kind.name: kind
    for kind in (
        *_kinds("v1", ("ConfigMap", "configmaps"), ("Endpoints", "endpoints"), ("Event", "events"), ("LimitRange", "limitranges")),
        *_kinds("v1", ("PersistentVolumeClaim", "persistentvolumeclaims"), ("Pod", "pods"), ("ResourceQuota", "resourcequotas"), ("Secret", "secrets")),
        *_kinds("v1", ("Service", "services"), ("ServiceAccount", "serviceaccounts")),
        *_kinds("v1", ("Namespace", "namespaces"), ("Node", "nodes"), ("PersistentVolume", "persistentvolumes"), namespaced=False),
        *_kinds("apps/v1", ("ControllerRevision", "controllerrevisions"), ("DaemonSet", "daemonsets"), ("Deployment", "deployments")),
        *_kinds("apps/v1", ("ReplicaSet", "replicasets"), ("StatefulSet", "statefulsets")),
        *_kinds("autoscaling/v2", ("HorizontalPodAutoscaler", "horizontalpodautoscalers")),
        *_kinds("batch/v1", ("CronJob", "cronjobs"), ("Job", "jobs")),
        *_kinds("coordination.k8s.io/v1", ("Lease", "leases")),
        *_kinds("discovery.k8s.io/v1", ("EndpointSlice", "endpointslices")),
        *_kinds("networking.k8s.io/v1", ("Ingress", "ingresses"), ("NetworkPolicy", "networkpolicies")),
        *_kinds("networking.k8s.io/v1", ("IngressClass", "ingressclasses"), namespaced=False),
        *_kinds("node.k8s.io/v1", ("RuntimeClass", "runtimeclasses"), namespaced=False),
        *_kinds("policy/v1", ("PodDisruptionBudget", "poddisruptionbudgets")),
        *_kinds("rbac.authorization.k8s.io/v1", ("Role", "roles"), ("RoleBinding", "rolebindings")),
        *_kinds("rbac.authorization.k8s.io/v1", ("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings"), namespaced=False),
        *_kinds("scheduling.k8s.io/v1", ("PriorityClass", "priorityclasses"), namespaced=False),
        *_kinds("storage.k8s.io/v1", ("StorageClass", "storageclasses"), namespaced=False),
        *_kinds("apiextensions.k8s.io/v1", ("CustomResourceDefinition", "customresourcedefinitions"), namespaced=False),
        *_kinds("authorization.k8s.io/v1", ("SelfSubjectAccessReview", "selfsubjectaccessreviews"), namespaced=False),
    )
}


def known(text: str) -> Kind | None:
    """A kind of the table, by its name or by `group/version/name`; None when it has to be asked for.

    Raises:
        ValueError: The name alone is not in the table.
    """
    api_version, _, name = text.rpartition("/")
    kind = KINDS.get(name)
    if not api_version and kind is None:
        raise ValueError(f"'{text}' is no kind of the table: say it with its group and version")
    return kind if kind is not None and api_version in ("", kind.api_version) else None


def parse_kind(api_version: str, name: str, answer: Json) -> Kind | None:
    """A kind in the server's list of a group and version; None when it is not in it."""
    group, _, version = api_version.rpartition("/")
    for one in answer.get("resources") or []:
        if one.get("kind") == name and "/" not in one.get("name", "/"):
            return Kind(group, version, name, one["name"], bool(one.get("namespaced")))
    return None

"""What a cluster has and who uses it, read from the API's objects; leniently, for they are of any version. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Json = Mapping[str, Any]

Amounts = Mapping[str, int]
"""Of resources by name: `cpu` in thousandths of a core, `memory` and other storage in bytes, everything else counted."""

PODS = "pods"
"""The resource of which every pod uses one."""

INSTANCE = "app.kubernetes.io/instance"
"""Label with the release that something belongs to."""

_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+)(?:([eE][+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_FACTORS = {
    **{unit: Fraction(1, 1000**power) for power, unit in enumerate("mun", start=1)},
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", start=1)},
}
_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods off a node; `effect` is `NoSchedule`, `NoExecute` or `PreferNoSchedule`."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class Toleration:
    """What lets a pod onto a tainted node; empty key: every taint, empty effect: every effect, no value: any."""

    key: str = ""
    value: str | None = None
    effect: str = ""

    def covers(self, taint: Taint) -> bool:
        """Whether a taint is tolerated."""
        return self.key in {"", taint.key} and self.effect in {"", taint.effect} and self.value in {None, taint.value}


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster.

    Attributes:
        name: Its name.
        allocatable: What pods may use of it.
        labels: By which pods choose it.
        taints: By which it refuses pods.
        ready: Whether it reports to be ready.
        cordoned: Whether somebody closed it for new pods.
    """

    name: str
    allocatable: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    ready: bool = True
    cordoned: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that holds its place on a node.

    Attributes:
        name: Its name.
        node: Where it is.
        requests: What it holds there.
        release: The Helm release of our namespace that it belongs to; empty for everybody else's.
        labels: For disruption budgets; empty for everybody else's.
    """

    name: str
    node: str
    requests: Amounts
    release: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a namespace may use: `hard` and `used` by the quota's own keys, such as `requests.cpu` or `pods`."""

    name: str
    hard: Amounts
    used: Amounts


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: how many of the pods it selects must stay ready; None when it says it in another way."""

    name: str
    selector: Mapping[str, str]
    min_available: int | None = None
    max_unavailable: int | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """A cluster as one namespace sees it.

    Attributes:
        nodes: All of them; None when they may not be read.
        pods: Of all namespaces, those that hold a place.
        quotas: Of the namespace.
        budgets: Of the namespace.
    """

    nodes: tuple[Node, ...] | None
    pods: tuple[Pod, ...] = ()
    quotas: tuple[Quota, ...] = ()
    budgets: tuple[Budget, ...] = ()


def parse_quantity(text: str | float) -> Fraction:
    """A quantity as Kubernetes writes it: `500m`, `1.5`, `16Gi`, `1e3`.

    Raises:
        ValueError: It is none.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        msg = f"'{text}' is no quantity of Kubernetes"
        raise ValueError(msg)
    number, exponent, unit = match.groups()
    return Fraction(number) * (Fraction(f"1{exponent}") if exponent else _FACTORS[unit] if unit else 1)


def amounts(quantities: Mapping[str, Any] | None, *, up: bool = False) -> dict[str, int]:
    """Quantities by resource, as numbers; what cannot be read counts as none.

    Args:
        quantities: As an object has them.
        up: Round up, as for what is asked for; otherwise down.
    """
    found = {}
    for name, text in (quantities or {}).items():
        try:
            value = parse_quantity(text) * (1000 if name.removeprefix("requests.").removeprefix("limits.") == "cpu" else 1)
        except ValueError:
            continue
        found[name] = math.ceil(value) if up else math.floor(value)
    return found


def show(resource: str, amount: int) -> str:
    """An amount with its resource, for people: `1.5 cpu`, `16GiB of memory`, `2 nvidia.com/gpu`."""
    from kivactl.spec.quantities import format_bytes

    if resource == "cpu":
        return f"{amount / 1000:g} cpu"
    if resource in {"memory", "ephemeral-storage"} or resource.startswith("hugepages-"):
        return f"{format_bytes(max(amount, 0))} of {resource}"
    return f"{amount} {resource}"


def capacity_from(nodes: Iterable[Json] | None, pods: Iterable[Json], quotas: Iterable[Json], budgets: Iterable[Json], namespace: str) -> Capacity:
    """Put together what the API says.

    Args:
        nodes: Node objects; None when they may not be read.
        pods: Pod objects of all namespaces, or of ours only.
        quotas: ResourceQuota objects of the namespace.
        budgets: PodDisruptionBudget objects of the namespace.
        namespace: Ours.
    """
    return Capacity(
        None if nodes is None else tuple(_node(one) for one in nodes),
        tuple(_pod(one, namespace) for one in pods if _holds_a_place(one)),
        tuple(_quota(one) for one in quotas if not one.get("spec", {}).get("scopes") and not one.get("spec", {}).get("scopeSelector")),
        tuple(_budget(one) for one in budgets),
    )


def requests_of(spec: Json) -> dict[str, int]:
    """What a pod asks for: the sum of its containers, or what its largest init container asks for, and its overhead.

    Source: KEP-753; init containers with `restartPolicy: Always` run beside the others.
    """
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(total, _asked(container))
    beside: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":
            _add(beside, asked)
            asked = {}
        for name in asked.keys() | beside.keys():
            peak[name] = max(peak.get(name, 0), asked.get(name, 0) + beside.get(name, 0))
    _add(total, beside)
    most = {name: max(total.get(name, 0), peak.get(name, 0)) for name in total.keys() | peak.keys()}
    _add(most, amounts(spec.get("overhead"), up=True))
    return {**most, PODS: 1}


def tolerations_from(entries: Iterable[Json]) -> tuple[Toleration, ...]:
    """Tolerations as a pod's spec has them."""
    return tuple(
        Toleration(str(one.get("key") or ""), None if one.get("operator") == "Exists" else str(one.get("value") or ""), str(one.get("effect") or ""))
        for one in entries
    )


def _node(one: Json) -> Node:
    spec, status, meta = one.get("spec") or {}, one.get("status") or {}, one.get("metadata") or {}
    conditions = {entry.get("type"): entry.get("status") for entry in status.get("conditions") or ()}
    taints = tuple(Taint(str(entry.get("key", "")), str(entry.get("value") or ""), str(entry.get("effect", ""))) for entry in spec.get("taints") or ())
    return Node(
        name=str(meta.get("name", "")),
        allocatable=amounts(status.get("allocatable")),
        labels=dict(meta.get("labels") or {}),
        # A cordoned node has a taint too; that it is cordoned says it better.
        taints=tuple(taint for taint in taints if taint.key != "node.kubernetes.io/unschedulable"),
        ready=conditions.get("Ready", "True") == "True",
        cordoned=bool(spec.get("unschedulable")),
    )


def _pod(one: Json, namespace: str) -> Pod:
    meta, spec = one.get("metadata") or {}, one.get("spec") or {}
    labels = dict(meta.get("labels") or {}) if meta.get("namespace", namespace) == namespace else {}
    return Pod(str(meta.get("name", "")), str(spec["nodeName"]), requests_of(spec), str(labels.get(INSTANCE, "")), labels)


def ended(pod: Json) -> bool:
    """Whether a pod has come to its end and stays for its log alone; what fetched a model does."""
    return (pod.get("status") or {}).get("phase") in _ENDED


def _holds_a_place(one: Json) -> bool:
    return bool((one.get("spec") or {}).get("nodeName")) and not ended(one)


def _quota(one: Json) -> Quota:
    status, spec = one.get("status") or {}, one.get("spec") or {}
    return Quota(str((one.get("metadata") or {}).get("name", "")), amounts(status.get("hard") or spec.get("hard")), amounts(status.get("used"), up=True))


def _budget(one: Json) -> Budget:
    spec = one.get("spec") or {}
    selector = (spec.get("selector") or {}).get("matchLabels") or {}
    return Budget(str((one.get("metadata") or {}).get("name", "")), dict(selector), _count(spec.get("minAvailable")), _count(spec.get("maxUnavailable")))


def _count(value: Any) -> int | None:
    """Percentages are left out: what they come to depends on how many pods there are."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _asked(container: Json) -> dict[str, int]:
    """Where only a limit is given, it is what is asked for."""
    resources = container.get("resources") or {}
    return {**amounts(resources.get("limits"), up=True), **amounts(resources.get("requests"), up=True)}


def _add(total: dict[str, int], more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount

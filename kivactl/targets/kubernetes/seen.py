"""What is in the cluster now: Helm's releases of a platform, the objects they are made of, the record. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kivactl.errors import ToolError
from kivactl.targets.kubernetes.capacity import Capacity, capacity_from
from kivactl.targets.kubernetes.desired import CHARTS
from kivactl.targets.kubernetes.manifests import Key, key_of, parse_manifests
from kivactl.targets.kubernetes.record import Record, read_record
from kivactl.tools.helm_output import StoredRelease, parse_chart, parse_stored
from kivactl.tools.kube import EVERYWHERE, Cluster
from kivactl.tools.kube_errors import Denied, Missing

Json = dict[str, Any]

AT_ONCE = 8
"""Questions to the API server at a time."""

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Deployed:
    """A Helm release as it lies in the cluster.

    Attributes:
        newest: Its newest revision, whatever became of it.
        good: The revision that Helm holds for deployed; None when there is none.
    """

    newest: StoredRelease
    good: StoredRelease | None

    @property
    def chart(self) -> str:
        """Name of its chart, without the version."""
        return self.newest.state.chart.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Seen:
    """A platform in a cluster.

    Attributes:
        deployed: Its releases by name.
        manifests: The objects of each release as they were written last, by release.
        objects: Those of the objects that are there.
        record: The record.
        others: Releases in the namespace that are not the platform's, with whose they are.
    """

    deployed: Mapping[str, Deployed] = field(default_factory=dict)
    manifests: Mapping[str, Mapping[Key, Json]] = field(default_factory=dict)
    objects: Mapping[Key, Json] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    others: Mapping[str, str] = field(default_factory=dict)


def look(cluster: Cluster, platform: str) -> Seen:
    """Everything of a platform.

    Raises:
        KivaError: The cluster does not answer, or does not let us see it.
    """
    deployed, others = _releases(cluster, platform)
    manifests = {name: parse_manifests((one.good or one.newest).manifest) for name, one in deployed.items()}
    kinds = {key[0] for group in manifests.values() for key in group}
    return Seen(deployed, manifests, live_objects(cluster, kinds), read_record(cluster, platform), others)


def deployed_releases(cluster: Cluster, platform: str) -> dict[str, Deployed]:
    """The Helm releases of a platform: those of our charts whose values name it."""
    return _releases(cluster, platform)[0]


def _releases(cluster: Cluster, platform: str) -> tuple[dict[str, Deployed], dict[str, str]]:
    """Those of a platform, and whose the others are."""
    by_name: dict[str, list[StoredRelease]] = {}
    others: dict[str, str] = {}
    for secret in cluster.list("Secret", "owner=helm,status!=superseded").items:
        try:
            stored = parse_stored(str((secret.get("data") or {}).get("release", "")))
        except ToolError:
            continue  # of somebody else, or broken: Helm itself will say so
        if stored.state.chart.rpartition("-")[0] in CHARTS and stored.values.get("platform") == platform:
            by_name.setdefault(stored.state.name, []).append(stored)
        elif stored.state.status != "uninstalled":
            ours = stored.state.chart.rpartition("-")[0] in CHARTS
            others[stored.state.name] = f"the platform '{stored.values.get('platform')}'" if ours else f"the chart {stored.state.chart}"
    found = {}
    for name, revisions in sorted(by_name.items()):
        revisions.sort(key=lambda one: one.state.revision)
        if revisions[-1].state.status != "uninstalled":
            found[name] = Deployed(revisions[-1], next((one for one in reversed(revisions) if one.state.status == "deployed"), None))
    return found, others


def stored_revision(cluster: Cluster, release: str, revision: int) -> StoredRelease | None:
    """One revision of a release; None when Helm no longer keeps it."""
    secret = cluster.get("Secret", f"sh.helm.release.v1.{release}.v{revision}")
    return None if secret is None else parse_stored(str((secret.get("data") or {}).get("release", "")))


def stored_chart(cluster: Cluster, release: str, revision: int) -> dict[str, bytes] | None:
    """The chart of one revision, files by their path; None when Helm no longer keeps it.

    Raises:
        ToolError: It cannot be read.
    """
    secret = cluster.get("Secret", f"sh.helm.release.v1.{release}.v{revision}")
    return None if secret is None else parse_chart(str((secret.get("data") or {}).get("release", "")))


def live_objects(cluster: Cluster, kinds: Iterable[str]) -> dict[Key, Json]:
    """All objects of some kinds in the namespace; of a kind that the cluster does not know there are none.

    Values of Secrets are not read.
    """

    def listed(kind: str) -> list[Json]:
        try:
            return list(cluster.list(kind).items)
        except Missing:
            return []

    wanted = [kind for kind in sorted(set(kinds)) if not kind.endswith("/Secret")]
    return {key_of(one): one for group in at_once(listed, wanted) for one in group}


def look_at_capacity(cluster: Cluster) -> Capacity:
    """What the cluster has and who uses it, as far as it may be seen."""

    def nodes() -> list[Json] | None:
        try:
            return list(cluster.list("Node").items)
        except Denied:
            return None

    def pods() -> list[Json]:
        try:
            return list(cluster.list("Pod", namespace=EVERYWHERE).items)
        except Denied:
            return list(cluster.list("Pod").items)

    def kept(kind: str) -> list[Json]:
        try:
            return list(cluster.list(kind).items)
        except Denied:
            return []

    questions: list[Callable[[], list[Json] | None]] = [nodes, pods, lambda: kept("ResourceQuota"), lambda: kept("PodDisruptionBudget")]
    found, running, quotas, budgets = at_once(lambda question: question(), questions)
    return capacity_from(found, running or (), quotas or (), budgets or (), cluster.namespace)


def at_once(ask: Callable[[_Asked], _Answer], questions: Iterable[_Asked]) -> list[_Answer]:
    """The answers to some questions, in their order; several are asked at a time."""
    questions = list(questions)
    if len(questions) <= 1:
        return [ask(question) for question in questions]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, questions))

"""The record of what is deployed, kept in the cluster itself: a ConfigMap `<platform>-kivactl` that every operator finds.

Strict in what it writes, lenient in what it reads: keys of a newer version are left out, a broken record is none. What runs is
not read from here but from Helm's releases; here is what they cannot say: of which deploy they are, and whether one is unfinished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kivactl.tools.kube import Cluster

_FILE = "record.json"
_KEPT = 10
"""Deploys that are remembered; Helm keeps as many revisions of each release."""


@dataclass(frozen=True, slots=True)
class Deploy:
    """A deploy that was finished.

    Attributes:
        number: Counts from 1.
        at: When, ISO 8601 in UTC.
        by: Who, `user@host`.
        spec: Digest of the spec.
        kivactl: Version.
        releases: Revision of each Helm release.
        verb: `deploy` or `rollback to N`.
    """

    number: int
    at: str
    by: str = ""
    spec: str = ""
    kivactl: str = ""
    releases: Mapping[str, int] = field(default_factory=dict)
    verb: str = "deploy"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A deploy that was begun: by whom, when, what for, and which releases it is through with."""

    verb: str
    by: str
    since: str
    done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What is deployed.

    Attributes:
        platform: Name from the spec.
        endpoint: Base URL for clients.
        deploys: Those remembered, the newest last.
        unfinished: The one that was begun and not ended; None when there is none.
        ready_s: Seconds that the newest pod of each release took from its start to its first token.
        stopped_at: When the platform was stopped, ISO 8601 in UTC; empty while it runs.
        shares: Weights of models by alias that rollouts under way hold against the spec.
        maintenance: Nodes that we closed for maintenance and have to open again, with the time since when, ISO 8601 in UTC.
    """

    platform: str = ""
    endpoint: str = ""
    deploys: tuple[Deploy, ...] = ()
    unfinished: Unfinished | None = None
    ready_s: Mapping[str, float] = field(default_factory=dict)
    stopped_at: str = ""
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    maintenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def last(self) -> Deploy | None:
        """The newest deploy that was finished."""
        return self.deploys[-1] if self.deploys else None

    def with_deploy(self, deploy: Deploy) -> Record:
        """With a finished deploy; its number follows the last one's."""
        number = self.deploys[-1].number + 1 if self.deploys else 1
        return replace(self, deploys=(*self.deploys, replace(deploy, number=number))[-_KEPT:], unfinished=None)


def record_name(platform: str) -> str:
    """Name of the ConfigMap."""
    return f"{platform}-kivactl"


def read_record(cluster: Cluster, platform: str) -> Record:
    """The record, an empty one when nothing was deployed or what lies there is none."""
    found = cluster.get("ConfigMap", record_name(platform))
    return parse_record(((found or {}).get("data") or {}).get(_FILE, ""), platform)


def write_record(cluster: Cluster, record: Record) -> None:
    """Replace the record, or make it."""
    labels = {"app.kubernetes.io/part-of": "kiva", "app.kubernetes.io/managed-by": "kivactl", "kiva/platform": record.platform}
    metadata = {"name": record_name(record.platform), "labels": labels}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {_FILE: format_record(record)}}, force=True)


def change_record(cluster: Cluster, platform: str, change: Callable[[Record], Record]) -> Record:
    """Read the record, change it, write it; anew with what it is by then when someone else was faster.

    Args:
        cluster: The cluster.
        platform: Whose.
        change: May be called several times.
    """
    if cluster.get("ConfigMap", record_name(platform)) is None:
        record = change(Record(platform))
        write_record(cluster, record)
        return record
    written = [Record(platform)]

    def changed(found: dict[str, Any]) -> dict[str, Any]:
        written[0] = change(replace(parse_record((found.get("data") or {}).get(_FILE, ""), platform), platform=platform))
        return {**found, "data": {**(found.get("data") or {}), _FILE: format_record(written[0])}}

    cluster.change("ConfigMap", record_name(platform), changed)
    return written[0]


def format_record(record: Record) -> str:
    """As it is written."""
    return json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"


def parse_record(text: str, platform: str) -> Record:
    """Out of what was written, by this version or another."""
    try:
        data = json.loads(text)
    except ValueError:
        return Record(platform)
    if not isinstance(data, dict):
        return Record(platform)
    deploys = tuple(sorted((one for entry in _list(data.get("deploys")) if (one := _deploy(entry))), key=lambda one: one.number))
    times = data.get("ready_s")
    ready = {str(name): float(value) for name, value in times.items() if isinstance(value, int | float)} if isinstance(times, dict) else {}
    return Record(
        platform=str(data.get("platform") or platform),
        endpoint=str(data.get("endpoint") or ""),
        deploys=deploys,
        unfinished=_unfinished(data.get("unfinished")),
        ready_s=ready,
        stopped_at=str(data.get("stopped_at") or ""),
        shares=_shares(data.get("shares")),
        maintenance={str(node): str(since) for node, since in closed.items()} if isinstance(closed := data.get("maintenance"), dict) else {},
    )


def _deploy(entry: Any) -> Deploy | None:
    try:
        releases = {str(name): int(revision) for name, revision in (entry.get("releases") or {}).items()}
        texts = {name: str(entry.get(name) or "") for name in ("at", "by", "spec", "kivactl")}
        return Deploy(number=int(entry["number"]), releases=releases, verb=str(entry.get("verb") or "deploy"), **texts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _unfinished(entry: Any) -> Unfinished | None:
    if not isinstance(entry, dict):
        return None
    return Unfinished(str(entry.get("verb") or ""), str(entry.get("by") or ""), str(entry.get("since") or ""), tuple(map(str, _list(entry.get("done")))))


def _shares(value: Any) -> dict[str, dict[str, int]]:
    """What is no share is left out."""
    aliases = value.items() if isinstance(value, dict) else ()
    found = {str(alias): _weights(models) for alias, models in aliases}
    return {alias: weights for alias, weights in found.items() if weights}


def _weights(value: Any) -> dict[str, int]:
    models = value.items() if isinstance(value, dict) else ()
    return {str(model): weight for model, weight in models if isinstance(weight, int) and not isinstance(weight, bool) and weight >= 0}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

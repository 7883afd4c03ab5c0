"""What a cluster's API server tells, as types; what it stores stays JSON, as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kivactl.stack.redaction import redacted

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects as they were at one moment.

    Attributes:
        items: In the server's order (by namespace and name), each with `apiVersion` and `kind`.
        version: The moment, as `Cluster.watch` takes it.
    """

    items: tuple[Json, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Found:
    """An object is there: new, changed, or seen for the first time."""

    object: Json


@dataclass(frozen=True, slots=True)
class Gone:
    """An object is there no more. `object` is the last that was seen of it."""

    object: Json


@dataclass(frozen=True, slots=True)
class Synced:
    """All changes up to a version have been told.

    Comes after the first listing and whenever a while has passed. Behind a lost connection the version may be an old one.
    """

    version: str


WatchEvent = Found | Gone | Synced


@dataclass(frozen=True, slots=True)
class Event:
    """What a controller, the scheduler or a kubelet says about an object.

    Attributes:
        kind: Of the object.
        name: Of the object.
        warning: Whether it is bad news.
        reason: One word, such as `FailedScheduling`.
        message: One or more sentences, without what looks like a secret.
        count: How often it was said.
        last_at: When it was last said; RFC 3339.
    """

    kind: str
    name: str
    warning: bool
    reason: str
    message: str
    count: int
    last_at: str


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster.

    Attributes:
        ready: Whether its kubelet says so.
        schedulable: Whether it takes new pods.
        labels: Its labels.
        taints: Each as `key=value:effect`, or `key:effect`.
        allocatable: What pods may have of it, by resource, as Kubernetes writes quantities.
        why: Why it is not ready; empty when it is.
    """

    name: str
    ready: bool
    schedulable: bool
    labels: Mapping[str, str]
    taints: tuple[str, ...]
    allocatable: Mapping[str, str]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """Of the API server. `text` is whole, such as `v1.36.2+k3s1`."""

    major: int
    minor: int
    text: str


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ended in a container."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Who last set a field of an object: the field manager, and the field's path such as `.spec.replicas`."""

    manager: str
    field: str


@dataclass(frozen=True, slots=True)
class Permission:
    """What an account may be allowed to do.

    Attributes:
        verb: `get`, `list`, `watch`, `create`, `patch`, `update`, `delete`.
        kind: As for `Cluster.get`.
        namespace: None for the cluster's namespace, empty for all.
        subresource: Such as `exec` or `log`.
        name: Of one object; any when empty.
    """

    verb: str
    kind: str
    namespace: str | None = None
    subresource: str = ""
    name: str = ""


def key_of(thing: Json) -> tuple[str, str]:
    """Namespace and name of an object."""
    metadata = thing.get("metadata") or {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def version_of(thing: Json) -> str:
    """The version of an object, or of a listing; to be compared for equality only."""
    return str((thing.get("metadata") or {}).get("resourceVersion") or "")


def parse_event(thing: Json) -> Event:
    """One event as stored, old style or new."""
    subject = thing.get("involvedObject") or {}
    series = thing.get("series") or {}
    return Event(
        kind=str(subject.get("kind") or ""),
        name=str(subject.get("name") or ""),
        warning=thing.get("type") != "Normal",
        reason=str(thing.get("reason") or ""),
        message=redacted(str(thing.get("message") or "").strip()),
        count=int(series.get("count") or thing.get("count") or 1),
        last_at=str(
            series.get("lastObservedTime")
            or thing.get("lastTimestamp")
            or thing.get("eventTime")
            or thing.get("firstTimestamp")
            or (thing.get("metadata") or {}).get("creationTimestamp")
            or ""
        ),
    )


def parse_node(thing: Json) -> Node:
    """One node as stored."""
    spec, status, metadata = thing.get("spec") or {}, thing.get("status") or {}, thing.get("metadata") or {}
    ready: Json = next((one for one in status.get("conditions") or [] if one.get("type") == "Ready"), {})
    is_ready = ready.get("status") == "True"
    return Node(
        name=str(metadata.get("name") or ""),
        ready=is_ready,
        schedulable=not spec.get("unschedulable", False),
        labels=dict(metadata.get("labels") or {}),
        taints=tuple(_taint(one) for one in spec.get("taints") or []),
        allocatable={str(name): str(value) for name, value in (status.get("allocatable") or {}).items()},
        why="" if is_ready else redacted(str(ready.get("message") or ready.get("reason") or "its kubelet says nothing")),
    )


def parse_version(answer: Json) -> Version:
    """The answer of `/version`; clouds write minors such as `36+`."""
    numbers = [int("".join(character for character in str(answer.get(part) or "") if character.isdigit()) or 0) for part in ("major", "minor")]
    return Version(numbers[0], numbers[1], str(answer.get("gitVersion") or ""))


def _taint(taint: Json) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key', '')}{value}:{taint.get('effect', '')}"

"""What a cluster's API server tells, as types; what it stores stays JSON, as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    """All changes up to a moment have been told. Comes after the first listing, and whenever a while has passed."""

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
    namespace: str | None = field(default=None)
    subresource: str = ""
    name: str = ""

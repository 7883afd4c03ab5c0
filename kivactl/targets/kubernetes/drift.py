"""What somebody else changed: the cluster held against what was deployed, each difference with the program that made it. Pure but for `drift_of`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kivactl.plan import Difference
from kivactl.targets.kubernetes.difference import KEYS, Path, changed_paths, flat, shown, subject_of
from kivactl.targets.kubernetes.manifests import kind_of
from kivactl.targets.kubernetes.seen import Seen, look
from kivactl.tools.kube import Cluster

Json = Mapping[str, Any]

_OURS = frozenset({"helm", "kivactl", "Helm"})
_CONTROLLERS = (
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "k3s",
    "rke2",
    "deploy.cattle.io",
    "cloud-controller-manager",
    "service-controller",
    "horizontal-pod-autoscaler",
    "keda",
    "cert-manager",
    "external-secrets",
    "manager",
    "csi-",
    "before-first-apply",
)
"""Beginnings of the names under which a cluster's own controllers write."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One object that is not as it was deployed.

    Attributes:
        subject: Kind and name.
        differences: The fields; `before` is what was deployed, `after` what is there now.
        by: Who changed them, by the name that the program gave; empty when nobody says so.
        at: When, RFC 3339; empty when nobody says so.
    """

    subject: str
    differences: tuple[Difference, ...]
    by: str = ""
    at: str = ""

    @property
    def gone(self) -> bool:
        """Whether the whole object is not there any more."""
        return any(one.path == self.subject for one in self.differences)

    @property
    def added(self) -> bool:
        """Whether there is something that nobody deployed, which a deploy leaves."""
        return any(one.before is None for one in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who set a field last, and when."""

    manager: str
    at: str


def drift_of(cluster: Cluster, platform: str) -> tuple[Drift, ...]:
    """Everything of a platform that is not as it was deployed, in the order of releases and objects.

    Raises:
        KivaError: The cluster does not answer.
    """
    return tuple(drift_in(look(cluster, platform)))


def drift_in(seen: Seen) -> Iterator[Drift]:
    """The same, from what was seen. Values of Secrets are not looked at."""
    for name, manifests in seen.manifests.items():
        for key, manifest in manifests.items():
            if kind_of(key) == "Secret":
                continue
            if key not in seen.objects:
                yield Drift(subject_of(manifest), (Difference(subject_of(manifest), f"deployed by release {name}", None),))
            else:
                yield from drift_between(seen.objects[key], manifest)


def drift_between(live: Json, manifest: Json) -> Iterator[Drift]:
    """How an object differs from its manifest, one entry for each who changed it; and what others added to it."""
    deployed, now = flat(manifest), flat(live)
    paths = [*changed_paths(deployed, {path: now[path] for path in deployed if path in now}), *_added(live, deployed, now)]
    by_owner: dict[Owner, list[Path]] = {}
    for path in dict.fromkeys(paths):
        by_owner.setdefault(owner_of(live, path), []).append(path)
    for owner, group in by_owner.items():
        old, new = ({path: fields[path] for path in group if path in fields} for fields in (deployed, now))
        if differences := shown(live, old, new):
            yield Drift(subject_of(live), differences, owner.manager, owner.at)


def owner_of(live: Json, path: Path) -> Owner:
    """Who set a field last, as far as the object says; one that is not ours before our own."""
    found = [
        Owner(str(entry.get("manager", "")), str(entry.get("time") or ""))
        for entry in (live.get("metadata") or {}).get("managedFields") or ()
        if entry.get("subresource") != "status" and _covers(paths_of(entry.get("fieldsV1") or {}), path)
    ]
    foreign = [owner for owner in found if owner.manager not in _OURS]
    return max(foreign or found, key=lambda owner: owner.at, default=Owner("", ""))


def paths_of(fields: Json, path: Path = ()) -> set[Path]:
    """The fields in an entry of `managedFields`, as paths; entries of lists by their names."""
    found: set[Path] = set()
    for key, inner in fields.items():
        kind, _, rest = key.partition(":")
        step = rest if kind == "f" else _name(rest) if kind == "k" else ""
        if step:
            # Nothing within means all of it; a dot alone only that it is there, and nothing of what it has.
            found |= paths_of(inner, (*path, step)) if inner else {(*path, step)}
    return found


def _name(text: str) -> str:
    """What tells an entry of a list apart, as `difference` does it."""
    try:
        names = json.loads(text)
    except ValueError:
        return ""
    return next((str(names[key]) for key in KEYS if isinstance(names, dict) and key in names), "")


def _covers(fields: Iterable[Path], path: Path) -> bool:
    """Whether one of some fields is the one of a path, holds it, or lies in it."""
    return any(field[: len(path)] == path or path[: len(field)] == field for field in fields)


def _added(live: Json, deployed: Mapping[Path, Any], now: Mapping[Path, Any]) -> Iterator[Path]:
    """Fields that neither our manifest has nor a controller of the cluster wrote."""
    for entry in (live.get("metadata") or {}).get("managedFields") or ():
        manager = str(entry.get("manager", ""))
        if manager in _OURS or manager.startswith(_CONTROLLERS) or entry.get("subresource") or live.get("kind") == "Secret":
            continue
        fields = paths_of(entry.get("fieldsV1") or {})
        yield from (path for path in now if path not in deployed and any(path[: len(field)] == field for field in fields))

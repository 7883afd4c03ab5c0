"""What a rendered folder holds of a platform, compared with what its spec says now: a course as of a cluster, found out without one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kivactl.plan import Difference
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.course import Act, Course, Step
from kivactl.targets.kubernetes.difference import differences, subject_of
from kivactl.targets.kubernetes.manifests import Key, parse_manifests
from kivactl.targets.kubernetes.seen import Deployed, Seen
from kivactl.tools.helm_output import ReleaseState, StoredRelease

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FolderRelease:
    """A release as files.

    Attributes:
        release: Chart and values.
        manifests: Its objects, as YAML; None where the folder was rendered without them.
    """

    release: ChartRelease
    manifests: str | None = field(default=None, repr=False)


def course_between(before: Mapping[str, FolderRelease], after: Mapping[str, FolderRelease]) -> Course:
    """What has to be done to get from one to the other; whether it fits, only a cluster knows.

    Args:
        before: The releases that a folder holds, by name.
        after: Those of the spec.
    """
    seen = Seen({name: _deployed(one.release) for name, one in before.items()})
    steps = tuple(_step(one, before.get(name), seen) for name, one in after.items())
    return Course(steps, tuple(name for name in before if name not in after), seen=seen)


def _step(after: FolderRelease, before: FolderRelease | None, seen: Seen) -> Step:
    deployed = seen.deployed.get(after.release.name)
    found = _differences(FolderRelease(after.release, "") if before is None else before, after)
    act = Act.INSTALL if before is None else Act.UPGRADE if found else Act.KEEP
    return Step(after.release, act, deployed, differences=found)


def _differences(before: FolderRelease, after: FolderRelease) -> tuple[Difference, ...]:
    """What changes of a release's objects; of its values where the folder holds no objects."""
    if before.manifests is None or after.manifests is None:
        return differences(_as_object(before.release), _as_object(after.release))
    if before.manifests == after.manifests:
        return ()
    old, new = parse_manifests(before.manifests), parse_manifests(after.manifests)
    return tuple(one for key in {**new, **old} for one in _of_object(old, new, key))


def _of_object(old: Mapping[Key, Json], new: Mapping[Key, Json], key: Key) -> tuple[Difference, ...]:
    if key not in old:
        return (Difference(subject_of(new[key]), None, "new"),)
    if key not in new:
        return (Difference(subject_of(old[key]), "rendered", None),)
    return differences(old[key], new[key])


def _as_object(release: ChartRelease) -> Json:
    return {"kind": "Values", "metadata": {"name": release.name}, "spec": release.values}


def _deployed(release: ChartRelease) -> Deployed:
    """A release of a folder, as if it lay in a cluster: its first revision, of no time."""
    state = ReleaseState(release.name, 1, "deployed", f"{release.chart}-", datetime.fromtimestamp(0, UTC), "")
    stored = StoredRelease(state, release.namespace, "", release.values)
    return Deployed(stored, stored)

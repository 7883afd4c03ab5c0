"""What has to be done with each release, found out by looking and by dry runs; the plan that people read is made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.plan import Difference, digest
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.capacity import requests_of, tolerations_from
from kivactl.targets.kubernetes.desired import ENGINE, ClusterDesired, label_of, with_decision, with_strategy_of
from kivactl.targets.kubernetes.difference import differences, drifted, same_pods, subject_of
from kivactl.targets.kubernetes.feasibility import Decision, Feasibility, Wanted, feasibility_of
from kivactl.targets.kubernetes.manifests import (
    WORKLOADS,
    Key,
    as_helm_writes,
    kind_of,
    limits_of,
    mounts_on_one_node,
    parse_manifests,
    pod_spec,
    pods_of_replica,
    replicas_of,
    startup_s,
    stop_s,
    workloads,
)
from kivactl.targets.kubernetes.record import Record
from kivactl.targets.kubernetes.seen import Deployed, Seen, at_once, live_objects, look, look_at_capacity
from kivactl.targets.kubernetes.waiting import progress_of
from kivactl.tools.helm import Helm
from kivactl.tools.kube import Cluster

Json = dict[str, Any]

HELM_MANAGER = "helm"
"""The field manager of what Helm writes; a dry run in its name says what would become of what it wrote."""


class Act(StrEnum):
    """What happens to a release."""

    KEEP = "keep"
    WAIT = "wait"
    INSTALL = "install"
    UPGRADE = "upgrade"


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one release.

    Attributes:
        release: As it should be, with the way of its exchange.
        act: What happens.
        deployed: As it lies in the cluster; None when it does not.
        manifests: The objects that it is made of.
        differences: What changes of them.
        decision: How its pods are exchanged; None where none are.
        reason: Why, where it is not for the differences; empty otherwise.
        same_pods: Whether the pods stay as they are, whatever else changes.
    """

    release: ChartRelease
    act: Act
    deployed: Deployed | None = None
    manifests: Mapping[Key, Json] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    decision: Decision | None = None
    reason: str = ""
    same_pods: bool = False

    @property
    def acts(self) -> bool:
        """Whether Helm has something to write."""
        return self.act in {Act.INSTALL, Act.UPGRADE}


@dataclass(frozen=True, slots=True)
class Course:
    """Everything that has to be done.

    Attributes:
        steps: One for each release that should be, in the order of rolling out.
        removals: Names of the releases that are to go.
        objects: What is to be applied without Helm, with what changes of it; never with its values.
        feasibility: How and whether it fits.
        seen: What it was found out from.
        notes: Sentences worth reading.
    """

    steps: tuple[Step, ...]
    removals: tuple[str, ...]
    objects: tuple[tuple[Json, tuple[Difference, ...]], ...] = field(default=(), repr=False)
    feasibility: Feasibility = field(default_factory=Feasibility)
    seen: Seen = field(default_factory=Seen)
    notes: tuple[str, ...] = ()

    @property
    def basis(self) -> str:
        """Hash of what it was found out from, but for what changes by itself."""
        releases = {name: [one.newest.state.revision, one.newest.state.status] for name, one in self.seen.deployed.items()}
        steps = {step.release.name: [step.act.value, [(one.path, one.before, one.after) for one in step.differences]] for step in self.steps}
        ways = {one.release: [one.way.value, one.wave] for one in self.feasibility.decisions}
        return digest({"releases": releases, "steps": steps, "ways": ways, "removals": list(self.removals)})


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Finds out what has to be done; reads only.

    Attributes:
        cluster: The cluster.
        helm: For rendering.
        charts: Folder of the charts.
    """

    cluster: Cluster
    helm: Helm
    charts: Path

    def course(self, desired: ClusterDesired) -> Course:
        """What has to be done for what should be.

        Raises:
            PreconditionError: A release of that name belongs to somebody else.
            KivaError: The cluster does not answer, or it refuses an object in the dry run.
        """
        seen = look(self.cluster, desired.platform)
        for name in (one.name for one in desired.releases if one.name in seen.others):
            raise PreconditionError(
                f"the release {name} in namespace {self.cluster.namespace} of cluster '{self.cluster.context}' is there already, of {seen.others[name]}",
                "choose another `name`, or another `kubernetes.namespace`, in kiva.yaml",
            )
        compared = self._compared(desired, seen)
        removals = tuple(name for name in seen.deployed if name not in {one.name for one in desired.releases})
        steps, feasibility = self._decided(compared, desired, seen, removals)
        return Course(steps, removals, tuple(self._objects(desired)), feasibility, seen, feasibility.notes)

    def rehearsed(self, release: ChartRelease, kubernetes: str) -> int:
        """Render a release and try each of its objects out on the API server, which changes nothing; how many there are.

        Args:
            release: What to render.
            kubernetes: As `kubernetes` tells it.

        Raises:
            KivaError: Helm does not render it, or the API server refuses an object.
        """
        manifests = self._rendered(release, kubernetes)
        at_once(lambda one: self._dry_run(one, release.name), manifests.values())
        return len(manifests)

    def kubernetes(self) -> str:
        """The version to render for, asked of the API server."""
        version = self.cluster.version()
        return f"{version.major}.{version.minor}.0"

    def _compared(self, desired: ClusterDesired, seen: Seen) -> list[Step]:
        steps: list[Step] = []
        changed: list[tuple[int, ChartRelease, str]] = []
        for release in desired.releases:
            deployed = seen.deployed.get(release.name)
            step, reason = self._unchanged(release, deployed, seen)
            if step is None:
                changed.append((len(steps), release, reason))
            steps.append(step or Step(release, Act.UPGRADE if deployed else Act.INSTALL, deployed, reason=reason))
        if not changed:
            return steps
        kubernetes = self.kubernetes()
        rendered = at_once(lambda one: self._rendered(self._as_last(one[1], seen), kubernetes), changed)
        kinds = {key[0] for manifests in rendered for key in manifests} - {key[0] for manifests in seen.manifests.values() for key in manifests}
        live = {**seen.objects, **live_objects(self.cluster, kinds)}
        found = at_once(lambda one: self._difference(one[0][1], one[1], live, seen), list(zip(changed, rendered, strict=True)))
        for (place, release, reason), manifests, (differing, same) in zip(changed, rendered, found, strict=True):
            step = replace(steps[place], manifests=manifests, differences=differing, release=self._as_last(release, seen), same_pods=same)
            steps[place] = step if step.deployed is None or differing or reason else self._kept(step, seen)
        return steps

    def _unchanged(self, release: ChartRelease, deployed: Deployed | None, seen: Seen) -> tuple[Step | None, str]:
        """The step of a release for which nothing has to be rendered, or why something has to."""
        if deployed is None:
            return None, ""
        state = deployed.newest.state
        if state.status != "deployed":
            return None, "an earlier try was cut off" if state.pending else "an earlier try failed"
        if fingerprint(self._as_last(release, seen), self.charts) not in state.description:
            return None, ""
        manifests = seen.manifests[release.name]
        if any(key not in seen.objects or drifted(seen.objects[key], one) for key, one in manifests.items() if kind_of(key) != "Secret"):
            return None, ""
        return self._kept(Step(self._as_last(release, seen), Act.KEEP, deployed, manifests), seen), ""

    def _kept(self, step: Step, seen: Seen) -> Step:
        """Nothing to write; after a deploy that did not end its pods may still have to be waited for."""
        waits = seen.record.unfinished is not None and any(not progress_of(seen.objects[key]).done for key in workloads(step.manifests) if key in seen.objects)
        return replace(step, act=Act.WAIT if waits else Act.KEEP, reason="an earlier deploy did not wait until it was ready" if waits else "")

    def _as_last(self, release: ChartRelease, seen: Seen) -> ChartRelease:
        deployed = seen.deployed.get(release.name)
        return with_strategy_of(release, (deployed.good or deployed.newest).values) if deployed else release

    def _rendered(self, release: ChartRelease, kubernetes: str) -> dict[Key, Json]:
        return parse_manifests(self.helm.template(release.name, self.charts / release.chart, release.values, kubernetes=kubernetes))

    def _difference(self, release: ChartRelease, manifests: Mapping[Key, Json], live: Mapping[Key, Json], seen: Seen) -> tuple[tuple[Difference, ...], bool]:
        """What changes of a release's objects, and whether its pods stay as they are."""
        before = seen.manifests.get(release.name, {})
        found: list[Difference] = []
        same = True
        for key, manifest in manifests.items():
            if key in live and before.get(key) == manifest and not drifted(live[key], manifest):
                continue
            wanted = self._dry_run(manifest, release.name)
            if key not in live:
                found.append(Difference(subject_of(manifest), None, "new"))
            else:
                found += differences(live[key], wanted, before.get(key), manifest if key in before else None)
            same = same and (kind_of(key) not in WORKLOADS or (key in live and same_pods(live[key], wanted)))
        found += [Difference(subject_of(one), "deployed", None) for key, one in before.items() if key not in manifests and key in live]
        return tuple(found), same

    def _dry_run(self, manifest: Json, release: str) -> Json:
        return self.cluster.apply(as_helm_writes(manifest, release, self.cluster.namespace), dry_run=True, manager=HELM_MANAGER, force=True)

    def _decided(self, steps: list[Step], desired: ClusterDesired, seen: Seen, removals: Sequence[str]) -> tuple[tuple[Step, ...], Feasibility]:
        """The steps with the way of each exchange, found out of what is free; what changes nothing about pods needs none."""
        wanted = {step.release.name: one for step in steps if step.acts and (one := self._wanted(step, desired, seen))}
        if not wanted:
            return tuple(steps), Feasibility()
        result = feasibility_of(look_at_capacity(self.cluster), list(wanted.values()), removals)
        decided = []
        for step in steps:
            decision = result.decision(step.release.name)
            takes = decision is not None and desired.strategies.get(step.release.name, "auto") != "recreate" and not wanted[step.release.name].same_pods
            decided.append(replace(step, decision=decision, release=with_decision(step.release, decision) if takes and decision else step.release))
        return tuple(decided), result

    def _wanted(self, step: Step, desired: ClusterDesired, seen: Seen) -> Wanted | None:
        keys = workloads(step.manifests)
        if not keys:
            return None
        workload = step.manifests[keys[0]]
        live = seen.objects.get(keys[0])
        pods = pod_spec(workload)
        number = replicas_of(workload, replicas_of(live) if live else int(step.release.values.get("replicas", 1)))
        if step.same_pods and live is not None and number == replicas_of(live):
            return None
        measured = seen.record.ready_s.get(step.release.name)
        requests = requests_of(pods)
        return Wanted(
            release=step.release.name,
            label=label_of(step.release),
            replicas=number,
            requests=requests,
            pods=pods_of_replica(workload),
            selector=dict(pods.get("nodeSelector") or {}),
            tolerations=tolerations_from(pods.get("tolerations") or ()),
            strategy=desired.strategies.get(step.release.name, "auto" if step.release.chart == ENGINE else "rolling"),
            same_pods=step.same_pods,
            one_node=mounts_on_one_node(step.manifests),
            start_s=startup_s(pods) if measured is None else measured,
            measured=measured is not None,
            stop_s=stop_s(pods) if measured is None else 0.0,
            limits=limits_of(pods),
        )

    def _objects(self, desired: ClusterDesired) -> Iterator[tuple[Json, tuple[Difference, ...]]]:
        for manifest in desired.objects:
            live = self.cluster.get(f"{manifest['apiVersion']}/{manifest['kind']}", manifest["metadata"]["name"])
            wanted = self.cluster.apply(manifest, dry_run=True, force=True)
            found = (Difference(subject_of(manifest), None, "new"),) if live is None else differences(live, wanted)
            if found:
                yield manifest, found


def fingerprint(release: ChartRelease, charts: Path) -> str:
    """What a release is made of, as 16 hexadecimal digits: Helm keeps it as the description of a revision."""
    return digest([_chart_digest(charts / release.chart), release.values])[:16]


def history_label(release: ChartRelease, charts: Path, version: str) -> str:
    """The description of a revision that we write."""
    return f"kivactl {version}: {fingerprint(release, charts)}"


def good_revision(step: Step, record: Record) -> int | None:
    """The revision to go back to: that of the last finished deploy, else the one that Helm holds for deployed; None when there is none."""
    if record.last and step.release.name in record.last.releases:
        return record.last.releases[step.release.name]
    good = step.deployed.good if step.deployed else None
    return good.state.revision if good is not None and step.acts else None


@cache
def _chart_digest(chart: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in chart.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(chart)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()

"""Brings a cluster from what runs to what should run: phase by phase, releases of one phase side by side.

Helm writes a release and does not wait; here its pods are followed until they answer. A release whose pods do not come up goes
back to the revision that served before, and that ends the rollout: what was done stays, and the next deploy goes on from there.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl import __version__
from kivactl.errors import KivaError, PreconditionError
from kivactl.plan import Outcome, Status
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.course import Act, Course, Step, fingerprint, good_revision, history_label
from kivactl.targets.kubernetes.desired import GATEWAY, step_of, with_strategy_of
from kivactl.targets.kubernetes.following import EVERY_S, Followed, Follower, until_ready
from kivactl.targets.kubernetes.gateway import write_with_own_chart
from kivactl.targets.kubernetes.lock import writing
from kivactl.targets.kubernetes.manifests import Key, parse_manifests, pod_spec, startup_s, stop_s, workloads
from kivactl.targets.kubernetes.plan import phases_of
from kivactl.targets.kubernetes.record import Record, Unfinished, change_record
from kivactl.targets.kubernetes.seen import deployed_releases, stored_revision
from kivactl.targets.kubernetes.trust import files_in, trust_in, with_trust_of
from kivactl.tools.helm import Helm
from kivactl.tools.helm_failure import BrokenOff, UnreachableCluster
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_errors import Unreachable
from kivactl.tools.lease import Lost

Json = dict[str, Any]

AT_ONCE = 8
"""Releases that are exchanged at a time: each loads its weights over the same network from the same storage."""

_HELMS = 4
"""Helm processes at a time."""


def operator() -> str:
    """Who we are, for the record."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def now() -> str:
    """The time, for the record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(slots=True)
class Rollout:
    """One rollout.

    Attributes:
        cluster: The cluster.
        helm: Helm.
        charts: Folder of the charts.
        platform: Its name.
        endpoint: Base URL for clients.
        check: Raises when the lock is not ours any more; asked before everything that changes something.
        verb: What it is called in the record.
    """

    cluster: Cluster
    helm: Helm
    charts: Path
    platform: str
    endpoint: str
    check: Callable[[], None]
    verb: str = "deploy"
    _follower: Follower = field(init=False)

    def __post_init__(self) -> None:
        self._follower = Follower(self.cluster, self.cluster.clock)

    def run(self, course: Course) -> Iterator[Outcome]:
        """Do it all; yields what happens.

        Raises:
            KivaError: A release cannot be written, or its pods do not come up; the sentence says what became of it.
        """
        self.begin()
        for manifest, _ in course.objects:
            self.check()
            self.cluster.apply(manifest, force=True)
            yield Outcome(f"{manifest['kind']} {manifest['metadata']['name']}", Status.DONE, "written")
        for phase in phases_of(course):
            yield from self._exchange(phase.steps, course.seen.record)
            for name in phase.removals:
                yield from self.remove(name)

    def begin(self) -> None:
        """Write down that something is being done, before it is."""
        self.check()
        begun = Unfinished(self.verb, operator(), now())
        change_record(self.cluster, self.platform, lambda record: replace(record, unfinished=begun, endpoint=self.endpoint or record.endpoint, stopped_at=""))

    def remove(self, name: str) -> Iterator[Outcome]:
        """Take a release away."""
        step = f"release {name}"
        self.check()
        yield Outcome(step, Status.STARTED, "removing")
        gone = self.helm.uninstall(name)
        yield Outcome(step, Status.DONE, "removed" if gone else "was gone already")

    def back(self, step: Step, revision: int) -> Iterator[Outcome]:
        """Write an earlier revision of a release again, and wait for its pods.

        With the values of then where the chart is the same, exchanged in the way for which there is room now; else Helm's own way back.
        """
        self.check()
        name = step.release.name
        stored = stored_revision(self.cluster, name, revision)
        if stored is None:
            raise PreconditionError(f"Helm no longer keeps revision {revision} of {name}", "kivactl deploy")
        release = replace(step.release, values=dict(stored.values))
        if fingerprint(release, self.charts) in stored.state.description:
            manifests = self._write(with_strategy_of(release, step.release.values), {})
        elif release.chart == GATEWAY:
            with writing(self.cluster, self.platform, self.verb):
                values = self._with_trust(release, {}).values
                manifests = parse_manifests(
                    write_with_own_chart(self.cluster, self.helm, stored, values, f"kivactl {__version__}: back at revision {revision}")
                )
        else:
            self.helm.rollback(name, revision, force_conflicts=True)
            manifests = parse_manifests(stored.manifest)
        yield from until_ready(self._follower, [self._followed(name, step_of(step.release), manifests)], self.check)

    def _exchange(self, steps: Sequence[Step], record: Record) -> Iterator[Outcome]:
        """Exchange some releases, a few at a time. After a failure none is begun, and those under way are followed to their end."""
        queue: list[Step] = list(steps)
        failed: KivaError | None = None
        writing: dict[Future[dict[Key, Json]], Step] = {}
        followed: dict[str, tuple[Step, Followed]] = {}
        with ThreadPoolExecutor(_HELMS) as pool:
            while writing or followed or (queue and failed is None):
                while queue and failed is None and len(writing) + len(followed) < AT_ONCE:
                    step = queue.pop(0)
                    self.check()
                    yield Outcome(step_of(step.release), Status.STARTED, self._intent(step))
                    if step.acts:
                        writing[pool.submit(self._write, step.release, step.deployed.newest.values if step.deployed else {})] = step
                    else:
                        followed[step.release.name] = (step, self._followed(step.release.name, step_of(step.release), step.manifests))
                for future in wait(writing, timeout=None if not followed else 0, return_when=FIRST_COMPLETED).done:
                    step = writing.pop(future)
                    if (error := future.exception()) is None:
                        followed[step.release.name] = (step, self._followed(step.release.name, step_of(step.release), future.result()))
                    elif isinstance(error, KivaError):
                        failed = yield from self._failed(step, error, record, failed)
                    else:
                        raise error
                for one, found in list(self._follower.look([one for _, one in followed.values()])) if followed else ():
                    if isinstance(found, KivaError):
                        step, _ = followed.pop(one.name)
                        failed = yield from self._failed(step, found, record, failed)
                    elif found is not None:
                        yield found
                        if found.status is Status.DONE:
                            followed.pop(one.name)
                            self._note(one.name)
                if followed:
                    self.cluster.clock.sleep(EVERY_S)
        if failed is not None:
            raise failed

    def _write(self, release: ChartRelease, seen: Mapping[str, Any]) -> dict[Key, Json]:
        """Let Helm write a release; gives the objects that it is made of.

        Args:
            release: As it should be.
            seen: Its values in the cluster when that was decided; empty where it was decided long ago.
        """
        if release.chart != GATEWAY:
            return self._written_by_helm(release)
        # Who revokes a token writes it too, and does not wait for a whole rollout.
        with writing(self.cluster, self.platform, self.verb):
            return self._written_by_helm(self._with_trust(release, seen))

    def _with_trust(self, release: ChartRelease, seen: Mapping[str, Any]) -> ChartRelease:
        """The gateway's release with the keys and revocations that it was told since; those of what is decided otherwise."""
        there = deployed_releases(self.cluster, self.platform).get(release.name)
        if there is None or trust_in(files_in(there.newest.values)) == trust_in(files_in(seen)):
            return release
        return replace(release, values=with_trust_of(release.values, there.newest.values))

    def _written_by_helm(self, release: ChartRelease) -> dict[Key, Json]:
        label = history_label(release, self.charts, __version__)
        written = self.helm.install_or_upgrade(release.name, self.charts / release.chart, release.values, description=label, force_conflicts=True)
        return parse_manifests(written.manifest)

    def _failed(self, step: Step, error: KivaError, record: Record, earlier: KivaError | None) -> Generator[Outcome, None, KivaError]:
        """Go back to what served before, and say in the error what became of it; an earlier failure stays the one that counts."""
        name, subject = step.release.name, step_of(step.release)
        yield Outcome(subject, Status.PROGRESS, error.message)
        revision = good_revision(step, record)
        if isinstance(error, Lost | Unreachable | UnreachableCluster | BrokenOff):
            became = "it is left as it is"
        elif step.acts and not self._written(name, step):
            became = "nothing of it was changed"
        elif revision is None:
            became = "there is no revision to go back to: it is left for a look"
        else:
            try:
                for outcome in self.back(step, revision):
                    if outcome.status is not Status.DONE:
                        yield outcome
                became = f"it is back at revision {revision}"
            except KivaError as second:
                became = f"going back to revision {revision} failed as well: {second.message}"
        yield Outcome(subject, Status.FAILED, f"{error.message}; {became}")
        if earlier is not None:
            return earlier
        told = type(error)(f"{error.message}; {became}", error.hint, error.details)
        told.__cause__ = error
        return told

    def _written(self, name: str, step: Step) -> bool:
        """Whether anything of a release may have been changed; where nobody can be asked, nothing more is to be done either."""
        try:
            found = deployed_releases(self.cluster, self.platform).get(name)
        except KivaError:
            return False
        before = step.deployed.newest.state.revision if step.deployed else 0
        return found is not None and found.newest.state.revision > before

    def _note(self, name: str) -> None:
        """Write down that a release is through, and how long its newest pod took."""
        took_s = self._follower.ready_s.get(name)

        def noted(record: Record) -> Record:
            unfinished = record.unfinished
            done = replace(unfinished, done=(*unfinished.done, name)) if unfinished and name not in unfinished.done else unfinished
            return replace(record, unfinished=done, ready_s={**record.ready_s, **({name: round(took_s, 1)} if took_s is not None else {})})

        change_record(self.cluster, self.platform, noted)

    def _followed(self, name: str, step: str, manifests: Mapping[Key, Json]) -> Followed:
        keys = workloads(manifests)
        budget_s = max((startup_s(pod_spec(manifests[key])) + stop_s(pod_spec(manifests[key])) for key in keys), default=60.0)
        return Followed(name, step, keys, budget_s, self.cluster.clock.now_s())

    @staticmethod
    def _intent(step: Step) -> str:
        if step.act is Act.INSTALL:
            return "installing"
        if step.act is Act.WAIT:
            return "waiting until it is ready"
        return f"upgrading ({step.decision.way.value})" if step.decision else "upgrading"

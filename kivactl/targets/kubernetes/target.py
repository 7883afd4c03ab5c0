"""The target `kubernetes`: engines, gateway and monitoring as Helm releases in one namespace of one cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kivactl import __version__
from kivactl.errors import PreconditionError
from kivactl.plan import Outcome, Plan
from kivactl.root import content
from kivactl.spec.kubernetes import Kubernetes
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.breaking import PodsToBreak
from kivactl.targets.kubernetes.course import Course, Surveyor
from kivactl.targets.kubernetes.desired import ClusterDesired
from kivactl.targets.kubernetes.drift import Drift, drift_of
from kivactl.targets.kubernetes.gateway import ClusterGateway
from kivactl.targets.kubernetes.history import BACK, deploy_of, desired_of, notes_on
from kivactl.targets.kubernetes.lock import Lock, lock_of
from kivactl.targets.kubernetes.nodes import Nodes
from kivactl.targets.kubernetes.operation import Operation, none_of
from kivactl.targets.kubernetes.plan import plan_of
from kivactl.targets.kubernetes.record import Deploy, Record, change_record, read_record
from kivactl.targets.kubernetes.recovery import recover
from kivactl.targets.kubernetes.rollout import Rollout, now, operator
from kivactl.targets.kubernetes.seen import deployed_releases
from kivactl.tools.clock import Clock
from kivactl.tools.helm import Helm
from kivactl.tools.kube import Cluster, open_cluster
from kivactl.tools.lease import Held


@dataclass(frozen=True, slots=True)
class KubernetesTarget:
    """A platform in a cluster.

    Attributes:
        platform: Its name.
        cluster: The cluster.
        helm: Helm, for the same.
        charts: Folder of the charts.
        lock: Held by whoever changes something.
        gateway: The deployed gateway, to be told something between two deploys.
        breaking: Its pods, to be broken on purpose and mended.
    """

    platform: str
    cluster: Cluster
    helm: Helm
    charts: Path
    lock: Lock
    gateway: ClusterGateway = field(init=False)
    breaking: PodsToBreak = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "breaking", PodsToBreak(self.platform, self.cluster))
        object.__setattr__(self, "gateway", ClusterGateway(self.platform, self.cluster, self.helm, self.charts))

    @contextmanager
    def locked(self, verb: str) -> Iterator[Held]:
        """Hold the platform's lock in the cluster; within, every command of this process has it.

        Args:
            verb: What is done, for the message that others get.

        Raises:
            PreconditionError: Someone else holds it.
        """
        with self.lock.held(verb) as lease:
            yield lease

    def plan(self, desired: ClusterDesired, title: str) -> Plan:
        """What `apply` would change, tried out on the API server without a change.

        Raises:
            PreconditionError: It cannot fit.
            KivaError: The cluster does not answer, or it refuses an object.
        """
        return plan_of(self._course(desired), title)

    def rehearse(self, desired: ClusterDesired) -> Iterator[tuple[ChartRelease, int]]:
        """Try everything that is desired out on the API server, whatever is there already; changes nothing.

        Yields:
            Each release, with the number of its objects that the API server would take.

        Raises:
            PreconditionError: It cannot fit.
            KivaError: The cluster does not answer, or it refuses an object.
        """
        surveyor = Surveyor(self.cluster, self.helm, self.charts)
        for manifest in desired.objects:
            self.cluster.apply(manifest, dry_run=True, force=True)
        kubernetes = surveyor.kubernetes()
        for release in desired.releases:
            yield release, surveyor.rehearsed(release, kubernetes)
        plan_of(surveyor.course(desired), "")  # refuses what cannot fit

    def apply(self, desired: ClusterDesired) -> Iterator[Outcome]:
        """Bring the cluster to what is desired; yields what happens.

        Raises:
            KivaError: In one sentence, with what became of it; the next deploy goes on from there.
        """
        yield from self._apply(desired, "deploy")

    def finish(self, spec_digest: str, deployed_at: str) -> None:
        """Record that a deploy is done and verified."""
        self._finish("deploy", spec_digest, deployed_at)

    def start(self) -> Iterator[Outcome]:
        """Start what was deployed, as it was deployed."""
        with self.locked("start") as lease:
            yield from Operation(self.cluster, self.platform, lease.check).start()

    def stop(self) -> Iterator[Outcome]:
        """Finish the requests in work and stop everything; what is deployed stays recorded."""
        with self.locked("stop") as lease:
            yield from Operation(self.cluster, self.platform, lease.check).stop()

    def kill(self) -> Iterator[Outcome]:
        """End every pod at once: requests are cut off; what is deployed stays recorded."""
        with self.locked("kill") as lease:
            yield from Operation(self.cluster, self.platform, lease.check).kill()

    def restart(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Start models or single pods anew, one after the other."""
        with self.locked("restart") as lease:
            yield from Operation(self.cluster, self.platform, lease.check).restart(replicas)

    def take_out(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Not on Kubernetes.

        Raises:
            PreconditionError: Always; the hint says what to do instead.
        """
        raise none_of(replicas)

    def bring_back(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Not on Kubernetes.

        Raises:
            PreconditionError: Always; the hint says what to do instead.
        """
        raise none_of(replicas)

    def take_out_node(self, name: str, pod: str | None = None) -> Iterator[Outcome]:
        """Close a node and let the platform's pods go elsewhere, or one of them; see `Nodes.take_out`."""
        with self.locked("maintenance") as lease:
            yield from self.nodes(lease.check).take_out(name, pod)

    def bring_back_node(self, name: str) -> Iterator[Outcome]:
        """Open a node that was closed; see `Nodes.bring_back`."""
        with self.locked("maintenance") as lease:
            yield from self.nodes(lease.check).bring_back(name)

    def nodes(self, check: Callable[[], None] = lambda: None) -> Nodes:
        """The cluster's nodes.

        Args:
            check: Raises when the lock is not ours any more.
        """
        return Nodes(self.cluster, self.platform, check, Operation(self.cluster, self.platform, check).followed)

    def alive(self) -> frozenset[str]:
        """Names of the pods that get requests."""
        return Operation(self.cluster, self.platform, lambda: None).alive()

    def memory_bytes(self) -> int:
        """None of this machine's."""
        return 0

    def record(self) -> Record:
        """What is deployed, and what was."""
        return read_record(self.cluster, self.platform)

    def drift(self) -> tuple[Drift, ...]:
        """What somebody else changed since it was deployed."""
        return drift_of(self.cluster, self.platform)

    def plan_return(self, number: int | None, title: str) -> Plan:
        """What going back to an earlier deploy would change.

        Args:
            number: Of the deploy; None for the one that `deploy_of` chooses.
            title: Of the plan.

        Raises:
            UsageError: There is no such deploy.
            PreconditionError: It cannot be had back.
        """
        record = self.record()
        deploy = deploy_of(record, number)
        plan = self.plan(desired_of(self.cluster, record, deploy), title)
        return replace(plan, notes=(*notes_on(deploy), *plan.notes))

    def go_back(self, number: int | None, verify: Callable[[], Iterable[Outcome]] = tuple) -> Iterator[Outcome]:
        """Go back to an earlier deploy, which makes a further one; errors as of `plan_return`.

        Args:
            number: As for `plan_return`.
            verify: Proves that it serves; only then it counts as finished.
        """
        with self.locked("rollback"):
            record = self.record()
            deploy = deploy_of(record, number)
            yield from self._apply(desired_of(self.cluster, record, deploy), f"{BACK}{deploy.number}")
            yield from verify()
            self._finish(f"{BACK}{deploy.number}", deploy.spec, now())

    def _finish(self, verb: str, spec_digest: str, at: str) -> None:
        revisions = {name: one.newest.state.revision for name, one in deployed_releases(self.cluster, self.platform).items()}
        deploy = Deploy(0, at, operator(), spec_digest, __version__, revisions, verb)
        with self.locked("deploy"):
            change_record(self.cluster, self.platform, lambda record: record.with_deploy(deploy))

    def _course(self, desired: ClusterDesired) -> Course:
        return Surveyor(self.cluster, self.helm, self.charts).course(desired)

    def _apply(self, desired: ClusterDesired, verb: str) -> Iterator[Outcome]:
        with self.locked(verb) as lease:
            yield from recover(self.cluster, self.helm, self.platform, self.cluster.clock)
            course = self._course(desired)
            plan_of(course, "")  # refuses what cannot fit
            yield from Rollout(self.cluster, self.helm, self.charts, self.platform, desired.endpoint, lease.check, verb).run(course)


def open_kubernetes(platform: str, kubernetes: Kubernetes | None, clock: Clock) -> KubernetesTarget:
    """The cluster that a spec names. Nothing is asked of it yet.

    Raises:
        PreconditionError: The kubeconfig has no such context, or the spec names none.
    """
    if kubernetes is None:
        raise PreconditionError("the spec has `target: kubernetes` and names no cluster", "add `kubernetes: {context: NAME, ...}` to kiva.yaml")
    kubeconfig = Path(kubernetes.kubeconfig).expanduser() if kubernetes.kubeconfig else None
    cluster = open_cluster(kubernetes.context, kubernetes.namespace, kubeconfig, clock=clock)
    helm = Helm(kubeconfig, kubernetes.context, kubernetes.namespace)
    return KubernetesTarget(platform, cluster, helm, content("helm"), lock_of(cluster, platform))

"""Starting, stopping and restarting what is deployed, by the number of its pods; Helm's releases stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kivactl.errors import NotReadyError, PreconditionError, UsageError
from kivactl.plan import Outcome, Status
from kivactl.targets.kubernetes.capacity import INSTANCE, ended
from kivactl.targets.kubernetes.desired import ENGINE, GATEWAY
from kivactl.targets.kubernetes.following import EVERY_S, Followed, Follower, until_ready
from kivactl.targets.kubernetes.manifests import Key, pod_spec, replicas_of, startup_s, stop_s, workloads
from kivactl.targets.kubernetes.record import change_record
from kivactl.targets.kubernetes.seen import Seen, look
from kivactl.targets.kubernetes.waiting import is_ready
from kivactl.tools.kube import Cluster

Json = dict[str, Any]

_RESTARTED = "kubectl.kubernetes.io/restartedAt"
_ENDED_WITHIN_S = 120.0
"""Seconds on top of what a pod itself has for its end."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is deployed, to be stopped and started.

    Attributes:
        cluster: The cluster.
        platform: Its name.
        check: Raises when the lock is not ours any more.
    """

    cluster: Cluster
    platform: str
    check: Callable[[], None]

    def stop(self) -> Iterator[Outcome]:
        """No new requests, those in work are finished, then no pods: the gateway first, the engines when it is gone."""
        seen = self._seen()
        stopped_at = datetime.now(UTC).isoformat(timespec="seconds")
        change_record(self.cluster, self.platform, lambda record: replace(record, stopped_at=stopped_at))
        for chart in (GATEWAY, ENGINE):
            names = self._of(seen, chart)
            for name in names:
                yield Outcome(self._step(seen, name), Status.STARTED, "stopping")
                for key in workloads(seen.manifests[name]):
                    self._scale(key, 0)
            yield from self._until_gone(seen, names)

    def kill(self) -> Iterator[Outcome]:
        """No pods, at once: requests are cut off, and nothing makes new pods. What is deployed stays recorded, volumes stay."""
        seen = self._seen()
        stopped_at = datetime.now(UTC).isoformat(timespec="seconds")
        change_record(self.cluster, self.platform, lambda record: replace(record, stopped_at=stopped_at))
        names = [*self._of(seen, GATEWAY), *self._of(seen, ENGINE)]
        for name in names:
            yield Outcome(self._step(seen, name), Status.STARTED, "killing")
            for key in workloads(seen.manifests[name]):
                self._scale(key, 0)
        for pod in self.cluster.list("Pod").items:
            if not ended(pod) and (pod["metadata"].get("labels") or {}).get(INSTANCE) in names:
                self.cluster.delete("Pod", str(pod["metadata"]["name"]), at_once=True)
        yield from self._until_gone(seen, names)

    def start(self) -> Iterator[Outcome]:
        """As many pods as were deployed: the engines first, the gateway when they answer."""
        seen = self._seen()
        for chart in (ENGINE, GATEWAY):
            followed = []
            for name in self._of(seen, chart):
                for key in workloads(seen.manifests[name]):
                    wanted = replicas_of(seen.manifests[name][key], int(seen.deployed[name].newest.values.get("replicas") or 1))
                    if replicas_of(seen.objects.get(key, {})) != wanted and replicas_of(seen.objects.get(key, {})) == 0:
                        self._scale(key, wanted)
                yield Outcome(self._step(seen, name), Status.STARTED, "starting")
                followed.append(self._followed(seen, name))
            yield from until_ready(Follower(self.cluster, self.cluster.clock), followed, self.check)
        change_record(self.cluster, self.platform, lambda record: replace(record, stopped_at=""))

    def restart(self, names: Sequence[str]) -> Iterator[Outcome]:
        """Start pods anew, one after the other: those of a model in the way that it is exchanged, or a single one by its name.

        Raises:
            UsageError: There is no such model or pod.
        """
        seen = self._seen()
        models = {str((one.newest.values.get("model") or {}).get("name") or one.chart.removeprefix("kiva-")): name for name, one in seen.deployed.items()}
        pods = {str(pod["metadata"]["name"]): str((pod["metadata"].get("labels") or {}).get(INSTANCE, "")) for pod in self.cluster.list("Pod").items}
        for name in names:
            if name not in models and pods.get(name) not in seen.deployed:
                raise UsageError(
                    f"there is no model or pod named '{name}'", f"one of: {', '.join([*models, *(pod for pod in pods if pods[pod] in seen.deployed)])}"
                )
        for name in names:
            release = models.get(name) or pods[name]
            yield Outcome(self._step(seen, release), Status.STARTED, f"restarting {name}")
            self.check()
            if name in models:
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                for key in workloads(seen.manifests[release]):
                    self.cluster.patch(key[0], key[1], {"spec": {"template": {"metadata": {"annotations": {_RESTARTED: at}}}}})
            else:
                self.cluster.delete("Pod", name)
                self._until_ending(name)
            yield from until_ready(Follower(self.cluster, self.cluster.clock), [self._followed(seen, release)], self.check)

    def followed(self) -> list[Followed]:
        """Engines and gateway, to be followed until they serve."""
        seen = self._seen()
        return [self._followed(seen, name) for chart in (ENGINE, GATEWAY) for name in self._of(seen, chart)]

    def alive(self) -> frozenset[str]:
        """Names of the pods that get requests."""
        return frozenset(str(pod["metadata"]["name"]) for pod in self.cluster.list("Pod", f"kiva/platform={self.platform}").items if is_ready(pod))

    def _seen(self) -> Seen:
        self.check()
        seen = look(self.cluster, self.platform)
        if not seen.deployed:
            raise PreconditionError(
                f"nothing of '{self.platform}' is deployed in namespace {self.cluster.namespace} of cluster '{self.cluster.context}'", "kivactl deploy"
            )
        return seen

    def _scale(self, key: Key, replicas: int) -> None:
        self.check()
        self.cluster.patch(key[0], key[1], {"spec": {"replicas": replicas}}, subresource="scale")

    def _until_gone(self, seen: Seen, names: Sequence[str]) -> Iterator[Outcome]:
        grace_s = max((stop_s(pod_spec(seen.manifests[name][key])) for name in names for key in workloads(seen.manifests[name])), default=0.0)
        left = set(names)
        for elapsed_s in self.cluster.clock.ticks(grace_s + _ENDED_WITHIN_S, every_s=EVERY_S):
            self.check()
            # What fetched a model has ended and stays for its log.
            going = [pod for pod in self.cluster.list("Pod").items if not ended(pod)]
            there = {str((pod["metadata"].get("labels") or {}).get(INSTANCE, "")) for pod in going}
            for name in [name for name in names if name in left and name not in there]:
                left.remove(name)
                yield Outcome(self._step(seen, name), Status.DONE, "stopped", elapsed_s)
            if not left:
                return
        raise NotReadyError(
            f"pods do not end: those of {', '.join(sorted(left))}", f"kubectl {self.cluster.flags} -n {self.cluster.namespace} get pods -o wide"
        )

    def _until_ending(self, pod: str) -> None:
        """Until the deletion of a pod shows: a workload whose controller has not seen it yet still counts as ready."""
        for _ in self.cluster.clock.ticks(_ENDED_WITHIN_S, every_s=EVERY_S):
            found = self.cluster.get("Pod", pod)
            if found is None:
                return

    def _followed(self, seen: Seen, name: str) -> Followed:
        keys = workloads(seen.manifests[name])
        budget_s = max((startup_s(pod_spec(seen.manifests[name][key])) + stop_s(pod_spec(seen.manifests[name][key])) for key in keys), default=60.0)
        return Followed(name, self._step(seen, name), keys, budget_s, self.cluster.clock.now_s())

    @staticmethod
    def _of(seen: Seen, chart: str) -> list[str]:
        return [name for name, one in seen.deployed.items() if one.chart == chart]

    @staticmethod
    def _step(seen: Seen, name: str) -> str:
        model = (seen.deployed[name].newest.values.get("model") or {}).get("name")
        return f"engine {model}" if model else seen.deployed[name].chart.removeprefix("kiva-")


def none_of(names: Iterable[str]) -> PreconditionError:
    """What is said where single replicas are to be taken out of a cluster."""
    return PreconditionError(
        f"on Kubernetes {', '.join(names)} cannot be taken out: pods are not kept apart", "close its node instead: kivactl runbook node-maintenance --node=NODE"
    )

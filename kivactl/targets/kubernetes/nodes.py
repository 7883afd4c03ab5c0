"""Nodes closed for maintenance: no new pods, the platform's own pods evicted, its models served elsewhere; and opened again.

The record says that a node is closed before anything happens to it, and forgets it when it is open again: whoever comes after a killed
kivactl knows what is left to do. A node that somebody else has closed stays theirs. Pods are evicted, never deleted, so that budgets hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kivactl.errors import KivaError, NotReadyError, UsageError
from kivactl.plan import Outcome, Status
from kivactl.targets.kubernetes.capacity import ended
from kivactl.targets.kubernetes.following import Followed, Follower, until_ready
from kivactl.targets.kubernetes.record import Record, change_record, read_record
from kivactl.targets.kubernetes.status import selector_of, status_of
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_errors import Denied, Guarded, Refused, Unreachable

Json = dict[str, Any]

_BY_HAND_S = 3600.0
"""Seconds for somebody who may close and open nodes to do it."""

_AWAY_S = 3600.0
"""Seconds in which one pod at least has to go: each has its time to end, and budgets let the next one go when the one before serves elsewhere."""

_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a cluster, as far as a platform's pods are on them.

    Attributes:
        cluster: The cluster.
        platform: Its name.
        check: Raises when the lock is not ours any more.
        followed: What there is to be followed until everything serves, one after the other.
    """

    cluster: Cluster
    platform: str
    check: Callable[[], None]
    followed: Callable[[], Sequence[Followed]]

    def take_out(self, name: str, pod: str | None = None) -> Iterator[Outcome]:
        """Close a node and let the platform's pods go elsewhere.

        Args:
            name: Of the node.
            pod: The only one that has to go; all of the platform when absent.

        Yields:
            At last one with the pods that went (`evicted`) and the models that nobody serves meanwhile, with the reason (`unserved`).

        Raises:
            UsageError: There is no such node, or no such pod on it.
            NotReadyError: Nobody closed it, or a pod does not go; the sentence says what keeps it.
            KivaError: The cluster refuses, or does not answer.
        """
        node = self._node(name)
        if pod is not None and pod not in self.pods(name):
            raise UsageError(
                f"there is no pod '{pod}' of '{self.platform}' on the node '{name}'", self._hint(f"get pods -o wide --field-selector spec.nodeName={name}")
            )
        yield from self._close(name, closed=_is_closed(node))
        yield from self._empty(name, pod)

    def bring_back(self, name: str) -> Iterator[Outcome]:
        """Open a node that `take_out` closed; one that somebody else closed is left as it is.

        Raises:
            UsageError: There is no such node.
            NotReadyError: Nobody opened it.
            KivaError: The cluster refuses, or does not answer.
        """
        step, node = f"node {name}", self._node(name)
        since = read_record(self.cluster, self.platform).maintenance.get(name)
        if since is None:
            yield Outcome(step, Status.SKIPPED, "closed by somebody else, who has to open it" if _is_closed(node) else "not closed")
            return
        yield Outcome(step, Status.STARTED, "opening")
        if _is_closed(node):
            yield from self._set(name, closed=False)
        change_record(self.cluster, self.platform, lambda record: _without(record, name))
        degraded_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())
        yield Outcome(step, Status.DONE, "takes pods again", data={"measured": {"degraded": round(degraded_s, 3)}})

    def closed(self, name: str) -> bool:
        """Whether a node takes no new pods, or is still to be opened by us.

        Raises:
            UsageError: There is no such node.
        """
        return _is_closed(self._node(name)) or name in read_record(self.cluster, self.platform).maintenance

    def pods(self, name: str) -> list[str]:
        """The platform's pods on a node that have not ended."""
        found = self.cluster.list("Pod", selector_of(self.platform), fields=f"spec.nodeName={name}").items
        return sorted(str(one["metadata"]["name"]) for one in found if not ended(one))

    def _close(self, name: str, *, closed: bool) -> Iterator[Outcome]:
        step = f"node {name}"
        self.check()
        ours = name in read_record(self.cluster, self.platform).maintenance
        if closed:
            yield Outcome(step, Status.DONE if ours else Status.SKIPPED, "closed" if ours else "closed already, by somebody else, who has to open it again")
            return
        yield Outcome(step, Status.STARTED, "closing")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        change_record(self.cluster, self.platform, lambda record: replace(record, maintenance={name: since, **record.maintenance}))
        yield from self._set(name, closed=True)
        yield Outcome(step, Status.DONE, "takes no new pods")

    def _set(self, name: str, *, closed: bool) -> Iterator[Outcome]:
        """Close or open a node, or have it done by one who may."""
        try:
            self.cluster.patch("Node", name, {"spec": {"unschedulable": True if closed else None}})
        except (Denied, Refused) as error:
            verb = "cordon" if closed else "uncordon"
            command = f"kubectl {self.cluster.flags} {verb} {name}"
            yield Outcome(f"node {name}", Status.PROGRESS, f"{error.message}: have it done by one who may ({command}); waiting for it")
            for _ in self.cluster.clock.ticks(_BY_HAND_S, every_s=_RETRY_S):
                self.check()
                if _is_closed(self._node(name)) is closed:
                    return
            raise NotReadyError(f"nobody has {verb}ed the node '{name}' within {_BY_HAND_S / 60:g} min", command) from None

    def _empty(self, name: str, pod: str | None) -> Iterator[Outcome]:
        began_s, step = self.cluster.clock.now_s(), f"pods on {name}"
        going = [one for one in self.pods(name) if pod in {None, one}]
        yield Outcome(step, Status.STARTED, f"{len(going)} to go" if going else "none")
        yield from self._until_left(name, going)
        unserved: list[str] = []
        # All of the platform, for pods may have gone before this was cut off and done again.
        for one_followed in self.followed():
            yield from self._elsewhere(one_followed, unserved)
        facts = {"evicted": going, "unserved": "; ".join(unserved) or "none"}
        told = f"{len(going)} evicted" + (f"; not served elsewhere: {facts['unserved']}" if unserved else "")
        yield Outcome(step, Status.DONE, told, self.cluster.clock.now_s() - began_s, {**facts, "result": {"unserved": facts["unserved"]}})

    def _until_left(self, name: str, going: Sequence[str]) -> Iterator[Outcome]:
        """Evict pods again and again until all have left; one leaving is progress, for a large model takes its time to start elsewhere."""
        step, began_s = f"pods on {name}", self.cluster.clock.now_s()
        moved_s, before, told = began_s, len(going), ""
        while True:
            self.check()
            there = self.pods(name)
            left = [one for one in going if one in there]
            if not left:
                return
            kept: dict[str, str] = {}
            for one in left:
                try:
                    self.cluster.evict(one)
                except Guarded as error:
                    kept[one] = error.message
            now_s = self.cluster.clock.now_s()
            if len(left) < before:
                moved_s, before = now_s, len(left)
            # A budget lets the next one go when the successor of the one before serves: what keeps that is the reason.
            late = [f"{one.name}: {one.reason}" for one in status_of(self.cluster, self.platform).components if one.reason] if kept else []
            if now_s - moved_s >= _AWAY_S:
                why = "; ".join([*(kept.get(one, f"pod {one} does not end") for one in left), *late])
                raise NotReadyError(
                    f"pods stay on the node '{name}': {why}",
                    "make room on other nodes, or kivactl runbook scale to one replica, which no budget keeps; " + self._hint("get poddisruptionbudgets"),
                )
            words = "; ".join([*kept.values(), *late]) or f"{len(left)} are ending"
            if words != told:
                told = words
                yield Outcome(step, Status.PROGRESS, words, now_s - began_s)
            self.cluster.clock.sleep(_RETRY_S)

    def _elsewhere(self, followed: Followed, unserved: list[str]) -> Iterator[Outcome]:
        """Until a release has all its pods again; why it does not get them is told, and does not keep anybody from their work."""
        try:
            yield from until_ready(Follower(self.cluster, self.cluster.clock), [followed], self.check)
        except Unreachable:
            raise
        except NotReadyError as error:
            unserved.append(error.message)
            yield Outcome(followed.step, Status.PROGRESS, f"does not have all its pods elsewhere: {error.message}")

    def _node(self, name: str) -> Json:
        node = self.cluster.get("Node", name)
        if node is None:
            try:
                known = ", ".join(one.name for one in self.cluster.nodes())
            except KivaError:
                known = ""
            raise UsageError(f"there is no node named '{name}'", f"there are: {known}" if known else self._hint("get nodes"))
        return node

    def _hint(self, words: str) -> str:
        return f"kubectl {self.cluster.flags} -n {self.cluster.namespace} {words}"


def _is_closed(node: Json) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def _without(record: Record, node: str) -> Record:
    return replace(record, maintenance={name: since for name, since in record.maintenance.items() if name != node})

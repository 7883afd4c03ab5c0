"""The pods of a platform, to be broken on purpose and mended.

An engine is killed and stopped by a program that is run in its container (`create pods/exec`): the pod stays where it is, as after a
crash, and only the kubelet can notice. A gateway is one program, which nothing inside its container can kill: its pod is deleted without
time to end (`delete pods`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kivactl.errors import KivaError, PreconditionError, ToolError
from kivactl.targets.breaking import Part, no_replica
from kivactl.targets.kubernetes.capacity import INSTANCE, ended
from kivactl.targets.kubernetes.seen import at_once
from kivactl.targets.kubernetes.status import COMPONENT, MODEL, health_of, label, selector_of
from kivactl.targets.kubernetes.waiting import ending
from kivactl.targets.status import GATEWAY, Health
from kivactl.tools.kube import Cluster

Json = Mapping[str, Any]

ENGINE_CONTAINER = "engine"
_ENGINE = "engine"
_EXEC_S = 20.0

SIGNALLING = """
import os, signal, sys
first, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
parents = {}
for entry in os.listdir("/proc"):
    try:
        with open(f"/proc/{int(entry)}/stat") as file:
            rest = file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        continue
    if rest[0] != "Z":
        parents[int(entry)] = int(rest[1])
below = [first]
for pid in below:
    below += [child for child, parent in parents.items() if parent == pid]
hit = 0
for pid in below[1:]:
    try:
        os.kill(pid, number)
        hit += 1
    except ProcessLookupError:
        pass
print(hit)
"""
"""Sends a signal to everything that a process has started, and says how many there were. The first process of a container itself takes
neither SIGKILL nor SIGSTOP from inside (man pid_namespaces); vLLM's API server is that one, and what generates are its children."""


@dataclass(frozen=True, slots=True)
class PodsToBreak:
    """Gateway and engines of a platform in a cluster.

    Attributes:
        platform: Its name.
        cluster: Where it runs.
    """

    platform: str
    cluster: Cluster

    def parts(self) -> Sequence[Part]:
        """As `Breaking.parts`."""
        return [part for _, part in self._all()]

    def victim(self, replica: str | None, model: str) -> str:
        """As `Breaking.victim`; the first pod by its name."""
        parts = self.parts()
        if not parts:
            raise self._nothing()
        names = sorted(one.name for one in parts if one.model and one.process)
        if replica is None:
            named = [one.name for one in parts if one.model == model and one.process]
            if not named:
                raise PreconditionError(f"there is no pod of '{model}'", "kivactl status")
            return min(named)
        if replica not in names:
            raise no_replica(replica, names)
        return replica

    def meant(self, replica: str | None, model: str) -> str:
        """A model is as good as a pod here."""
        return replica or model

    def model(self, replica: str) -> str:
        """As `Breaking.model`; known while the pod is there."""
        return next((one.model for one in self.parts() if one.name == replica), "")

    def gateway(self) -> str:
        """The first of its pods that serves, else the first."""
        pods = sorted((part for release, part in self._all() if part.process and not part.model), key=lambda one: (one.health is not Health.SERVING, one.name))
        if not pods:
            raise self._nothing()
        return pods[0].name

    def mates(self, name: str) -> Sequence[Part]:
        """All that its release has: which of them took the place of a pod that is gone, nobody says."""
        found = self._all()
        releases = {release for release, _ in found}
        owned = {release for release, part in found if name == part.name or (name == part.model) or (name == GATEWAY and not part.model)}
        # A pod that is gone is known by its name, which begins with that of what made it.
        release = next(iter(owned), "") or max((one for one in releases if name.startswith(f"{one}-")), key=len, default="")
        return [part for one, part in found if one == release]

    def kill(self, part: Part) -> str:
        """SIGKILL to an engine's processes; a gateway's pod is deleted at once."""
        if part.model:
            return f"{self._signal(part, 'SIGKILL')} in pod {part.name} killed"
        if not self.cluster.delete("Pod", part.name, at_once=True):
            raise PreconditionError(f"the pod '{part.name}' ended by itself in this very moment", "kivactl status")
        return f"pod {part.name} deleted without time to end"

    def hang(self, part: Part) -> str:
        """SIGSTOP to an engine's processes."""
        return f"{self._signal(part, 'SIGSTOP')} in pod {part.name} stopped"

    def wake(self, name: str) -> None:
        """SIGCONT in every engine's pod of the release; whether it helped shows in whether it serves."""
        for one in self.mates(name):
            if one.model and one.process:
                with suppress(KivaError):
                    self._run(one, "SIGCONT")

    def revive(self, part: Part) -> None:
        """The kubelet does."""

    def outage(self, part: Part) -> str:
        """Where it is the only pod of the gateway."""
        others = [one for one in self.mates(part.name) if one.name != part.name and one.health is Health.SERVING]
        return "" if part.model or others else "it is the gateway's only pod, so nobody is answered until another one serves"

    def _nothing(self) -> PreconditionError:
        return PreconditionError(f"nothing of '{self.platform}' runs in the cluster '{self.cluster.context}'", "kivactl runbook start, or kivactl deploy")

    def _signal(self, part: Part, signal: str) -> str:
        count = self._run(part, signal)
        if not count:
            raise PreconditionError(
                f"the engine in pod {part.name} has no process beside its first one, which takes no signals from inside",
                f"kubectl {self.cluster.flags} -n {self.cluster.namespace} delete pod {part.name} --grace-period=0 --force    # the nearest thing to a crash",
            )
        return f"{count} processes of the engine"

    def _run(self, part: Part, signal: str) -> int:
        ran = self.cluster.run_in(part.name, ENGINE_CONTAINER, ["python3", "-c", SIGNALLING, "1", signal], timeout_s=_EXEC_S)
        if ran.code or not ran.stdout.strip().isdigit():
            said = (ran.stderr.strip().splitlines() or [f"exit code {ran.code}"])[-1]
            raise ToolError(f"{signal} could not be sent in pod {part.name}: {said}", f"kivactl logs {part.name}")
        return int(ran.stdout)

    def _all(self) -> list[tuple[str, Part]]:
        """Every part with its release; what a Deployment lacks of its pods is told under the name of the Deployment."""
        selector = selector_of(self.platform)
        pods, deployments = at_once(lambda kind: self.cluster.list(kind, selector).items, ("Pod", "Deployment"))
        going = [pod for pod in pods if label(pod, COMPONENT) in {GATEWAY, _ENGINE} and not ended(pod)]
        now = datetime.now(UTC)
        found = [(label(pod, INSTANCE), _part(pod, now)) for pod in sorted(going, key=lambda pod: str(pod["metadata"]["name"]))]
        for one in deployments:
            wanted = int((one.get("spec") or {}).get("replicas", 1) or 0)
            there = sum(label(pod, INSTANCE) == label(one, INSTANCE) and not ending(pod) for pod in going)
            if label(one, COMPONENT) in {GATEWAY, _ENGINE} and there < wanted:
                found.append((label(one, INSTANCE), Part(str(one["metadata"]["name"]), _model(one), Health.STARTING, "")))
        return found


def _part(pod: Json, now: datetime) -> Part:
    metadata, status = pod["metadata"], pod.get("status") or {}
    restarts = sum(int(one.get("restartCount") or 0) for one in status.get("containerStatuses") or ())
    return Part(str(metadata["name"]), _model(pod), health_of(pod), f"{metadata.get('uid', metadata['name'])}.{restarts}", _serving_s(status, now))


def _model(thing: Json) -> str:
    return label(thing, MODEL) if label(thing, COMPONENT) == _ENGINE else ""


def _serving_s(status: Json, now: datetime) -> float:
    """Since when it serves without a break."""
    ready: Json = next((one for one in status.get("conditions") or () if one.get("type") == "Ready" and one.get("status") == "True"), {})
    try:
        return max(0.0, (now - datetime.fromisoformat(str(ready.get("lastTransitionTime", "")))).total_seconds())
    except ValueError:
        return 0.0

"""Whether the gateway's pods have what was written for them: their kubelets are made to look, and Envoy itself is asked where that is allowed.

A kubelet writes a changed ConfigMap or Secret into a pod when it looks at the pod next. It looks once a minute, and at once when an annotation
of the pod changes, which restarts nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from kivactl.errors import KivaError, NotReadyError
from kivactl.stack.gateway.files import Json
from kivactl.stack.kubernetes.gateway_files import POD_FILES
from kivactl.stack.monitoring import GATEWAY_METRICS
from kivactl.targets.kubernetes.capacity import INSTANCE
from kivactl.targets.kubernetes.waiting import ending
from kivactl.targets.steering import Told
from kivactl.tools import tls
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_errors import Denied, Missing
from kivactl.tools.kube_objects import Permission
from kivactl.tools.prometheus import scrape

ANNOTATION = "kiva/config"
"""Of the gateway's pods: what they should have by now."""

LONGEST_S = 90.0
"""Seconds until a kubelet has looked at every pod again: its minute, and the half by which it spreads them.

Source: `syncFrequency` of the kubelet's configuration; `workerResyncIntervalJitterFactor` in pkg/kubelet/kubelet.go.
"""

_GIVEN_UP_AFTER_S = 180.0
_ASKED_EVERY_S = 0.5
_NUDGED_EVERY_S = 10.0
"""A kubelet that was told to look may not have heard of the change itself by then."""

_TOOLS = "meter"
"""The container with Python beside Envoy; it has the folder with the admin socket too."""

_PROGRAM = """\
import http.client, socket, sys
connection = http.client.HTTPConnection("gateway", timeout=5)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(5)
connection.sock.connect(sys.argv[1])
connection.request("GET", sys.argv[2])
answer = connection.getresponse()
sys.stdout.buffer.write(answer.read())
sys.exit(answer.status != 200)
"""


class Witness(Protocol):
    """Somebody who knows whether a pod has it."""

    def has(self, pod: str) -> bool:
        """Whether it has; False also while it cannot say.

        Raises:
            Denied: We may not ask.
            Missing: There is nobody to ask.
        """


@dataclass(frozen=True, slots=True)
class Sign:
    """How something shows that was written for a gateway.

    Attributes:
        dump: Path of what Envoy's admin interface tells of it.
        seen: Whether it is in that.
        counters: Beginnings of the lines of the metrics that count how often it was taken over; all of them count anew when it is.
    """

    dump: str
    seen: Callable[[Json], bool]
    counters: tuple[str, ...]


def until_taken_over(cluster: Cluster, release: str, mark: str, witness: Witness | None) -> Told:
    """Make the kubelets look at a gateway's pods, and wait until each has what was written for it.

    Args:
        cluster: The cluster.
        release: Of the gateway.
        mark: Tells what was written apart from what was before.
        witness: Who is asked; None where nobody may be.

    Raises:
        NotReadyError: A pod that can be asked does not take it over.
        KivaError: The cluster does not answer.
    """
    waiting = {name for name, _ in running(cluster, release)}
    number = len(waiting)
    if not number:
        return Told()
    pods = f"{number} pod{'' if number == 1 else 's'}"
    may, nudges = _nudged(cluster, waiting, mark), 1
    take = "takes" if number == 1 else "take"
    soon = "usually within seconds, " if may else ""
    unseen = Told(within_s=LONGEST_S, note=f"{pods} of the gateway, which cannot be asked, {take} it over {soon}at the latest after {LONGEST_S:g} s")
    if witness is None:
        return unseen
    for elapsed_s in cluster.clock.ticks(_GIVEN_UP_AFTER_S, every_s=_ASKED_EVERY_S):
        for name in sorted(waiting):
            try:
                if witness.has(name):
                    waiting.remove(name)
            except Denied:
                return unseen
            except Missing:
                if name in dict(running(cluster, release)):
                    return unseen
        if not waiting:
            return Told(taken_over=True, note=f"seen in {pods} after {elapsed_s:.1f} s")
        waiting &= dict(running(cluster, release)).keys()
        if may and elapsed_s > nudges * _NUDGED_EVERY_S:
            nudges += 1
            _nudged(cluster, waiting, f"{mark}-{nudges}")
    raise NotReadyError(
        f"{len(waiting)} of {pods} of the gateway did not take over the change within {_GIVEN_UP_AFTER_S:g} s", "kivactl status; then the same command again"
    )


def running(cluster: Cluster, release: str) -> list[tuple[str, Json]]:
    """The pods whose containers have their files already; one that is only being made gets the new ones anyway."""
    pods = cluster.list("Pod", f"{INSTANCE}={release}").items
    return [(str(pod["metadata"]["name"]), pod) for pod in pods if (pod.get("status") or {}).get("phase") == "Running" and not ending(pod)]


@contextmanager
def witness_of(cluster: Cluster, release: str, sign: Sign, metrics_port: int, *, before: bool) -> Iterator[Witness | None]:
    """Who can be asked whether the pods have something; None when nobody may be.

    Args:
        cluster: The cluster.
        release: Of the gateway.
        sign: How it shows.
        metrics_port: The gateway's.
        before: Whether it is still to be written: counters say something only when it is.
    """
    pods = running(cluster, release)
    if pods and all(_TOOLS in _containers(pod) for _, pod in pods) and _may(cluster, "exec"):
        yield _Inside(cluster, sign)
    elif pods and before and _may(cluster, "portforward"):
        with ExitStack() as stack:
            try:
                witness = _Counted({name: _forwarded(cluster, name, metrics_port, stack) for name, _ in pods}, sign.counters)
            except KivaError:
                yield None
            else:
                yield witness
    else:
        yield None


@contextmanager
def shown_by(cluster: Cluster, release: str, https_port: int, fingerprint: str) -> Iterator[Witness | None]:
    """The pods themselves as witnesses of the certificate that they show; None when nobody may connect to them."""
    with ExitStack() as stack:
        try:
            ports = {name: _forwarded(cluster, name, https_port, stack) for name, _ in running(cluster, release)}
        except KivaError:
            yield None
        else:
            yield _Shown(ports, fingerprint)


@dataclass(frozen=True, slots=True)
class _Inside:
    """Envoy's admin interface, asked by a program in the container beside it."""

    cluster: Cluster
    sign: Sign

    def has(self, pod: str) -> bool:
        try:
            ran = self.cluster.run_in(pod, _TOOLS, ["python3", "-c", _PROGRAM, str(POD_FILES.admin_socket), self.sign.dump], timeout_s=10)
            return ran.code == 0 and self.sign.seen(json.loads(ran.stdout))
        except (Denied, Missing):
            raise
        except (KivaError, ValueError):
            return False


class _Counted:
    """The gateways' own counters, compared with what they were."""

    def __init__(self, ports: Mapping[str, int], counters: tuple[str, ...]) -> None:
        self._ports, self._counters = ports, counters
        self._before = {pod: self._read(pod) for pod in ports}

    def has(self, pod: str) -> bool:
        if pod not in self._ports:
            return True  # it is new, and so are its files
        with suppress(KivaError):
            now, before = self._read(pod), self._before[pod]
            return all(now[name] != before[name] for name in now)
        return False

    def _read(self, pod: str) -> dict[str, float]:
        text = scrape(f"127.0.0.1:{self._ports[pod]}", GATEWAY_METRICS)
        lines = {name: re.search(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE) for name in self._counters}
        return {name: float(line[1]) if line else 0.0 for name, line in lines.items()}


@dataclass(frozen=True, slots=True)
class _Shown:
    """The certificates that new clients see."""

    ports: Mapping[str, int]
    fingerprint: str

    def has(self, pod: str) -> bool:
        return pod not in self.ports or tls.shown_fingerprint("127.0.0.1", self.ports[pod]) == self.fingerprint


def _forwarded(cluster: Cluster, pod: str, port: int, stack: ExitStack) -> int:
    forward = cluster.forward(pod, port)
    stack.callback(forward.close)
    return forward.port


def _nudged(cluster: Cluster, pods: set[str], mark: str) -> bool:
    """Change an annotation of pods, so that their kubelets look at them; whether we may."""
    for pod in sorted(pods):
        try:
            cluster.patch("Pod", pod, {"metadata": {"annotations": {ANNOTATION: mark}}})
        except Missing:
            continue
        except Denied:
            return False
    return True


def _may(cluster: Cluster, subresource: str) -> bool:
    return cluster.can_i(Permission("create", "Pod", subresource=subresource))


def _containers(pod: Mapping[str, Any]) -> set[str]:
    spec = pod.get("spec") or {}
    return {str(one.get("name")) for group in ("containers", "initContainers") for one in spec.get(group) or ()}

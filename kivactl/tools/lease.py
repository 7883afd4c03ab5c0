"""One operator at a time per platform: a Lease in the cluster that is renewed while its holder lives.

Clocks of different machines are never compared: a lease has run out when we have watched it unchanged for as long as it is given for. Every
change of it names the version it changes, so that of two who try at once one is refused.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial

from kivactl.errors import KivaError, NotReadyError, PreconditionError
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_errors import AlreadyThere, Changed
from kivactl.tools.kube_objects import Json, version_of

LASTS_S = 20
"""For so long a lease is given; whoever dies keeps the others out no longer."""
RENEW_S = 5.0
"""Between two renewals. Who comes second is told of the first as soon as it sees one."""
_LOOK_S = 1.0
_PATIENCE_S = 3.0
"""With a cluster that does not answer, where we try again anyway or are about to end."""
_KIND = "Lease"


class Taken(PreconditionError):
    """Someone else holds the lease; `holder` is who."""

    holder: str = ""


class Lost(PreconditionError):
    """The lease we held is someone else's."""


class Held:
    """A lease that we hold; made by `held`.

    Attributes:
        holder: We, as others read it: `user@host command (mark)`.
    """

    def __init__(self, cluster: Cluster, name: str, holder: str) -> None:
        self.holder = holder
        self._cluster = cluster
        self._hurried = cluster.impatient(_PATIENCE_S)
        self._name = name
        self._renewed_s = cluster.clock.now_s()
        self._guard = threading.Lock()
        self._lost = ""

    def check(self) -> None:
        """Ask before each step that changes something; a lease that was not renewed lately is renewed first. Nobody takes it in the next ten seconds.

        Raises:
            Lost: It is not ours any more.
            KivaError: It had to be renewed, and could not be.
        """
        if not self._lost and self._cluster.clock.now_s() - self._renewed_s > LASTS_S / 2:
            self._renew(self._cluster)
        if self._lost:
            raise Lost(f"the lock of {self._name} was taken over by {self._lost} while this command could not renew it", "wait until they have finished")

    def renew(self) -> None:
        """Say that we are alive, without waiting for a cluster that does not answer.

        Raises:
            Lost: The lease is someone else's.
            KivaError: The cluster does not take it.
        """
        self._renew(self._hurried)

    def release(self) -> None:
        """Give it back, if it is still ours."""
        with self._guard:
            self._hurried.change(_KIND, self._name, lambda lease: _with(lease, "", 1) if holder_in(lease) == self.holder else None)

    def _renew(self, cluster: Cluster) -> None:
        with self._guard:
            began_s = cluster.clock.now_s()
            cluster.change(_KIND, self._name, self._renewal)
            self._renewed_s = began_s

    def _renewal(self, lease: Json) -> Json:
        if (holder := holder_in(lease)) != self.holder:
            self._lost = holder or "someone who has given it back since"
            raise Lost(f"the lock of {self._name} was taken over by {self._lost}", "wait until they have finished")
        return _with(lease, self.holder, LASTS_S)


@contextmanager
def held(cluster: Cluster, platform: str, verb: str, *, waiting: Callable[[str], None] | None = None) -> Iterator[Held]:
    """Hold the lease `kivactl-<platform>`.

    A lease whose holder shows no life is waited for until it has run out, 20 s at most, and taken over.

    Args:
        cluster: Whose namespace it lies in.
        platform: What is locked.
        verb: What we do, for the other one's message.
        waiting: Told once who has the lease when we begin to wait whether it is alive.

    Raises:
        Taken: Someone else holds it and is alive.
        KivaError: As every method of `Cluster`.
    """
    lease = _acquired(cluster, platform, _ourselves(verb), waiting)
    stop = threading.Event()
    thread = threading.Thread(target=_renewed, args=(lease, stop), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join(RENEW_S)
        with suppress(KivaError):  # it runs out by itself, and what was done within counts more
            lease.release()


def holder_of(cluster: Cluster, platform: str) -> str:
    """Who has the lease (alive or not); empty when nobody does."""
    lease = cluster.get(_KIND, name_of(platform))
    return holder_in(lease) if lease else ""


def name_of(platform: str) -> str:
    """The lease's name."""
    return f"kivactl-{platform}"


def holder_in(lease: Json) -> str:
    """Who holds a lease; empty when nobody does."""
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _acquired(cluster: Cluster, platform: str, us: str, waiting: Callable[[str], None] | None) -> Held:
    name = name_of(platform)
    seen, since_s, told = "", 0.0, False
    # Only a crowd of commands that take and drop the lease would need more looks than this.
    for _ in range(10 * LASTS_S):
        lease = cluster.get(_KIND, name)
        holder = holder_in(lease) if lease else ""
        now_s = cluster.clock.now_s()
        if lease is not None and holder:
            if version_of(lease) != seen:
                if seen:
                    raise _taken(platform, holder)
                seen, since_s = version_of(lease), now_s
            if now_s - since_s <= _lasts_s(lease):
                if waiting is not None and not told:
                    waiting(f"locked by {holder}: looking whether it is alive")
                told = True
                cluster.clock.sleep(_LOOK_S)
                continue
        held_lease = Held(cluster, name, us)
        try:
            made = cluster.change(_KIND, name, partial(_taken_over, found=lease, us=us)) if lease else cluster.create(_new(name, us))
        except (AlreadyThere, Changed, _Faster):
            seen = ""  # someone else was faster: look anew who it is
            continue
        if holder_in(made) == us:
            return held_lease
    raise NotReadyError(f"the lock of platform '{platform}' could not be had: too many want it at once", "run the same command again")


class _Faster(Exception):
    """Someone else has changed the lease that we were about to take."""


def _taken_over(there: Json, *, found: Json, us: str) -> Json:
    if holder_in(there) == us:  # our own try, whose answer was lost
        return there
    if version_of(there) != version_of(found):
        raise _Faster
    return _with(there, us, LASTS_S, anew=True)


def _taken(platform: str, holder: str) -> Taken:
    error = Taken(f"the platform '{platform}' is locked by {holder}", "wait until it has finished, or stop it; then run the same command again")
    error.holder = holder
    return error


def _renewed(lease: Held, stop: threading.Event) -> None:
    while not stop.wait(RENEW_S):
        try:
            lease.renew()
        except Lost:
            return
        except KivaError:  # `check` tries again, and tells
            continue


def _lasts_s(lease: Json) -> float:
    """As its holder says, within reason."""
    seconds = (lease.get("spec") or {}).get("leaseDurationSeconds")
    return float(min(max(seconds, 1), 5 * LASTS_S)) if isinstance(seconds, int) else float(LASTS_S)


def _new(name: str, us: str) -> Json:
    metadata = {"name": name, "labels": {"app.kubernetes.io/managed-by": "kivactl", "app.kubernetes.io/part-of": "kiva"}}
    return _with({"apiVersion": "coordination.k8s.io/v1", "kind": _KIND, "metadata": metadata}, us, LASTS_S, anew=True)


def _with(lease: Json, holder: str, lasts_s: int, *, anew: bool = False) -> Json:
    """The lease as a holder writes it. Times are for people; nobody compares them."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {**(lease.get("spec") or {}), "holderIdentity": holder, "leaseDurationSeconds": lasts_s, "renewTime": now}
    if anew:
        spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
    return {**lease, "spec": spec}


def _ourselves(verb: str) -> str:
    return f"{getpass.getuser()}@{socket.gethostname()} {verb} (pid {os.getpid()}, {secrets.token_hex(3)})"

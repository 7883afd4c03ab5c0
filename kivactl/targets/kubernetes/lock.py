"""One operator at a time per platform, whoever's machine it is: the Lease in the cluster, lent to everything that this process does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kivactl.tools.kube import Cluster
from kivactl.tools.lease import Held, Taken, held

_MOMENT_S = 60.0
"""Seconds that others may write the gateway's release."""

_SHARED: dict[tuple[str, str, str], Lock] = {}


class Lock:
    """The lock of one platform. A procedure is made of commands that each take it; while one holds it, it counts as held for all of them.

    Args:
        cluster: The cluster whose Lease it is.
        platform: What is locked.
    """

    def __init__(self, cluster: Cluster, platform: str) -> None:
        self._cluster = cluster
        self._platform = platform
        self._guard = threading.RLock()
        self._held: Held | None = None

    @contextmanager
    def held(self, verb: str) -> Iterator[Held]:
        """Hold it.

        Args:
            verb: What we do, for the other one's message.

        Raises:
            PreconditionError: Someone else holds it.
            KivaError: The cluster does not answer.
        """
        if self._held is not None:
            yield self._held
            return
        with self._guard, held(self._cluster, self._platform, verb) as lease:
            self._held = lease
            try:
                yield lease
            finally:
                self._held = None


def lock_of(cluster: Cluster, platform: str) -> Lock:
    """The lock that everything in this process shares which goes to the same namespace of the same cluster."""
    return _SHARED.setdefault((cluster.server, cluster.namespace, platform), Lock(cluster, platform))


@contextmanager
def writing(cluster: Cluster, platform: str, verb: str) -> Iterator[Held]:
    """Hold the lease of the gateway's release, which everyone has for the moment of writing only, so that it is waited for.

    A deploy holds the platform's lock besides, for as long as it takes; who revokes a token does not wait for that.

    Args:
        cluster: The cluster.
        platform: Whose gateway.
        verb: What we do, for the other one's message.

    Raises:
        PreconditionError: Someone has it for longer.
        KivaError: The cluster does not answer.
    """
    began_s = cluster.clock.now_s()
    with ExitStack() as stack:
        while True:
            try:
                lease = stack.enter_context(held(cluster, f"{platform}.gateway", verb))
                break
            except Taken:
                if cluster.clock.now_s() - began_s >= _MOMENT_S:
                    raise
                cluster.clock.sleep(1.0)
        yield lease

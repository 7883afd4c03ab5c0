"""One operator at a time per platform, whoever's machine it is: the Lease in the cluster, lent to everything that this process does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kivactl.tools.kube import Cluster
from kivactl.tools.lease import Held, Taken, held


class Lock:
    """The lock of one platform. A procedure is made of commands that each take it; within this process it counts as held once more.

    Args:
        cluster: The cluster whose Lease it is.
        platform: What is locked.
        patience_s: Seconds that someone else may hold it; for a lock that is held for moments only.
    """

    def __init__(self, cluster: Cluster, platform: str, *, patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
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
        with self._guard:
            if self._held is not None:
                yield self._held
                return
            with ExitStack() as stack:
                self._held = self._acquired(stack, verb)
                try:
                    yield self._held
                finally:
                    self._held = None

    def _acquired(self, stack: ExitStack, verb: str) -> Held:
        began_s = self._cluster.clock.now_s()
        while True:
            try:
                return stack.enter_context(held(self._cluster, self._platform, verb))
            except Taken:
                if self._cluster.clock.now_s() - began_s >= self._patience_s:
                    raise
                self._cluster.clock.sleep(1.0)

"""Finds replicas that hang: their process lives, and the gateway sees that they generate nothing any more.

The gateway leaves such a replica alone, but requests it has already taken would wait for ever, and nobody would start it
anew. Ended, its connections break, the gateway tries the requests elsewhere, and the supervisor starts it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kivactl.stack.layout import Layout
from kivactl.targets.release import read_release
from kivactl.tools.envoy import Admin, Upstream
from kivactl.tools.supervisor import ProcessState

PATIENCE_S = 5.0
"""Seconds the gateway must have found a replica stalled; its own checks have taken their time before."""

GATEWAY_IS_LATE_S = 20.0
"""The gateway may call a dead process healthy for some seconds; so much longer one must have lived to have served."""


class Watch:
    """What is known of the replicas from one look to the next."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._since_s: dict[str, float] = {}

    def stalled(self, processes: Mapping[str, ProcessState], replicas: Mapping[str, str], upstreams: Iterable[Upstream], now_s: float) -> dict[str, int]:
        """The replicas that served and have generated nothing for too long.

        Args:
            processes: What the supervisor says, by name.
            replicas: Socket of each replica, by name.
            upstreams: What the gateway says; empty when it does not answer, and then nothing is stalled.
            now_s: Time of this look.

        Returns:
            Process id by name.
        """
        seen = {upstream.address: upstream for upstream in upstreams if not upstream.draining}
        found = {}
        for name, address in replicas.items():
            process, upstream = processes.get(name), seen.get(address)
            if process is None or upstream is None or process.state != "RUNNING":
                self._since_s.pop(name, None)
            elif upstream.healthy:
                self._since_s.pop(name, None)
                if process.uptime_s > GATEWAY_IS_LATE_S:
                    self._served[name] = process.pid
            elif self._served.get(name) == process.pid and now_s - self._since_s.setdefault(name, now_s) >= PATIENCE_S:
                found[name] = process.pid
                del self._served[name], self._since_s[name]
        return found


def look(watch: Watch, layout: Layout, processes: Mapping[str, ProcessState], now_s: float) -> dict[str, int]:
    """The stalled replicas of the platform on this machine."""
    replicas = {name: str(layout.engine_socket(name)) for names in read_release(layout.release).replicas.values() for name in names}
    return watch.stalled(processes, replicas, Admin(layout.gateway_admin_socket, timeout_s=2).upstreams(), now_s)

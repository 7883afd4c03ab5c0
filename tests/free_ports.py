"""Ports for what tests start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

_FROM, _UNTIL = 20_000, 32_000
"""Below those that the kernel gives to connections, which would take a neighbour before it is used."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_pair() -> int:
    """A port of the loopback interface whose neighbour, for the metrics, is free too."""
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(_FROM, _UNTIL, 2)
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port

"""Ports of the loopback interface that are free at the moment."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_000, 2)
"""Below those that Linux gives to connections, any of which would take a port or its neighbour before it is used. Each has the next one for
itself, so that what is given is never a neighbour of something else that was."""


def free_port() -> int:
    """A port on which nothing listens now."""
    return _first_of(1)


def free_pair() -> int:
    """A port on which nothing listens now, nor on the next one: a gateway's, with that of its metrics."""
    return _first_of(2)


def _first_of(count: int) -> int:
    chance = random.SystemRandom()
    while True:
        first = chance.choice(_PORTS)
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind((LOOPBACK, port))
            except OSError:
                continue
            return first

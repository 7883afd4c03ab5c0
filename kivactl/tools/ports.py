"""Ports of the loopback interface that are free at the moment."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
_PAIRS = range(20_000, 32_000, 2)
"""Below those that Linux gives to connections, any of which would take a port or its neighbour before it is used."""


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def free_pair() -> int:
    """A port on which nothing listens now, nor on the next one: a gateway's, with that of its metrics."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PAIRS)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind((LOOPBACK, port))
                other.bind((LOOPBACK, port + 1))
            except OSError:
                continue
            return port

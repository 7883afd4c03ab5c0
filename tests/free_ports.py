"""Ports for what tests start."""

from __future__ import annotations

from kivactl.tools.ports import free_port


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)

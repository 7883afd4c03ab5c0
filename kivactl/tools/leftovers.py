"""Finds processes by a variable in their environment: what outlived its supervisor is found after any crash."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kivactl.tools.clock import Clock


def marked(variable: str, value: str) -> list[int]:
    """Process ids, but our own, whose environment has `variable=value`. Only processes of the same user can be read."""
    needle = f"{variable}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  (a Path for every process of the machine would double the time)
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            if needle in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def in_group(group: int) -> list[int]:
    """Process ids of a process group."""
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  (as above)
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry)) == group:
                found.append(int(entry))
    return found


def segments_of(pids: Iterable[int]) -> set[Path]:
    """The shared-memory segments that processes have mapped: what stays in memory when they are killed."""
    segments: set[Path] = set()
    for pid in pids:
        with suppress(OSError):
            for line in Path("/proc", str(pid), "maps").read_text().splitlines():
                _, found, name = line.partition(" /dev/shm/")
                if found and not name.endswith(" (deleted)"):
                    segments.add(Path("/dev/shm", name))  # noqa: S108  (where Linux keeps them)
    return segments


def memory_bytes(variable: str, value: str) -> int:
    """Memory such processes hold, without counting what they share with each other twice."""
    total = 0
    for pid in marked(variable, value):
        with suppress(OSError, ValueError):
            rollup = Path("/proc", str(pid), "smaps_rollup").read_text()
            total += next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def end_marked(variable: str, value: str, clock: Clock | None = None, patience_s: float = 10) -> int:
    """End such processes, politely first, and say how many there were; returns when they are gone."""
    pids = marked(variable, value)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked(variable, value):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if any(not marked(variable, value) for _ in (clock or Clock()).ticks(patience_s, every_s=0.1)):
            break
    return len(pids)

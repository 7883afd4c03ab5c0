"""Finds processes by a variable in their environment: what outlived its supervisor is found after any crash.

A program that sets its title, as engine cores do, may overwrite its environment with it. Such a process is known by what it
cannot overwrite: a value that is a folder marks every process that works in it and whose environment cannot say otherwise.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kivactl.tools.clock import Clock

KEEPS_ENVIRONMENT = {"SPT_NOENV": "1"}
"""Makes setproctitle leave the environment readable. Source: https://github.com/dvarrazzo/py-setproctitle#environment-variables"""

_DELETED = " (deleted)"
_LOADING_S = 0.5


def marked(variable: str, value: str) -> list[int]:
    """Process ids, but our own, that carry a mark. Only processes of the same user can be read.

    Args:
        variable: Name of the variable.
        value: Its whole value. Where it is the absolute path of a folder, those count too that work in this very folder and whose
            environment is overwritten; someone's shell in it has its environment, and does not.
    """
    needle = f"{variable}={value}".encode()
    folder = os.path.realpath(value) if value.startswith("/") else None
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  (a Path for every process of the machine would double the time)
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            environment = _environment_of(entry)
            if needle in environment.split(b"\0") or (folder is not None and _is_overwritten(environment) and _folder_of(entry) == folder):
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


def _environment_of(entry: str) -> bytes:
    """The environment of a process; of one whose program is just being loaded, which reads as empty for so long, once it is there."""
    environ = Path("/proc", entry, "environ")
    if environment := environ.read_bytes():
        return environment
    for _ in Clock().ticks(_LOADING_S, every_s=0.001):
        if not _is_loading(entry):
            break
    return environ.read_bytes()


def _is_loading(entry: str) -> bool:
    """Whether a process has memory and no environment yet: between the two, `execve` has told its parent already that all is well.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 23 (vsize) and 51 (env_end).
    """
    fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
    vsize, env_end = fields[20], fields[48]
    return vsize != "0" and env_end == "0"


def _is_overwritten(environment: bytes) -> bool:
    """Whether an environment does not begin as one does, with a variable: a title has taken the place, or the zeros after it.

    Of variables that the program had set anew itself, and of all behind them, there may be some left.
    """
    return bool(environment) and b"=" not in environment.partition(b"\0")[0]


def _folder_of(entry: str) -> str:
    """The folder a process works in, which may be deleted."""
    return os.readlink(f"/proc/{entry}/cwd").removesuffix(_DELETED)  # noqa: PTH115  (as above)

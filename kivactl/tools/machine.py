"""This machine: processors, memory, GPUs, disk, and who holds a port.

Inside a container the limits of its control group count, not what the machine has. Each source is read once and parsed
by a pure function.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import PreconditionError, ToolError
from kivactl.tools import process

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 2**60
"""Control groups of version 1 without a limit report a number just below 2**63."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: The product, such as `NVIDIA H200`.
        memory_bytes: Its own memory; 0 when the driver does not tell (memory shared with the processor).
        index: Its number, as in CUDA_VISIBLE_DEVICES.
    """

    name: str
    memory_bytes: int
    index: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use of the machine.

    Attributes:
        cores: Ids of the logical processors, neighbours first: threads of one core, then cores of one socket.
        memory_total_bytes: Size of the memory, or the control group's limit.
        memory_available_bytes: What can be had now without swapping.
        gpus: By index.
    """

    cores: tuple[int, ...]
    memory_total_bytes: int
    memory_available_bytes: int
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A control group's limit, and what its processes use of it without what can be dropped at once."""

    limit_bytes: int
    used_bytes: int


def facts() -> Machine:
    """What this process may use of the machine, now."""
    import psutil

    memory = psutil.virtual_memory()
    limits = memory_limits(Path("/proc/self/cgroup"), _CGROUPS)
    return Machine(
        cores=ordered_cores(os.sched_getaffinity(0), _topology()),
        memory_total_bytes=min([memory.total, *(limit.limit_bytes for limit in limits)]),
        memory_available_bytes=min([memory.available, *(max(0, limit.limit_bytes - limit.used_bytes) for limit in limits)]),
        gpus=_gpus(),
    )


def usable_processors() -> int:
    """How many logical processors this process may run on."""
    return len(os.sched_getaffinity(0))


def disk_free(path: Path) -> int:
    """Bytes that we may still write to the disk that holds a path; the path itself need not exist yet."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def holder_of(address: str, port: int) -> str | None:
    """Who listens on a port.

    Args:
        address: Where we want to listen.
        port: 1 to 65535.

    Returns:
        Such as `python3 (pid 123, user root)`, or None when the port is free.

    Raises:
        PreconditionError: We may not listen there at all: a privileged port, or not an address of this machine.
    """
    refusal = _refusal_to_bind(address, port)
    if refusal is None:
        return None
    if refusal in {errno.EACCES, errno.EPERM}:
        raise PreconditionError(f"no permission to listen on port {port}", "choose a port above 1023 with `gateway.port` in kiva.yaml")
    if refusal != errno.EADDRINUSE:
        raise PreconditionError(f"'{address}' is not an address of this machine", "correct `gateway.address` in kiva.yaml")
    return _listener(address, port) or "another process (not visible to you)"


def ordered_cores(cores: Iterable[int], topology: Mapping[int, tuple[int, int]]) -> tuple[int, ...]:
    """Sort processors so that neighbours share the most.

    Args:
        cores: Ids of logical processors.
        topology: Socket and core of each; unknown ones come last.
    """
    far = (2**31, 2**31)
    return tuple(sorted(cores, key=lambda core: (topology.get(core, far), core)))


def parse_gpus(text: str, visible: str | None = None) -> tuple[Gpu, ...]:
    """Parse nvidia-smi's lines of index, UUID, name and memory in MiB.

    Args:
        text: `--query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits`.
        visible: The value of CUDA_VISIBLE_DEVICES: indexes or beginnings of UUIDs; None for all.
    """
    wanted = None if visible is None else [word.strip() for word in visible.split(",") if word.strip()]
    gpus = []
    for line in text.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) < 4 or not fields[0].isdigit():
            continue
        index, uuid, memory = fields[0], fields[1], fields[-1]
        if wanted is None or any(word == index or (not word.isdigit() and uuid.startswith(word)) for word in wanted):
            gpus.append(Gpu(name=", ".join(fields[2:-1]), memory_bytes=int(memory) * 2**20 if memory.isdigit() else 0, index=int(index)))
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))


def memory_limits(membership: Path, root: Path) -> list[MemoryLimit]:
    """The memory limits that hold for a process: its control group's and those of all groups above.

    Args:
        membership: Such as `/proc/self/cgroup`.
        root: Where control groups are mounted.
    """
    try:
        text = membership.read_text()
    except OSError:
        return []
    limits: list[MemoryLimit] = []
    for version, group in parse_membership(text):
        top = root if version == 2 else root / "memory"
        folder = top / group.lstrip("/")
        # In a container the group's path can be the host's, which is not mounted here: then the top is our group.
        folders = [folder, *folder.parents] if folder.is_dir() else [top]
        for part in (each for each in folders if each.is_relative_to(top)):
            limit = _limit_v2(part) if version == 2 else _limit_v1(part)
            if limit is not None:
                limits.append(limit)
    return limits


def parse_membership(text: str) -> list[tuple[int, str]]:
    """The groups that govern memory, from the text of `/proc/PID/cgroup`: version (1 or 2) and path of each."""
    found = []
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found.append((2, group))
        elif "memory" in controllers.split(","):
            found.append((1, group))
    return found


def parse_limit(limit: str, usage: str, stat: str) -> MemoryLimit | None:
    """A group's limit from its files, in bytes; None where it has none.

    Args:
        limit: `memory.max` or `memory.limit_in_bytes`.
        usage: `memory.current` or `memory.usage_in_bytes`.
        stat: `memory.stat`; what `inactive_file` counts the kernel drops when memory is needed.
    """
    if not limit.strip().isdigit() or int(limit) >= _UNLIMITED_BYTES:
        return None
    numbers = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    cache = numbers.get("total_inactive_file", numbers.get("inactive_file", "0"))
    used = int(usage) - int(cache) if usage.strip().isdigit() and cache.strip().isdigit() else 0
    return MemoryLimit(int(limit), max(0, used))


def _limit_v2(folder: Path) -> MemoryLimit | None:
    return parse_limit(_text(folder / "memory.max"), _text(folder / "memory.current"), _text(folder / "memory.stat"))


def _limit_v1(folder: Path) -> MemoryLimit | None:
    return parse_limit(_text(folder / "memory.limit_in_bytes"), _text(folder / "memory.usage_in_bytes"), _text(folder / "memory.stat"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _topology() -> dict[int, tuple[int, int]]:
    found = {}
    for core in os.sched_getaffinity(0):
        folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
        with suppress(OSError, ValueError):
            found[core] = (int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text()))
    return found


def _gpus() -> tuple[Gpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        answer = process.run(["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"], timeout_s=20)
    except (ToolError, PreconditionError):
        return ()  # installed, but without a working driver; `doctor` says so
    return parse_gpus(answer.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def is_exposed(port: int) -> bool:
    """Whether something listens on a TCP port of this machine that others can reach, beyond the loopback interface."""
    import ipaddress

    import psutil

    listening = (found.laddr for found in psutil.net_connections(kind="tcp") if found.status == psutil.CONN_LISTEN and found.laddr)
    return any(not ipaddress.ip_address(where.ip).is_loopback for where in listening if where.port == port)


def _refusal_to_bind(address: str, port: int) -> int | None:
    """The error number of listening there, or None when it can be done."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno
    return None


def _listener(address: str, port: int) -> str | None:
    import psutil

    everywhere = {"0.0.0.0", "::"}  # noqa: S104  (compared, not bound)
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr or connection.laddr.port != port or connection.pid is None:
            continue
        if address in everywhere or connection.laddr.ip in everywhere or connection.laddr.ip == _resolved(address):
            with suppress(psutil.Error):
                holder = psutil.Process(connection.pid)
                return f"{holder.name()} (pid {holder.pid}, user {holder.username()})"
    return None


def _resolved(address: str) -> str:
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror:
        return address

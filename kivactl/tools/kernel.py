"""The kernel's word on memory: whom it killed, by its log and by the counters of the control group."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import PreconditionError, ToolError
from kivactl.tools import process
from kivactl.tools.machine import parse_membership

_KILLED = re.compile(r"^\[\s*(?P<at>\d+\.\d+)\]\s*(?P<group>Memory cgroup out of memory|Out of memory)[^:]*: Killed process (?P<pid>\d+) \((?P<name>[^)]*)\)")


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that the kernel killed for want of memory.

    Attributes:
        pid: Its id, as the machine counts; a container may see another.
        name: Its short name, such as `VLLM::EngineCor`.
        in_group: Whether a control group's limit was the reason, not the whole memory.
        up_s: When, in seconds since the machine started.
    """

    pid: int
    name: str
    in_group: bool
    up_s: float


def log() -> list[str] | None:
    """The kernel's log, line by line; None where it may not be read."""
    if shutil.which("dmesg") is None:
        return None
    try:
        return process.run(["dmesg"], timeout_s=10).stdout.splitlines()
    except (ToolError, PreconditionError):
        return None


def parse_kills(lines: Iterable[str]) -> list[Kill]:
    """Whom the kernel killed for want of memory, in order."""
    found = (_KILLED.match(line) for line in lines)
    return [Kill(int(match["pid"]), match["name"], match["group"].startswith("Memory"), float(match["at"])) for match in found if match]


def kills_counted(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How often the kernel killed for want of memory in our control group; None where nothing counts it.

    Args:
        membership: Such as `/proc/self/cgroup`.
        root: Where control groups are mounted.
    """
    try:
        groups = parse_membership(membership.read_text())
    except OSError:
        return None
    counts = []
    for version, group in groups:
        top, name = (root, "memory.events") if version == 2 else (root / "memory", "memory.oom_control")
        here = top / group.lstrip("/")
        count = parse_count(_text((here if here.is_dir() else top) / name))
        if count is not None:
            counts.append(count)
    return max(counts, default=None)


def parse_count(text: str) -> int | None:
    """`oom_kill` of `memory.events` (version 2) or `memory.oom_control` (version 1); None when it does not say."""
    match = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else None


def up_s() -> float:
    """Seconds since the machine started, as the kernel's log counts."""
    return float(Path("/proc/uptime").read_text().split()[0])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

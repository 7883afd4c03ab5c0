"""Plugin of vLLM: an engine's processes that wait for each other leave the rest of the machine its turn.

vLLM's processes poll shared memory and call `sched_yield` between two looks. Since Linux 6.18 tasks that yield to each other can carry the
scheduler's measure of fairness away with them ("sched/fair: Fix zero_vruntime tracking fix" tells how; that fix is not in every such
kernel): whatever else is due on their cores, the API server, the gateway or a shell, was seen to wait for up to ten seconds. There they
sleep for as short a time as the system can, as vLLM itself does where yielding is of no use. Declared in `pyproject.toml`, loaded by vLLM
in each of its processes.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Any

_UNFAIR_SINCE = (6, 18)


def register() -> None:
    """What vLLM calls, maybe several times in a process. Does nothing where yielding is fair, or to a vLLM that waits otherwise."""
    system = os.uname()
    if system.sysname == "Linux" and yields_unfairly(system.release):
        waiting: Any = import_module("vllm.distributed.utils")
        if hasattr(waiting, "USE_SCHED_YIELD"):
            waiting.USE_SCHED_YIELD = False


def yields_unfairly(release: str) -> bool:
    """Whether a Linux of this release may starve others while tasks yield; none that names no version does.

    Args:
        release: As `uname -r` says it.
    """
    version = re.match(r"(\d+)\.(\d+)", release)
    return version is not None and (int(version[1]), int(version[2])) >= _UNFAIR_SINCE

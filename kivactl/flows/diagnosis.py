"""What can end an engine, what its log says of that, and what helps; wherever it runs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What ended a replica."""

    NONE = "nothing ended it"
    KERNEL = "killed by the kernel for want of memory"
    KILLED = "killed, by whom cannot be seen"
    STALLED = "ended because it generated nothing any more"
    CACHE_TOO_LARGE = "the memory for its KV cache was refused"
    CACHE_TOO_SMALL = "its KV cache is too small for its longest request"
    MEMORY_TAKEN = "others hold the memory that it wants"
    GPU_FULL = "the GPU's memory did not suffice"
    SHARED_MEMORY = "the shared memory is full"
    OTHER = "it ended for another reason"


_ADVICE = {
    Cause.NONE: "nothing to do",
    Cause.KERNEL: "a smaller `kv_cache`, a shorter `max_length` or fewer `replicas` in kiva.yaml, or more memory; then kivactl deploy",
    Cause.KILLED: "see who did: journalctl -k, auditd, the control group's memory.events",
    Cause.STALLED: "see what it did last: kivactl logs; a driver, a full GPU or a bug of the engine",
    Cause.CACHE_TOO_LARGE: "a smaller `kv_cache` or fewer `replicas` in kiva.yaml; then kivactl deploy",
    Cause.CACHE_TOO_SMALL: "a larger `kv_cache` or a shorter `max_length` in kiva.yaml; then kivactl deploy",
    Cause.MEMORY_TAKEN: "end what else uses the memory (nvidia-smi, top), or a smaller `kv_cache` in kiva.yaml; then kivactl deploy",
    Cause.GPU_FULL: "a smaller `kv_cache` or `concurrency` in kiva.yaml; then kivactl deploy",
    Cause.SHARED_MEMORY: "mount -o remount,size=2G /dev/shm (in a container: --shm-size 2g)",
    Cause.OTHER: "kivactl logs",
}

_SAID = (
    (Cause.CACHE_TOO_SMALL, re.compile(r"No available memory for the cache blocks|larger than the available KV cache")),
    (Cause.MEMORY_TAKEN, re.compile(r"is less than desired (GPU|CPU) memory utilization")),
    (Cause.GPU_FULL, re.compile(r"CUDA out of memory|OutOfMemoryError")),
    (Cause.SHARED_MEMORY, re.compile(r"Bus error|No space left on device: '/dev/shm|unable to (mmap|open|resize) .*shm|insufficient shared memory")),
    (Cause.CACHE_TOO_LARGE, re.compile(r"DefaultCPUAllocator: .*can't allocate memory|Cannot allocate memory|\bMemoryError\b|std::bad_alloc")),
)
"""Words of vLLM, torch and the C++ library."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What ended a replica.

    Attributes:
        cause: What.
        evidence: Lines that say so.
        advice: What helps.
    """

    cause: Cause
    evidence: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        return _ADVICE[self.cause]


def said_in(log: str) -> tuple[Cause, str] | None:
    """What the end of an engine's log says of its end, with the line; None when nothing that is known."""
    for line in reversed(log.splitlines()):
        for cause, words in _SAID:
            if words.search(line):
                return cause, line
    return None

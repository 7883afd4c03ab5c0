"""What a trouble with a pod is made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What keeps a pod from its work; the values are what records keep."""

    IMAGE_MISSING = "image missing"
    IMAGE_DENIED = "image denied"
    REGISTRY = "registry unreachable"
    GPU = "no GPU free"
    CPU = "no processor free"
    MEMORY = "no memory free"
    NODES = "no node allowed"
    VOLUME = "volume"
    ADMISSION = "admission denied"
    QUOTA = "quota exceeded"
    OUT_OF_MEMORY = "out of memory"
    CRASH = "crash"
    CONFIGURATION = "configuration"
    PROGRAM = "program missing"
    STARTUP = "startup budget over"
    STALLED = "stalled"
    NODE = "node not ready"
    EVICTED = "evicted"
    PRELOAD = "preload failed"
    SANDBOX = "pod sandbox"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong.

    Attributes:
        cause: What kind of trouble.
        subject: Whose, such as `pod kiva-smollm2-7d9f`.
        sentence: For people; without a trailing full stop.
        hint: The next command, or what to change.
        hopeless: Whether waiting will not mend it.
        details: Lines that say so, such as the engine's last ones.
    """

    cause: Cause
    subject: str
    sentence: str
    hint: str
    hopeless: bool = False
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """Context and namespace, for the commands that are recommended; `flags` where more than the context leads there."""

    context: str
    namespace: str
    flags: str = ""

    def command(self, words: str) -> str:
        """A kubectl command there."""
        return f"kubectl {self.flags or f'--context {self.context}'} -n {self.namespace} {words}"


@dataclass(frozen=True, slots=True)
class Logs:
    """A container's last lines: of the one that runs, and of the one before."""

    now: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


def tail(text: str) -> str:
    """What an error is about in the end: `rpc error: code = X desc = failed to ...: a: b` has it behind the description."""
    return text.rpartition(" desc = ")[2] or text


def one_line(text: str) -> str:
    """A text as a part of a sentence: on one line, without a full stop, not too long."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 300 else f"{line[:299]}…"

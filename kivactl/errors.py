"""The errors a user can cause or meet, each with the exit code the shell sees.

Belongs here: `KivaError` and its leaves. A `KivaError` says in one sentence what is wrong and names the culprit;
its hint is the next command. It never prints: the one error boundary (`cli.boundary`) does. A caller's mistake is
a `ValueError`, and anything else that reaches the boundary is our bug (exit code 1).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class KivaError(Exception):
    """Something the user can cause, or must know.

    Args:
        message: One sentence that names the culprit, without a trailing full stop.
        hint: What to do next, ideally a command; empty when there is nothing to suggest.
        details: Lines shown below the sentence (an engine's last log lines, the faults of a spec).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class UsageError(KivaError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = 2


class SpecError(KivaError):
    """What people wrote (spec, runbook, scenario) has faults; `details` has one line each, with file:line."""

    exit_code = 2


class PreconditionError(KivaError):
    """Something that must be there first is missing: a tool, memory, a port, a permission, a lock."""

    exit_code = 3


class ToolError(KivaError):
    """An external program failed."""

    exit_code = 4


class NotReadyError(KivaError):
    """Something did not become ready within its time budget."""

    exit_code = 5


class CheckError(KivaError):
    """A check failed: a service level missed, a verification without the expected answer."""

    exit_code = 6


class InvalidMeasurementError(KivaError):
    """A load test ran, but its figures cannot be believed."""

    exit_code = 7


class Interrupted(KivaError):
    """The user or the system asked to stop (SIGINT, SIGTERM)."""

    exit_code = 130


def from_os_error(error: OSError) -> KivaError | None:
    """Translate the operating system's refusals that a user can mend.

    Args:
        error: As raised by a file or socket operation.

    Returns:
        The error to show, or None when the cause is not the user's to mend (then it is our bug).
    """
    where = str(error.filename) if error.filename is not None else "a file"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return PreconditionError(f"no space left on the disk that holds {where}", "free some space, then run the same command again")
        case errno.EACCES | errno.EPERM:
            return PreconditionError(f"no permission for {where}", "check the owner of the folder, or choose another with `storage.state` in kiva.yaml")
        case errno.EROFS:
            return PreconditionError(f"{where} lies on a read-only file system", "choose another folder with `storage.state` in kiva.yaml")
        case _:
            return None


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Translate what the operating system refuses within; it is said of a path where the system names none itself.

    Raises:
        KivaError: As `from_os_error`.
        OSError: The cause is not the user's to mend.
    """
    try:
        yield
    except OSError as error:
        known = from_os_error(error if error.filename is not None else OSError(error.errno, error.strerror, str(path)))
        if known is None:
            raise
        raise known from error

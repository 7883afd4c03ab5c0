"""One operator at a time per platform: a lock that dies with its holder and says who holds it."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kivactl.errors import PreconditionError


@contextmanager
def held(path: Path, verb: str) -> Iterator[None]:
    """Hold a platform's lock.

    The kernel lets go of the lock when the holder dies, however it dies; the file's text only tells who it is.

    Args:
        path: The lock file; its folder must exist.
        verb: What the holder does, for the other one's message.

    Raises:
        PreconditionError: Someone else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreconditionError(
                f"the platform is locked by {_holder(descriptor)}", "wait until it has finished, or stop it; then run the same command again"
            ) from None
        holder = {
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "verb": verb,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        return f"'{who['verb']}' of {who['user']}@{who['host']} (pid {who['pid']}, since {who['since']})"
    except (ValueError, KeyError):
        return "another command"

"""One operator at a time per platform: a lock that dies with its holder and says who holds it."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kivactl.errors import PreconditionError


class _Lent:
    """The locks that a procedure holds for everything that this process does meanwhile."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._paths: dict[str, tuple[int, int]] = {}

    def lend(self, path: Path) -> None:
        with self._guard:
            self._paths[_key(path)] = (os.getpid(), 1)

    def taken(self, path: Path) -> bool:
        """Whether the lock is this process's own already; then it counts as held once more."""
        with self._guard:
            pid, count = self._paths.get(_key(path), (0, 0))
            if pid != os.getpid():  # a forked child has the memory of its parent, not its rights
                return False
            self._paths[_key(path)] = (pid, count + 1)
            return True

    def returned(self, path: Path) -> bool:
        """Count one holder less; says whether it was the last."""
        with self._guard:
            pid, count = self._paths[_key(path)]
            if count > 1:
                self._paths[_key(path)] = (pid, count - 1)
                return False
            del self._paths[_key(path)]
            return True


_LENT = _Lent()


@contextmanager
def held(path: Path, verb: str, *, lending: bool = False, subject: str = "the platform") -> Iterator[None]:
    """Hold a lock.

    The kernel lets go of the lock when the holder dies, however it dies; the file's text only tells who it is.

    Args:
        path: The lock file; its folder must exist.
        verb: What the holder does, for the other one's message.
        lending: Whether whatever this process does meanwhile may hold it too, in any thread: a procedure is made of commands that each
            take the lock. Without it the lock excludes other threads as well.
        subject: What is locked, for the message.

    Raises:
        PreconditionError: Someone else holds it.
    """
    if _LENT.taken(path):
        try:
            yield
        finally:
            _LENT.returned(path)
        return
    descriptor = _acquired(path, subject)
    try:
        holder = {
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "verb": verb,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        if not lending:
            yield
        else:
            _LENT.lend(path)
            try:
                yield
            finally:
                _LENT.returned(path)
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> str:
    """Who holds a lock; empty when nobody does. It is not taken, and the file not made."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    else:
        return ""
    finally:
        os.close(descriptor)


def _acquired(path: Path, subject: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(descriptor, path):
                return descriptor
        except BlockingIOError:
            who = _holder(descriptor)
            os.close(descriptor)
            raise PreconditionError(f"{subject} is locked by {who}", "wait until it has finished, or stop it; then run the same command again") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it before removed the file: the lock of a file without a name excludes nobody


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        return f"'{who['verb']}' of {who['user']}@{who['host']} (pid {who['pid']}, since {who['since']})"
    except (ValueError, KeyError, TypeError):
        return "another command"


def _key(path: Path) -> str:
    return str(path.resolve())

"""Runs external programs: the only place that imports subprocess.

A child gets a process group of its own, so that Ctrl-C in the terminal reaches kivactl first and kivactl decides in
which order things end: SIGINT, then SIGTERM, then SIGKILL, each with time to finish.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from kivactl.errors import PreconditionError, ToolError

Ladder = Sequence[tuple[int, float]]
"""Signals and seconds to wait for the child to end after each, in order; the signal 0 is none: it is only waited."""

WAITING = "(it is waited for)"
"""The line that `follow` yields of its own after a Ctrl-C: the program is let come to its end."""

_LADDER: Ladder = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

_LOOK_S = 0.1
_KEPT_LINES = 40
_LISTEN_S = 1.0
"""A program's last words are there at once; what it left behind may hold its standard error open for ever."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A child that ended. `code` is negative when a signal ended it (`-9` for SIGKILL)."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def find(program: str, hint: str = "") -> Path:
    """The path of a program on PATH.

    Raises:
        PreconditionError: It is not there; the hint says how to get it.
    """
    path = shutil.which(program)
    if path is None:
        raise PreconditionError(f"the program '{program}' is not on PATH", hint or "kivactl doctor")
    return Path(path)


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    inherit: bool = True,
    stdin: str | None = None,
    timeout_s: float | None = None,
    patience_s: float = 0.0,
    check: bool = True,
) -> Completed:
    """Run a program to its end and keep what it printed.

    Args:
        argv: Program and arguments; no shell reads them. Secrets go through `stdin` or `env`, never here.
        cwd: Folder to run in.
        env: Added to this process's environment, or the whole of it without `inherit`.
        inherit: Whether the child gets this process's environment.
        stdin: Text for its standard input, empty otherwise.
        timeout_s: Seconds until it is ended.
        patience_s: Seconds that it may go on by itself when kivactl is interrupted, before it is ended; a second Ctrl-C ends it at once.
        check: Whether an exit code other than 0 raises.

    Raises:
        PreconditionError: There is no such program.
        ToolError: It failed (with `check`), or ran past `timeout_s`.
    """
    words = tuple(str(word) for word in argv)
    with _spawned(words, cwd, {**(os.environ if inherit else {}), **(env or {})}, merge=False) as child:
        try:
            stdout, stderr = child.communicate(stdin or "", timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ToolError(f"'{Path(words[0]).name}' did not end within {timeout_s:g} s") from None
        except BaseException:
            if patience_s:
                with suppress(subprocess.TimeoutExpired):
                    child.communicate(timeout=patience_s)
            raise
    completed = Completed(words, child.returncode, stdout, stderr)
    if check and completed.code != 0:
        raise failure(completed)
    return completed


def stream(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = True, timeout_s: float | None = None
) -> Generator[str, None, None]:
    """Run a program and yield its lines (stdout and stderr as one) while it runs; leaving the loop early ends it.

    Raises:
        PreconditionError: There is no such program.
        ToolError: It failed (with `check`; the last lines are its details), or ran past `timeout_s`.
    """
    words = tuple(str(word) for word in argv)
    last: list[str] = []
    expired = threading.Event()
    with _spawned(words, cwd, {**os.environ, **(env or {})}, merge=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()

        def expire() -> None:
            expired.set()
            end(child)

        alarm = threading.Timer(timeout_s, expire) if timeout_s else None
        if alarm:
            alarm.daemon = True
            alarm.start()
        try:
            for line in child.stdout:
                last = [*last[-19:], line.rstrip("\n")]
                yield last[-1]
        finally:
            if alarm:
                alarm.cancel()
        child.wait()
    if expired.is_set():
        raise ToolError(f"'{Path(words[0]).name}' did not end within {timeout_s:g} s", details=tuple(last))
    if check and child.returncode != 0:
        raise failure(Completed(words, child.returncode, "\n".join(last), ""))


def follow(
    argv: Sequence[str | Path], record: Path, *, cwd: Path, env: Mapping[str, str], ladder: Ladder = _LADDER, timeout_s: float | None = None
) -> Generator[str, None, int]:
    """Run a program that prints into a file, and yield its lines (stdout and stderr as one) while it runs; leaving the loop early ends it.

    Where kivactl dies, the program goes on to its end: a pipe would break under it in the middle of its work. Files that it makes are its
    user's alone.

    Args:
        argv: Program and arguments.
        record: The file, made anew with mode 0600.
        cwd: Folder to run in.
        env: The whole of its environment.
        ladder: How it is ended. A further Ctrl-C goes on to the next signal at once; where the first only waits, the line `WAITING` tells it.
        timeout_s: Seconds until it is ended.

    Returns:
        Its exit code, negative when a signal ended it.

    Raises:
        PreconditionError: There is no such program.
        ToolError: It ran past `timeout_s`.
    """
    words = tuple(str(word) for word in argv)
    record.unlink(missing_ok=True)
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=subprocess.STDOUT, start_new_session=True, umask=0o077
        )
    except FileNotFoundError:
        raise PreconditionError(f"the program '{words[0]}' is not there", "kivactl doctor") from None
    finally:
        os.close(descriptor)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        with record.open(encoding="utf-8", errors="replace") as lines:
            yield from _growing(lines, child, deadline)
    except KeyboardInterrupt:
        if ladder[0][0] == 0 and child.poll() is None:
            yield WAITING
        raise
    finally:
        if child.poll() is None:
            end(child, ladder)
    if deadline is not None and time.monotonic() >= deadline and child.returncode != 0:
        raise ToolError(f"'{Path(words[0]).name}' did not end within {timeout_s:g} s")
    return child.returncode


def _growing(lines: TextIO, child: subprocess.Popen[bytes], deadline: float | None) -> Iterator[str]:
    """The lines of a file that a child writes, until it has ended or its time is over."""
    begun = ""
    while True:
        over = child.poll() is not None  # asked before reading: what it wrote last is then in the file
        while part := lines.readline():
            begun += part
            if begun.endswith("\n"):
                yield begun.rstrip("\n")
                begun = ""
        if over or (deadline is not None and time.monotonic() >= deadline):
            if begun:
                yield begun
            return
        with suppress(subprocess.TimeoutExpired):
            child.wait(_LOOK_S)


class Dialogue:
    """A program that is spoken with while it runs, by threads if need be: bytes in, bytes out; its errors are kept by a thread of its own.

    Its standard input is a pipe that ends when kivactl does, however it does.

    Args:
        argv: Program and arguments.
        cwd: Folder to run in.
        env: Added to this process's environment.
        only_talks: Whether what it prints is talk like its errors, so that nothing is read from it.

    Raises:
        PreconditionError: There is no such program.
    """

    def __init__(self, argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, only_talks: bool = False) -> None:
        words = tuple(str(word) for word in argv)
        errors = subprocess.STDOUT if only_talks else subprocess.PIPE
        try:
            self._child = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise PreconditionError(f"the program '{words[0]}' is not there", "kivactl doctor") from None
        self._talk: deque[str] = deque(maxlen=_KEPT_LINES)
        source = self._child.stdout if only_talks else self._child.stderr
        assert source is not None
        self._listener = threading.Thread(target=self._listen, args=(source,), name=f"errors of {Path(words[0]).name}", daemon=True)
        self._listener.start()

    @property
    def talk(self) -> tuple[str, ...]:
        """The last lines of its errors; complete once it has ended."""
        return tuple(self._talk)

    def say(self, message: bytes) -> bool:
        """Write to it; returns whether it still listens."""
        assert self._child.stdin is not None
        rest = memoryview(message)
        try:
            while rest:
                rest = rest[self._child.stdin.write(rest) :]
        except (OSError, ValueError):  # it has ended, or its input is closed
            return False
        return True

    def hear(self, most_bytes: int = 1 << 16) -> bytes:
        """What it has printed, as soon as there is any; empty when it has ended."""
        assert self._child.stdout is not None
        if self._child.stdout.closed:
            return b""
        piece = os.read(self._child.stdout.fileno(), most_bytes)
        if not piece:
            self._child.stdout.close()
        return piece

    def hush(self) -> None:
        """Close its standard input."""
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; returns its exit code (negative: a signal), None where it goes on."""
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._listener.join(_LISTEN_S)
        return code

    def end(self, ladder: Ladder = _LADDER) -> int:
        """End it and its process group; returns its exit code."""
        if self._child.poll() is None:
            end(self._child, ladder)
        self.hush()
        self._listener.join(_LISTEN_S)  # which closes what it hears, as `hear` does: nobody closes a pipe that another thread reads
        return self._child.returncode

    def _listen(self, source: IO[bytes]) -> None:
        begun = b""
        with source:
            while piece := os.read(source.fileno(), 1 << 16):
                *lines, begun = (begun + piece).split(b"\n")
                self._talk.extend(line.decode(errors="replace").rstrip("\r") for line in lines)
        if begun:
            self._talk.append(begun.decode(errors="replace"))


def failure(completed: Completed) -> ToolError:
    """The error for a program that failed: its name, how it ended, its last lines."""
    ending = f"was ended by {signal.Signals(-completed.code).name}" if completed.code < 0 else f"failed with exit code {completed.code}"
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()[-20:]
    return ToolError(f"'{Path(completed.argv[0]).name}' {ending}", details=tuple(lines))


def end(child: subprocess.Popen[str] | subprocess.Popen[bytes], ladder: Ladder = _LADDER) -> None:
    """End a child and its whole process group, politely first; returns when it is gone. A Ctrl-C meanwhile goes on to the next signal."""
    for number, patience_s in ladder:
        if child.poll() is not None:
            break
        _signal_group(child.pid, number)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(patience_s)
    _signal_group(child.pid, signal.SIGKILL)  # what the leader left behind


@contextmanager
def _spawned(words: tuple[str, ...], cwd: Path | None, env: Mapping[str, str], *, merge: bool) -> Iterator[subprocess.Popen[str]]:
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        raise PreconditionError(f"the program '{words[0]}' is not there", "kivactl doctor") from None
    try:
        yield child
    finally:
        if child.poll() is None:
            end(child)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe:
                pipe.close()


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)

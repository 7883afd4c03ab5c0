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
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import PreconditionError, ToolError

_LADDER = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""Signal and seconds to wait for the child to end, in order."""


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


def failure(completed: Completed) -> ToolError:
    """The error for a program that failed: its name, how it ended, its last lines."""
    ending = f"was ended by {signal.Signals(-completed.code).name}" if completed.code < 0 else f"failed with exit code {completed.code}"
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()[-20:]
    return ToolError(f"'{Path(completed.argv[0]).name}' {ending}", details=tuple(lines))


def end(child: subprocess.Popen[str]) -> None:
    """End a child and its whole process group, politely first; returns when it is gone."""
    for number, patience_s in _LADDER:
        if child.poll() is not None:
            break
        _signal_group(child.pid, number)
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
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


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)

"""The append-only record of what was done, one JSON object a line, on disk before the next step begins.

A journal is opened before the first step, so that even a killed process leaves the point to resume from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kivactl.plan import Outcome

_WITHIN: ContextVar[str] = ContextVar("within", default="")
"""The run that everything now opened is a part of."""


class Journal:
    """One run's record, appended to a file that all runs of a verb share.

    Args:
        path: The file; made with mode 0600, its folder must exist.
        run: Name of the run, such as `deploy-20260101T120000Z-4711`.
        facts: What the run starts from (plan, versions); never secrets.
    """

    def __init__(self, path: Path, run: str, facts: dict[str, Any] | None = None) -> None:
        self.path = path
        self.run = run
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _ends_within_a_line(path):
                os.write(self._descriptor, b"\n")  # a crash cut the last entry short; ours must not become a part of it
            self._write({"at": timestamp(), "event": "opened", **_outer(run), **(facts or {})})
        except BaseException:
            self._release()
            raise

    def record(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Pass outcomes through, writing each (but mere progress) to disk before it is passed on."""
        for outcome in outcomes:
            if not outcome.passing:
                self._write(outcome.as_dict())
            yield outcome

    def close(self, verdict: str) -> None:
        """Write the last line and close the file; a second call does nothing."""
        if self._descriptor >= 0:
            try:
                self._write({"at": timestamp(), "event": "closed", "verdict": verdict})
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close("done")
        elif issubclass(kind, (KeyboardInterrupt, GeneratorExit)):
            self.close("interrupted")
        else:
            self.close("failed")

    def _release(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            os.write(self._descriptor, (json.dumps({"run": self.run, **entry}) + "\n").encode())
            os.fsync(self._descriptor)
        except OSError as error:
            error.filename = str(self.path)
            raise


@contextmanager
def within(run: str) -> Iterator[None]:
    """Whatever is opened meanwhile, in this thread, is recorded as a part of a run."""
    token = _WITHIN.set(run)
    try:
        yield
    finally:
        _WITHIN.reset(token)


def note(path: Path, run: str, event: str, facts: dict[str, Any] | None = None) -> None:
    """Append one entry of a run that keeps no file open: one whose details stand elsewhere, or that may replace the journal itself.

    Args:
        path: As for `Journal`.
        run: Name of the run.
        event: `opened` or `closed`.
        facts: More of it; never secrets.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        start = b"\n" if _ends_within_a_line(path) else b""
        entry = {"run": run, "at": timestamp(), "event": event, **_outer(run), **(facts or {})}
        os.write(descriptor, start + (json.dumps(entry) + "\n").encode())
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """All entries in order; a half-written last line (a crash) is left out, a missing file is empty."""
    entries: list[dict[str, Any]] = []
    if not path.exists():
        return entries
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def run_name(verb: str) -> str:
    """A name for a run: verb, UTC time, process id."""
    return f"{verb}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"


def timestamp() -> str:
    """Now in UTC, as journals write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _outer(run: str) -> dict[str, str]:
    outer = _WITHIN.get()
    return {"within": outer} if outer and outer != run else {}


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

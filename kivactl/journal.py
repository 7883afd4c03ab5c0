"""The append-only record of what was done, one JSON object a line, on disk before the next step begins.

A journal is opened before the first step, so that even a killed process leaves the point to resume from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kivactl.plan import Outcome


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
            self._write({"at": _timestamp(), "event": "opened", **(facts or {})})
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
                self._write({"at": _timestamp(), "event": "closed", "verdict": verdict})
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


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""The load tests there were: listed, shown again, and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl.errors import UsageError
from kivactl.loadtest.assignment import Folder
from kivactl.loadtest.comparison import Difference, Side, compare, doubts
from kivactl.loadtest.metrics import Window
from kivactl.loadtest.record import read_records
from kivactl.loadtest.wording import status_of

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Run:
    """A load test that was.

    Attributes:
        name: Of its folder.
        folder: Where all of it lies.
        summary: As in `summary.json`.
    """

    name: str
    folder: Path
    summary: Mapping[str, Any]

    @property
    def result(self) -> str:
        """How it ended, in a word."""
        return status_of({"interrupted": False, "invalid": None, "service_levels": (), **self.summary}).value

    @property
    def ended_at(self) -> datetime:
        return datetime.fromtimestamp(Folder(self.folder).summary.stat().st_mtime, UTC)

    def as_dict(self) -> dict[str, Any]:
        """The run in short, as JSON-ready data."""
        told = {name: self.summary.get(name) for name in ("scenario", "model", "load", "requests", "requests_per_s", "output_tokens_per_s")}
        return {"run": self.name, "folder": str(self.folder), "ended_at": self.ended_at.isoformat(timespec="seconds"), **told, "result": self.result}


def runs_in(folder: Path) -> list[Run]:
    """The runs below a folder, the newest first; what is unfinished or of another make is left out."""
    found = [run for place in folder.glob("*") if (run := _read(place)) is not None]
    return sorted(found, key=lambda run: run.ended_at, reverse=True)


def find_run(name: str, folder: Path) -> Run:
    """A run by its name, its folder's path, or `latest`.

    Args:
        name: As typed.
        folder: Where the platform's runs lie.

    Raises:
        UsageError: There is none.
    """
    if name == LATEST:
        runs = runs_in(folder)
        if not runs:
            raise UsageError(f"there is no load test in {folder}", "kivactl loadtest smoke")
        return runs[0]
    for place in (Path(name), folder / name):
        run = _read(place)
        if run is not None:
            return run
    raise UsageError(f"there is no load test '{name}'", "kivactl loadtest list")


def compare_runs(first: Run, second: Run) -> tuple[list[Difference], list[str]]:
    """What differs, and why that may not mean what it seems.

    Raises:
        UsageError: A run has no records of its own, as the search for a capacity.
    """
    return compare(_side(first), _side(second)), list(doubts(first.summary, second.summary))


def _side(run: Run) -> Side:
    files, window = Folder(run.folder), run.summary.get("window")
    if not files.packed.exists() or not window:
        probes = run.summary.get("probes")
        hint = f"name one of its runs: {run.folder / 'probes' / '01'}" if probes else "kivactl loadtest list"
        raise UsageError(f"the load test '{run.name}' has no records to compare", hint)
    return Side(run.summary, read_records(files.packed), Window(window["start_ns"], window["end_ns"]))


def _read(place: Path) -> Run | None:
    try:
        summary = json.loads(Folder(place).summary.read_text())
    except (OSError, ValueError):
        return None
    return Run(place.resolve().name, place, summary) if isinstance(summary, dict) and "scenario" in summary and "attainment" in summary else None

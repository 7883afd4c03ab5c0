"""The folders of runs: `STATE/runs/RUN` with journal, copy of the runbook, plan, and later measurements and evidence."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kivactl.errors import PreconditionError, UsageError
from kivactl.journal import run_name
from kivactl.plan import Plan
from kivactl.runbooks import chain
from kivactl.runbooks.record import Record
from kivactl.runbooks.replay import record_from
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held
from kivactl.targets.lock import holder_of as _holder_of
from kivactl.targets.release import write_file, write_json

JOURNAL = "journal.jsonl"
RUNBOOK = "runbook.yaml"
PLAN = "plan.json"
_LOCK = "lock"


def runs_folder(layout: Layout) -> Path:
    """Where the folders of all runs lie."""
    return layout.state / "runs"


def create(layout: Layout, runbook: str, text: str, plan: Plan) -> Path:
    """Make the folder of a new run.

    Args:
        layout: The platform's files.
        runbook: Name of the runbook.
        text: The runbook as it is run.
        plan: What was confirmed.

    Raises:
        OSError: The disk is full, or the folder may not be written.
    """
    runs = runs_folder(layout)
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    name, folder, count = run_name(runbook), runs / "", 1
    while True:
        folder = runs / (name if count == 1 else f"{name}-{count}")
        try:
            folder.mkdir(mode=0o700)
            break
        except FileExistsError:  # two within a second, or the clock was set back
            count += 1
    write_file(folder / RUNBOOK, text)
    write_json(folder / PLAN, plan.as_dict())
    chain.set_aside(folder)
    return folder


@contextmanager
def working_on(folder: Path, verb: str) -> Iterator[None]:
    """Be the only one who works on a run.

    Raises:
        PreconditionError: Someone else does.
    """
    with held(folder / _LOCK, verb, subject=f"the run {folder.name}"):
        yield


def holder_of(folder: Path) -> str:
    """Who works on a run now; empty when nobody does."""
    return _holder_of(folder / _LOCK)


def record_of(folder: Path) -> Record:
    """A run as its journal tells it.

    Raises:
        PreconditionError: There is no journal, or the run was cut off before it was opened.
    """
    try:
        entries = chain.entries_of((folder / JOURNAL).read_bytes())
    except FileNotFoundError:
        entries = []
    record = record_from(folder.name, entries, held=bool(holder_of(folder)))
    if record is None:
        raise PreconditionError(f"the run {folder.name} was cut off before it began: nothing was done", "kivactl runbook history")
    return record


def history(layout: Layout) -> list[Record]:
    """Every run that was opened, the newest first."""
    records = []
    for folder in _folders(layout):
        try:
            records.append(record_of(folder))
        except PreconditionError:
            continue
    return sorted(records, key=lambda record: (record.opened_at, record.run), reverse=True)


def find(layout: Layout, text: str) -> Path:
    """The folder of a run.

    Args:
        layout: The platform's files.
        text: Its name, an unambiguous beginning of it, or `latest`.

    Raises:
        UsageError: There is none, or there are several.
    """
    names = [folder.name for folder in _folders(layout)]
    if text in names:
        return runs_folder(layout) / text
    if text == "latest":
        records = history(layout)
        if not records:
            raise UsageError("no runbook has been run here yet", "kivactl runbook list")
        return runs_folder(layout) / records[0].run
    found = [name for name in names if text and name.startswith(text)]
    if len(found) == 1:
        return runs_folder(layout) / found[0]
    if found:
        raise UsageError(f"'{text}' is the beginning of {len(found)} runs", "name one of them", tuple(sorted(found)))
    near = difflib.get_close_matches(text, names, n=1)
    raise UsageError(f"there is no run named '{text}'" + (f"; did you mean '{near[0]}'?" if near else ""), "kivactl runbook history")


def plan_of(folder: Path) -> dict[str, object]:
    """The plan that was confirmed, as data; empty when it is unreadable."""
    try:
        plan = json.loads((folder / PLAN).read_text())
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _folders(layout: Layout) -> list[Path]:
    try:
        return sorted(path for path in runs_folder(layout).iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []

"""Exchanges the state of a platform for another one, by renaming alone: killed anywhere, doing it again leads to the same end.

Nothing is deleted: what was there lies aside until `settle`, and `go_back` puts it in place again.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.flows.restore.places import KEPT, Places
from kivactl.targets.release import write_json


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange that is prepared or done.

    Attributes:
        run: Whose.
        snapshot: Id of the backup.
        names: Entries of the new state folder.
        before: Entries of the old one.
        placed: Whether all of the new one is in place.
    """

    run: str
    snapshot: str
    names: tuple[str, ...]
    before: tuple[str, ...]
    placed: bool = False


def read_exchange(places: Places) -> Exchange | None:
    """What was begun; None when nothing was, or the record is not whole (then nothing was moved)."""
    data = _read(places.record)
    try:
        return Exchange(str(data["run"]), str(data["snapshot"]), tuple(data["names"]), tuple(data["before"]), bool(data["placed"])) if data else None
    except (KeyError, TypeError):
        return None


def prepare(places: Places, state: Path, run: str, snapshot: str) -> Exchange:
    """Note that the new state is whole and may be put in place. From here on the exchange goes through."""
    names = tuple(sorted(path.name for path in places.new.iterdir()))
    before = tuple(sorted(path.name for path in state.iterdir() if path.name not in KEPT))
    found = Exchange(run, snapshot, names, before)
    places.aside(run).mkdir(mode=0o700, exist_ok=True)
    _sync(places.new)
    write_json(places.record, asdict(found))
    _sync(places.folder)
    return found


def place(places: Places, state: Path, exchange: Exchange) -> None:
    """Put the new state in place, the old one aside; what is done is not done again."""
    aside = places.aside(exchange.run)
    for name in sorted({*exchange.names, *exchange.before}):
        new, here, old = places.new / name, state / name, aside / name
        if name in exchange.names and not _there(new):
            continue  # in place already
        if _there(here):
            if name in exchange.before and not _there(old):
                here.rename(old)
            elif name in exchange.names:
                _remove(here)  # made meanwhile, by whoever noted that the run goes on
        if _there(new):
            new.rename(here)
    _sync(aside)
    _sync(state)
    write_json(places.record, {**asdict(exchange), "placed": True})


def go_back(places: Places, state: Path, run: str) -> bool:
    """Put what a run replaced in place again; where there was nothing, what it put in place stays. Taken up again, the run begins its exchange anew.

    Returns:
        Whether there was anything.
    """
    exchange = read_exchange(places)
    if exchange is None or exchange.run != run:
        return False
    if not exchange.before:
        places.record.unlink(missing_ok=True)
        return False
    aside = places.aside(run)
    for name in sorted({*exchange.names, *exchange.before}):
        here, old = state / name, aside / name
        if _there(old):
            _remove(here)
            old.rename(here)
        elif name not in exchange.before:
            _remove(here)
    _sync(state)
    _remove(places.new)
    places.record.unlink(missing_ok=True)
    _remove(aside)
    return True


def settle(places: Places) -> None:
    """Remove everything that a restore needed; there is no way back afterwards.

    Raises:
        PreconditionError: An exchange is not done: the old state would be lost and the new one not be there.
    """
    exchange = read_exchange(places)
    if exchange is not None and not exchange.placed:
        raise PreconditionError(f"the run {exchange.run} has not put everything in place", f"kivactl runbook resume {exchange.run}")
    give_up(places.folder)


def give_up(folder: Path) -> None:
    """Remove a folder so that it is there as a whole or not at all: half of an old state must never be put in place again."""
    removing = folder.with_name(f".{folder.name}.removing")
    _remove(removing)  # of someone who was cut off
    if _there(folder):
        folder.rename(removing)
        _remove(removing)


def note_before(places: Places, run: str, facts: dict[str, Any]) -> None:
    """Remember how the platform was before a run touched it; the first word of a run counts."""
    if before_of(places, run) is None:
        write_json(places.before, {"run": run, **facts})


def before_of(places: Places, run: str) -> dict[str, Any] | None:
    """How the platform was before a run; None when that was not noted."""
    data = _read(places.before)
    return data if data and data.get("run") == run else None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

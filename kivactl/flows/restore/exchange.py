"""Exchanges the state of a platform for another one, by renaming alone: killed anywhere, doing it again leads to the same end.

Nothing is deleted: what was there lies aside until `settle`, and `go_back` puts it in place again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.flows.restore.places import KEPT, Places
from kivactl.targets.release import write_json
from kivactl.tools.folders import remove


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
    """What was begun and goes on; None when nothing was, when it is being undone, or when the record is not whole (then nothing was moved)."""
    return _recorded(places.record)


def unsettled(places: Places) -> Exchange | None:
    """What was begun and is neither settled nor undone, whichever way it goes on."""
    return _recorded(places.back) or _recorded(places.record)


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
                remove(here)  # made meanwhile, by whoever noted that the run goes on
        if _there(new):
            new.rename(here)
    _sync(aside)
    _sync(state)
    write_json(places.record, {**asdict(exchange), "placed": True})


def go_back(places: Places, state: Path, run: str) -> bool:
    """Put what a run replaced in place again; where it replaced nothing, and is done, the new state stays, and taken up again the run begins anew.

    Returns:
        Whether there was anything.
    """
    exchange = read_exchange(places)
    if exchange is not None and exchange.run == run and (exchange.before or not exchange.placed):
        places.record.replace(places.back)
    elif exchange is not None and exchange.run == run:
        places.record.unlink(missing_ok=True)
    going = _recorded(places.back)
    if going is None or going.run != run:
        return False
    _undo(places, state, going)
    return True


def give_up(places: Places, state: Path, run: str) -> str | None:
    """Make room for an exchange of a run: what was cut off, or what the same run did before, is undone; what another one did stays.

    Returns:
        Whose exchange was undone; None when none was.
    """
    exchange = read_exchange(places)
    if exchange is not None and (exchange.run == run or not exchange.placed):
        places.record.replace(places.back)
    going = _recorded(places.back)
    if going is not None:
        _undo(places, state, going)
    places.record.unlink(missing_ok=True)
    return going.run if going else None


def settle(places: Places) -> None:
    """Remove everything that a restore needed; there is no way back afterwards.

    Raises:
        PreconditionError: An exchange is not done: the old state would be lost and the new one not be there.
    """
    unfinished = unsettled(places)
    if unfinished is not None and (_there(places.back) or not unfinished.placed):
        raise PreconditionError(f"the run {unfinished.run} has not put everything in place", f"kivactl runbook resume {unfinished.run}")
    # First of all the way back: whoever is cut off here must not put half of the old state in place.
    places.record.unlink(missing_ok=True)
    if _there(places.folder):
        _sync(places.folder)
    remove(places.folder)


def note_before(places: Places, run: str, facts: dict[str, Any]) -> None:
    """Remember how the platform was before a run touched it; the first word of a run counts."""
    if before_of(places, run) is None:
        write_json(places.before, {"run": run, **facts})


def before_of(places: Places, run: str) -> dict[str, Any] | None:
    """How the platform was before a run; None when that was not noted."""
    data = _read(places.before)
    return data if data and data.get("run") == run else None


def _undo(places: Places, state: Path, exchange: Exchange) -> None:
    """Renaming alone, which a full disk does not hinder."""
    aside = places.aside(exchange.run)
    for name in sorted({*exchange.names, *exchange.before}):
        here, old = state / name, aside / name
        if _there(old):
            remove(here)
            old.rename(here)
        elif name not in exchange.before:
            remove(here)
    _sync(state)
    remove(places.new)
    remove(aside)
    places.back.unlink(missing_ok=True)


def _recorded(path: Path) -> Exchange | None:
    data = _read(path)
    try:
        return Exchange(str(data["run"]), str(data["snapshot"]), tuple(data["names"]), tuple(data["before"]), bool(data["placed"])) if data else None
    except (KeyError, TypeError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

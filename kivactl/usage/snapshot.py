"""A copy of the ledger at one moment, in one file, made while the meter goes on writing; and what it adds up to."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError
from kivactl.stack.metering import SQLITE
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import open_ledger


def snapshot(address: str, platform: str, into: Path) -> None:
    """Write the ledger as it is now into a file; one that is there is replaced in one step.

    Args:
        address: `sqlite:...` or `postgresql://...`, as `open_ledger` takes it.
        platform: Whose.
        into: The file, a SQLite database that needs no other file.

    Raises:
        PreconditionError: There is no ledger.
        LedgerUnavailable: The database does not answer.
        OSError: The disk is full.
    """
    beside = into.with_name(f".{into.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        if address.startswith(SQLITE):
            open_ledger(address, platform, read_only=True).close()  # says what is wrong with it
            with (
                closing(sqlite3.connect(f"file:{Path(address.removeprefix(SQLITE)).absolute()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(beside)) as copy,
            ):
                source.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
        else:
            _exported(address, platform, beside)
        if into.exists() and filecmp.cmp(into, beside, shallow=False):
            return  # it keeps its time, so that the next backup need not read it
        beside.replace(into)
    except sqlite3.Error as error:
        raise CheckError(f"the ledger of '{platform}' cannot be copied: {error}", "kivactl status") from None
    finally:
        beside.unlink(missing_ok=True)


def sums_of(path: Path) -> dict[str, Any]:
    """What a ledger in a file adds up to: entries, the sums over all days, and a hash of every day's.

    Raises:
        CheckError: It is no ledger, or damaged.
    """
    names = ", ".join(f"CAST(coalesce(sum({name}), 0) AS INTEGER)" for name in Sums._fields)
    columns = ", ".join((*DayKey._fields, *Sums._fields))
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            sound = database.execute("PRAGMA integrity_check").fetchone()[0]
            if sound != "ok":
                raise CheckError(f"the ledger {path} is damaged: {sound}", "kivactl backup list")
            (entries,) = database.execute("SELECT count(*) FROM requests").fetchone()
            totals = database.execute(f"SELECT {names} FROM days").fetchone()  # noqa: S608  (our own names)
            days = database.execute(f"SELECT {columns} FROM days ORDER BY {', '.join(DayKey._fields)}").fetchall()  # noqa: S608  (our own names)
    except sqlite3.Error as error:
        raise CheckError(f"the ledger {path} is damaged: {error}", "kivactl backup list") from None
    return {"entries": int(entries), **dict(zip(Sums._fields, map(int, totals), strict=True)), "days": hashlib.sha256(json.dumps(days).encode()).hexdigest()}


def fill(address: str, platform: str, source: Path) -> bool:
    """Write a copy's entries into a ledger that has none, such as one on a new database server.

    Args:
        address: Of that ledger, as `open_ledger` takes it; made when it is not there.
        platform: Whose.
        source: The copy, as `snapshot` made it.

    Returns:
        Whether it had none; one that has entries is left as it is.

    Raises:
        LedgerUnavailable: The database does not answer.
    """
    with closing(open_ledger(address, platform)) as ledger, closing(open_ledger(f"{SQLITE}{source}", platform, read_only=True)) as copy:
        return ledger.fill_from(copy)


def _exported(address: str, platform: str, into: Path) -> None:
    """Copy every table out of another database, within one transaction that keeps other writers out."""
    with closing(open_ledger(f"{SQLITE}{into}", platform)) as copy, closing(open_ledger(address, platform)) as source, source.transaction():
        copy.fill_from(source)
    with closing(sqlite3.connect(into)) as database:
        database.execute("PRAGMA journal_mode=DELETE")

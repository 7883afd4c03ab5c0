"""Brings what a backup's ledger has into the ledger that a meter writes, once, while it writes: all of it in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from kivactl.errors import CheckError
from kivactl.stack.metering import SQLITE
from kivactl.usage.database import Sqlite
from kivactl.usage.join import Entry, Sums
from kivactl.usage.ledger import TABLES, Ledger, PriceList, open_ledger
from kivactl.usage.snapshot import snapshot

_KEPT = "positions"
"""How far the logs of now are read; those of the backup are gone."""


class Refilled(StrEnum):
    """What became of the ledger."""

    FILLED = "filled"
    REPLACED = "replaced"
    LEFT = "left"


def refill(ledger: Path, copy: Path, platform: str, *, run: str, since_ms: int, replace: bool) -> Refilled:
    """Fill a ledger out of a copy, where all that it has came since a moment; one that was there before stays, or is replaced.

    What came since then is kept beside what the copy has: a gateway that serves again is asked at once. Done again for the same run, it
    changes nothing.

    Args:
        ledger: The ledger's file; made when it is not there. A meter may have it open.
        copy: The backup's, as `snapshot` made it.
        platform: Whose.
        run: The run that restores.
        since_ms: When that run began, milliseconds since 1970 UTC.
        replace: Whether a ledger that was there before is replaced; a copy of it stays beside, for `refill_back`.

    Raises:
        CheckError: The copy is no ledger.
        LedgerUnavailable: It cannot be written just now.
    """
    open_ledger(f"{SQLITE}{ledger}", platform).close()  # makes it where there is none
    if replace and not _before(ledger, run).exists():
        snapshot(f"{SQLITE}{ledger}", platform, _before(ledger, run))
    with closing(Sqlite(ledger, patience_s=30)) as database, closing(Sqlite(copy, read_only=True)) as source:
        if not source.exists("ledger"):
            raise CheckError(f"{copy.name} is no ledger")
        database.begin()
        try:
            did = _refilled(database, source, run, since_ms, replace=replace)
            database.commit()
        except BaseException:
            database.roll_back()
            raise
    if did is not Refilled.REPLACED:
        _before(ledger, run).unlink(missing_ok=True)
    return did


def refill_back(ledger: Path, run: str) -> bool:
    """Give a ledger back what a run replaced.

    Returns:
        Whether it had replaced anything.

    Raises:
        LedgerUnavailable: It cannot be written just now.
    """
    before = _before(ledger, run)
    if not before.exists() or not ledger.exists():
        return False
    with closing(Sqlite(ledger, patience_s=30)) as database, closing(Sqlite(before, read_only=True)) as source:
        database.begin()
        try:
            replaced = _did(database, run) is Refilled.REPLACED
            if replaced:
                _exchange(database, source)
                database.query("DELETE FROM refills WHERE run = ?", (run,))
            database.commit()
        except BaseException:
            database.roll_back()
            raise
    before.unlink(missing_ok=True)
    return replaced


def forget_replaced(ledger: Path, run: str) -> None:
    """Remove the copy of what a run replaced: there is no way back afterwards."""
    _before(ledger, run).unlink(missing_ok=True)


def _refilled(database: Sqlite, source: Sqlite, run: str, since_ms: int, *, replace: bool) -> Refilled:
    done = _did(database, run)
    if done is not None:
        return done
    if _is_new(database, source, since_ms):
        _add(Ledger(database), Ledger(source))
        did = Refilled.FILLED
    elif replace:
        _exchange(database, source)
        did = Refilled.REPLACED
    else:
        did = Refilled.LEFT
    if did is not Refilled.LEFT:
        database.query("INSERT INTO refills (run, did) VALUES (?, ?)", (run, did.value))
    return did


def _did(database: Sqlite, run: str) -> Refilled | None:
    """What a run did already. The mark lies in the ledger itself, so that it is there if and only if the rest is."""
    database.query("CREATE TABLE IF NOT EXISTS refills (run TEXT PRIMARY KEY, did TEXT)")
    rows = database.query("SELECT did FROM refills WHERE run = ?", (run,))
    return Refilled(rows[0][0]) if rows else None


def _is_new(database: Sqlite, source: Sqlite, since_ms: int) -> bool:
    """Whether nothing is in a ledger but what came since a moment: every request that its days count is an entry from after it.

    Requests that the backup has too came before it, whatever a clock says.
    """
    (counted,) = database.query("SELECT coalesce(sum(requests), 0) FROM days")[0]
    ((since, before),) = database.query(
        "SELECT count(CASE WHEN ended_ms >= ? THEN 1 END), count(CASE WHEN ended_ms < ? THEN 1 END) FROM requests", (since_ms, since_ms)
    )
    if before or counted > since:
        return False
    ids = [str(row[0]) for row in database.query("SELECT request_id FROM requests")]
    condition, parameter = source.among("request_id", ids)
    return not source.query(f"SELECT 1 FROM requests WHERE {condition} LIMIT 1", (parameter,))  # noqa: S608  (our own names)


def _add(ledger: Ledger, source: Ledger) -> None:
    ledger.add_to_days({key: Sums._make(sums) for key, sums in source.days()})
    ledger.keep([Entry(*row) for row in source.rows("requests", TABLES["requests"])])
    ledger.add_unreadable(source.unreadable())
    ledger.add_averages(source.averages())
    ledger.warn(source.warnings())
    _add_prices(ledger, ledger.price_lists(), source.price_lists())


def _add_prices(ledger: Ledger, there: Mapping[str, PriceList], theirs: Mapping[str, PriceList]) -> None:
    """Months of the backup; of this month, which the meter has priced by the spec, the models that the spec no longer names."""
    for month, prices in theirs.items():
        now = there.get(month)
        missing = {model: tariff for model, tariff in prices.tariffs.items() if now is None or model not in now.tariffs}
        ledger.keep_price_list(month, prices.currency if now is None else now.currency, missing)


def _exchange(database: Sqlite, source: Sqlite) -> None:
    theirs = Ledger(source)
    for table, columns in TABLES.items():
        if table != _KEPT:
            database.query(f"DELETE FROM {table}")  # noqa: S608  (our own names)
            database.write(table, columns, theirs.rows(table, columns), "DO NOTHING")


def _before(ledger: Path, run: str) -> Path:
    return ledger.with_name(f"before-{run}.db")

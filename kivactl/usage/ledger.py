"""The ledger: an entry for each request, sums for each day, and how far the logs are read; all of it changes in one transaction.

The sums are kept as requests come, so that old requests can go and nothing of the bill goes with them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.stack.metering import SQLITE, Tariff, price_for, tariff_from
from kivactl.usage.database import Database, Row, Sqlite
from kivactl.usage.join import DayKey, Entry, Sums

VERSION = 1

_NUMBERS = frozenset(name for name in Entry._fields if name.endswith(("_ms", "_bytes", "_tokens"))) | {"status", "attempts"}


def _columns(names: Sequence[str], numbers: Collection[str]) -> str:
    return ", ".join(f"{name} {'BIGINT' if name in numbers else 'TEXT'}" for name in names)


_CREATED = (
    f"CREATE TABLE requests ({_columns(Entry._fields, _NUMBERS)}, PRIMARY KEY (request_id))",
    "CREATE INDEX requests_by_end ON requests (ended_ms)",
    f"CREATE TABLE days ({_columns((*DayKey._fields, *Sums._fields), Sums._fields)}, PRIMARY KEY ({', '.join(DayKey._fields)}))",
    "CREATE TABLE positions (source TEXT, inode BIGINT, read_bytes BIGINT, head TEXT, PRIMARY KEY (source, inode))",
    "CREATE TABLE unreadable (source TEXT PRIMARY KEY, lines BIGINT)",
    "CREATE TABLE price_lists (month TEXT PRIMARY KEY, body TEXT)",
    "CREATE TABLE warnings (tenant TEXT, month TEXT, level BIGINT, at_ms BIGINT, spent TEXT, budget TEXT, currency TEXT, PRIMARY KEY (tenant, month, level))",
    "CREATE TABLE stream_averages (version TEXT PRIMARY KEY, sent_bytes BIGINT, tokens BIGINT)",
    "CREATE TABLE ledger (version BIGINT PRIMARY KEY)",
)

TABLES: Mapping[str, tuple[str, ...]] = {
    "requests": Entry._fields,
    "days": (*DayKey._fields, *Sums._fields),
    "positions": ("source", "inode", "read_bytes", "head"),
    "unreadable": ("source", "lines"),
    "price_lists": ("month", "body"),
    "warnings": ("tenant", "month", "level", "at_ms", "spent", "budget", "currency"),
    "stream_averages": ("version", "sent_bytes", "tokens"),
}
"""Every table with its columns, but for the version's."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log is read.

    Attributes:
        source: Path of the log while it is written.
        inode: Of the file, which may have another name by now.
        read_bytes: How much of it is in the ledger.
        head: Length and hash of the file's beginning, for inodes are used again.
    """

    source: str
    inode: int
    read_bytes: int
    head: str


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a month costs.

    Attributes:
        currency: ISO 4217 code.
        tariffs: By model of the spec.
    """

    currency: str
    tariffs: Mapping[str, Tariff]


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that a tenant's budget runs out; there is one for each month and level.

    Attributes:
        tenant: Whose budget.
        month: As `2026-11`.
        level: Percent.
        at_ms: When, milliseconds since 1970 UTC.
        spent: Amount then.
        budget: Amount then.
        currency: ISO 4217 code of both.
    """

    tenant: str
    month: str
    level: int
    at_ms: int
    spent: Decimal
    budget: Decimal
    currency: str


class Ledger:
    """All that is known of who used what.

    Every method raises `LedgerUnavailable` when the database does not answer.

    Args:
        database: Where it lies; has the tables (`open_ledger` sees to it).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what happens inside; no other writer gets in between."""
        self._database.begin()
        try:
            yield
            self._database.commit()
        except BaseException:
            self._database.roll_back()
            raise

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    # What the meter writes.

    def entries(self, request_ids: Sequence[str]) -> dict[str, Entry]:
        """The entries that there are of some requests, by id."""
        if not request_ids:
            return {}
        condition, parameter = self._database.among("request_id", request_ids)
        rows = self._database.query(f"SELECT {', '.join(Entry._fields)} FROM requests WHERE {condition}", (parameter,))  # noqa: S608  (our own names)
        return {row[0]: Entry._make(row) for row in rows}

    def keep(self, entries: Sequence[Entry]) -> None:
        """Write entries, in place of those with the same id."""
        update = ", ".join(f"{name} = excluded.{name}" for name in Entry._fields[1:])
        self._database.write("requests", Entry._fields, entries, f"(request_id) DO UPDATE SET {update}")

    def add_to_days(self, more: Mapping[DayKey, Sums]) -> None:
        """Add to the sums of days; what is added may be negative."""
        update = ", ".join(f"{name} = days.{name} + excluded.{name}" for name in Sums._fields)
        rows = [(*key, *sums) for key, sums in more.items() if any(sums)]
        self._database.write("days", (*DayKey._fields, *Sums._fields), rows, f"({', '.join(DayKey._fields)}) DO UPDATE SET {update}")

    def keep_positions(self, positions: Iterable[Position], gone: Iterable[Position] = (), reader: str = "") -> None:
        """Write how far logs are read, and forget those that are gone.

        Args:
            positions: Of the reader's logs.
            gone: Likewise.
            reader: Whose logs they are; empty when there is only one.
        """
        mark = f"{reader}:" if reader else ""
        for position in gone:
            self._database.query("DELETE FROM positions WHERE source = ? AND inode = ?", (mark + position.source, position.inode))
        rows = [(mark + position.source, position.inode, position.read_bytes, position.head) for position in positions]
        update = "(source, inode) DO UPDATE SET read_bytes = excluded.read_bytes, head = excluded.head"
        self._database.write("positions", ("source", "inode", "read_bytes", "head"), rows, update)

    def keep_reader(self, reader: str, now_ms: int, forget_before_ms: int) -> None:
        """Write that a reader is there, and forget the positions of those that have not been there for long.

        Args:
            reader: Who.
            now_ms: Milliseconds since 1970 UTC.
            forget_before_ms: When the others must have been there last.
        """
        self.keep_positions([Position("", 0, now_ms, "")], reader=reader)  # no log has an empty path
        for source, at_ms in self._database.query("SELECT source, read_bytes FROM positions WHERE inode = 0"):
            if str(source).endswith(":") and int(at_ms) < forget_before_ms:
                self._database.query("DELETE FROM positions WHERE substr(source, 1, ?) = ?", (len(source), source))

    def add_unreadable(self, lines: Mapping[str, int]) -> None:
        """Count lines that could not be read, by log."""
        rows = [(source, count) for source, count in lines.items() if count]
        self._database.write("unreadable", ("source", "lines"), rows, "(source) DO UPDATE SET lines = unreadable.lines + excluded.lines")

    def add_averages(self, more: Mapping[str, tuple[int, int]]) -> None:
        """Add to the bytes and tokens of streams, by model."""
        update = "(version) DO UPDATE SET sent_bytes = stream_averages.sent_bytes + excluded.sent_bytes, tokens = stream_averages.tokens + excluded.tokens"
        self._database.write("stream_averages", ("version", "sent_bytes", "tokens"), [(version, *sums) for version, sums in more.items()], update)

    def keep_price_list(self, month: str, currency: str, tariffs: Mapping[str, Tariff]) -> None:
        """Write what a month costs; models that the list does not name any more keep their price for that month.

        Args:
            month: As `2026-11`.
            currency: ISO 4217 code.
            tariffs: By model.
        """
        rows = self._database.query("SELECT body FROM price_lists WHERE month = ?", (month,))
        known = json.loads(rows[0][0])["prices"] if rows else {}
        body = json.dumps({"currency": currency, "prices": {**known, **{model: price_for(tariff) for model, tariff in tariffs.items()}}})
        self._database.write("price_lists", ("month", "body"), [(month, body)], "(month) DO UPDATE SET body = excluded.body")

    def warn(self, warnings: Sequence[Warned]) -> None:
        """Write warnings; those there are stay as they are."""
        columns = ("tenant", "month", "level", "at_ms", "spent", "budget", "currency")
        rows = [(one.tenant, one.month, one.level, one.at_ms, f"{one.spent:f}", f"{one.budget:f}", one.currency) for one in warnings]
        self._database.write("warnings", columns, rows, "(tenant, month, level) DO NOTHING")

    def forget_requests(self, before_ms: int, at_most: int) -> int:
        """Delete the entries of requests that ended before a time; the sums of their days stay.

        Returns:
            How many went; `at_most` of them when there may be more.
        """
        which = "SELECT request_id FROM requests WHERE ended_ms < ? ORDER BY ended_ms LIMIT ?"
        (found,) = self._database.query(f"SELECT count(*) FROM ({which}) AS old", (before_ms, at_most))[0]  # noqa: S608  (our own text)
        if found:
            self._database.query(f"DELETE FROM requests WHERE request_id IN ({which})", (before_ms, at_most))  # noqa: S608  (our own text)
        return int(found)

    # What is read.

    def rows(self, table: str, columns: Sequence[str]) -> list[Row]:
        """All that is in one of `TABLES`."""
        return self._database.query(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608  (our own names)

    def fill_from(self, other: Ledger) -> bool:
        """Take over everything that another ledger has, if this one has no entry; otherwise it stays as it is.

        Returns:
            Whether it was taken over.
        """
        with self.transaction():
            if self._database.query("SELECT 1 FROM days LIMIT 1") or self._database.query("SELECT 1 FROM requests LIMIT 1"):
                return False
            for table, columns in TABLES.items():
                self._database.write(table, columns, other.rows(table, columns), "DO NOTHING")
        return True

    def positions(self, reader: str = "") -> list[Position]:
        """How far a reader's logs are read.

        Args:
            reader: Whose; empty when there is only one.
        """
        mark = f"{reader}:/" if reader else "/"
        rows = self._database.query("SELECT source, inode, read_bytes, head FROM positions")
        return [Position(str(row[0])[len(mark) - 1 :], *row[1:]) for row in rows if str(row[0]).startswith(mark)]

    def unreadable(self) -> dict[str, int]:
        """How many lines could not be read, by log."""
        return {str(source): int(lines) for source, lines in self._database.query("SELECT source, lines FROM unreadable")}

    def averages(self) -> dict[str, tuple[int, int]]:
        """Bytes and tokens of streams, by model."""
        return {str(row[0]): (int(row[1]), int(row[2])) for row in self._database.query("SELECT version, sent_bytes, tokens FROM stream_averages")}

    def recent_tokens(self, since_ms: int) -> list[tuple[str, str, int, int]]:
        """Tokens of what ended at a time or later: tenant, public model, second since 1970 UTC, tokens."""
        sql = (
            "SELECT tenant, model, ended_ms / 1000, CAST(sum(prompt_tokens + completion_tokens) AS BIGINT) FROM requests "
            "WHERE ended_ms >= ? AND tenant IS NOT NULL AND model IS NOT NULL AND version IS NOT NULL GROUP BY tenant, model, ended_ms / 1000"
        )
        return [(str(row[0]), str(row[1]), int(row[2]), int(row[3])) for row in self._database.query(sql, (since_ms,))]

    def days(self, month: str | None = None) -> list[tuple[DayKey, Sums]]:
        """The sums of days, in order.

        Args:
            month: As `2026-11`; all when absent.
        """
        condition, parameters = ("", ()) if month is None else ("WHERE day >= ? AND day <= ?", (f"{month}-01", f"{month}-31"))
        names = ", ".join((*DayKey._fields, *Sums._fields))
        rows = self._database.query(f"SELECT {names} FROM days {condition} ORDER BY {', '.join(DayKey._fields)}", parameters)  # noqa: S608  (our own names)
        return [(DayKey._make(row[:5]), Sums._make(map(int, row[5:]))) for row in rows]

    def month(self, month: str) -> dict[tuple[str, str], Sums]:
        """The sums of a month by tenant and model of the spec."""
        sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in Sums._fields)
        sql = f"SELECT tenant, version, {sums} FROM days WHERE day >= ? AND day <= ? GROUP BY tenant, version"  # noqa: S608  (our own names)
        return {(str(row[0]), str(row[1])): Sums._make(map(int, row[2:])) for row in self._database.query(sql, (f"{month}-01", f"{month}-31"))}

    def price_lists(self) -> dict[str, PriceList]:
        """What months cost, in their order."""
        found = {}
        for month, body in self._database.query("SELECT month, body FROM price_lists ORDER BY month"):
            data = json.loads(body)
            found[str(month)] = PriceList(data["currency"], {model: tariff_from(price) for model, price in data["prices"].items()})
        return found

    def warnings(self, month: str | None = None, tenant: str | None = None) -> list[Warned]:
        """The warnings of a month and a tenant, in the order they were given; of all when absent."""
        wanted = [(column, value) for column, value in (("month", month), ("tenant", tenant)) if value is not None]
        condition = f"WHERE {' AND '.join(f'{column} = ?' for column, _ in wanted)}" if wanted else ""
        names = "tenant, month, level, at_ms, spent, budget, currency"
        rows = self._database.query(f"SELECT {names} FROM warnings {condition} ORDER BY at_ms, tenant, level", [value for _, value in wanted])  # noqa: S608  (our own names)
        return [Warned(row[0], row[1], int(row[2]), int(row[3]), Decimal(row[4]), Decimal(row[5]), row[6]) for row in rows]


def open_ledger(address: str, platform: str, *, read_only: bool = False) -> Ledger:
    """Open a platform's ledger.

    Args:
        address: `sqlite:/absolute/path` or `postgresql://USER@HOST[:PORT]/DATABASE`.
        platform: Whose.
        read_only: Whether nothing will be written; otherwise the ledger is made when there is none.

    Raises:
        PreconditionError: There is no ledger to read, or a newer kivactl wrote it; or the address is none.
        LedgerUnavailable: The database cannot be used just now.
    """
    none_yet = PreconditionError(f"nothing has been metered for '{platform}' yet: there is no ledger", "kivactl deploy")
    if address.startswith(SQLITE):
        path = Path(address.removeprefix(SQLITE))
        if read_only and not path.exists():
            raise none_yet
        database: Database = Sqlite(path, read_only=read_only)
    else:
        from kivactl.usage.postgresql import Postgresql, parse_address

        database = Postgresql(parse_address(address), platform, read_only=read_only)
    try:
        if not database.exists("ledger"):
            if read_only:
                raise none_yet
            _make_tables(database)
        version = max(int(row[0]) for row in database.query("SELECT version FROM ledger"))
        if version > VERSION:
            raise PreconditionError(f"the ledger of '{platform}' was written by a newer kivactl", "pip install --upgrade kivactl")
    except BaseException:
        database.close()
        raise
    return Ledger(database)


def _make_tables(database: Database) -> None:
    database.begin()
    try:
        if not database.exists("ledger"):  # another may have been faster
            for statement in _CREATED:
                database.query(statement)
            database.write("ledger", ("version",), [(VERSION,)], "(version) DO NOTHING")
        database.commit()
    except BaseException:
        database.roll_back()
        raise

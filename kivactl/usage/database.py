"""What the ledger needs of a database, and the one that needs no server: SQLite in a file."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kivactl.errors import ToolError

Row = tuple[Any, ...]


class LedgerUnavailable(ToolError):
    """The ledger's database cannot be reached, read or written just now; trying again later may do."""


class Database(Protocol):
    """A relational database with the SQL that SQLite and PostgreSQL share; `?` stands for a parameter.

    Every method raises `LedgerUnavailable`.
    """

    def exists(self, table: str) -> bool:
        """Whether there is such a table."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement.

        Returns:
            Its rows, if it yields any.
        """

    def among(self, column: str, values: Sequence[str]) -> tuple[str, str]:
        """The condition that a column is one of many values, and its one parameter."""

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], conflict: str) -> None:
        """Insert many rows.

        Args:
            table: Into which.
            columns: In the order of the rows' values.
            rows: What to insert.
            conflict: What stands behind `ON CONFLICT`; the row in the way has the table's name, the new one is `excluded`.
        """

    def begin(self) -> None:
        """Begin a transaction that no other writer gets into."""

    def commit(self) -> None:
        """Make it last."""

    def roll_back(self) -> None:
        """Forget it; never raises."""

    def close(self) -> None:
        """Let go; never raises."""


class Sqlite:
    """A database in a file, with a write-ahead log: a report reads while the meter writes.

    Args:
        path: The file; made with mode 0600 when a writer opens it.
        read_only: Whether nothing will be written.
        patience_s: Seconds to wait for another writer.

    Raises:
        LedgerUnavailable: It cannot be opened.
    """

    def __init__(self, path: Path, *, read_only: bool = False, patience_s: float = 5) -> None:
        self._path = path
        with self._told():
            if not read_only:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            mode = "ro" if read_only else "rw"
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=patience_s, isolation_level=None)
            if not read_only:
                self._connection.execute("PRAGMA journal_mode=WAL")
                # A crash of the machine may cost the last commits but not consistency, and the logs still have what they said.
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.execute("PRAGMA cache_size=-16384")

    def exists(self, table: str) -> bool:
        """Whether there is such a table."""
        return bool(self.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; its rows."""
        with self._told():
            return self._connection.execute(sql, parameters).fetchall()

    def among(self, column: str, values: Sequence[str]) -> tuple[str, str]:
        """The condition that a column is one of many values, and its one parameter."""
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps(values)  # noqa: S608  (our own names)

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], conflict: str) -> None:
        """Insert many rows."""
        places = ", ".join("?" * len(columns))
        with self._told():
            self._connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT {conflict}", rows)  # noqa: S608  (our own names)

    def begin(self) -> None:
        """Begin a transaction that no other writer gets into."""
        self.query("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it last."""
        self.query("COMMIT")

    def roll_back(self) -> None:
        """Forget it."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                return  # a full disk has rolled it back already

    def close(self) -> None:
        """Let go."""
        try:
            self._connection.close()
        except sqlite3.Error:
            return

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise LedgerUnavailable(f"the ledger {self._path} cannot be used: {reason}", f"ls -l {self._path.parent}; df -h {self._path.parent}") from error

"""The ledger's database on a PostgreSQL server. The password comes from `KIVA_LEDGER_PASSWORD` or `~/.pgpass`, never from the address.

Other hosts than this one are spoken to by TLS, with a certificate that the system trusts (or `SSL_CERT_FILE`).
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from kivactl.errors import PreconditionError
from kivactl.usage.database import LedgerUnavailable, Row

PASSWORD_VARIABLE = "KIVA_LEDGER_PASSWORD"  # noqa: S105  (its name)

_ADDRESS = re.compile(r"postgresql://(?P<user>[^\s@:/]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s@/?#:]+)(?::(?P<port>[0-9]{1,5}))?/(?P<database>[^\s?#/]+)")
_FIELD = re.compile(r"((?:\\.|[^:\\])*)(?::|$)")


@dataclass(frozen=True, slots=True)
class Server:
    """Where the database is.

    Attributes:
        user: Who logs in.
        host: Name, address, or (absolute path) the folder of the server's socket.
        port: TCP port, or number of the socket.
        database: Its name.
    """

    user: str
    host: str
    port: int
    database: str

    @property
    def here(self) -> bool:
        """Whether it is this machine, so that no network is in between."""
        if self.host.startswith("/") or self.host == "localhost":
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False


def parse_address(text: str) -> Server:
    """Parse `postgresql://USER@HOST[:PORT]/DATABASE`; the folder of a socket is written as `%2Frun%2Fpostgresql`.

    Raises:
        PreconditionError: It is none.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise PreconditionError(f"the ledger's address '{text}' is not postgresql://USER@HOST/DATABASE", "correct `usage.ledger` in kiva.yaml")
    return Server(unquote(match["user"]), unquote(match["host"]).strip("[]"), int(match["port"] or 5432), unquote(match["database"]))


def password_for(server: Server, environment: os._Environ[str] | dict[str, str]) -> str | None:
    """The password: from the environment, or from the password file (`PGPASSFILE`, `~/.pgpass`).

    Args:
        server: For which.
        environment: Where to look.

    Returns:
        None when there is none; the server may not want one.

    Raises:
        PreconditionError: The password file may be read by others.
    """
    given = environment.get(PASSWORD_VARIABLE)
    if given:
        return given
    path = Path(environment.get("PGPASSFILE") or Path(environment.get("HOME", "/")) / ".pgpass")
    try:
        text, mode = path.read_text(), path.stat().st_mode
    except OSError:
        return None
    if mode & 0o077:
        raise PreconditionError(f"{path} may be read by others than its owner", f"chmod 600 {path}")
    return parse_password_file(text, server)


def parse_password_file(text: str, server: Server) -> str | None:
    """The password that a file of `host:port:database:user:password` lines has for a server.

    Source: https://www.postgresql.org/docs/current/libpq-pgpass.html
    """
    wanted = (("localhost" if server.host.startswith("/") else server.host), str(server.port), server.database, server.user)
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        fields = [re.sub(r"\\(.)", r"\1", field) for field in _FIELD.findall(line)][:5]
        if len(fields) == 5 and all(field in ("*", value) for field, value in zip(fields, wanted, strict=False)):
            return fields[4]
    return None


class Postgresql:
    """A schema of a PostgreSQL database, named as the platform, so that several platforms share a database.

    Args:
        server: Where.
        schema: Name of the schema; a writer makes it.
        read_only: Whether nothing will be written.

    Raises:
        PreconditionError: The driver is missing.
        LedgerUnavailable: The server does not answer or refuses.
    """

    def __init__(self, server: Server, schema: str, *, read_only: bool = False) -> None:
        try:
            import pg8000.native
        except ImportError:
            raise PreconditionError("a ledger in PostgreSQL needs the driver pg8000", "pip install 'kivactl[postgres]'") from None
        self._errors: tuple[type[Exception], ...] = (pg8000.native.Error, OSError)
        self._where = f"{server.database} on {server.host}"
        self._schema = '"' + schema.replace('"', '""') + '"'
        where: dict[str, Any] = {"host": server.host, "port": server.port}
        if server.host.startswith("/"):
            where = {"unix_sock": f"{server.host}/.s.PGSQL.{server.port}"}
        with self._told():
            self._connection = pg8000.native.Connection(
                server.user,
                database=server.database,
                password=password_for(server, os.environ),
                ssl_context=None if server.here else True,
                timeout=15,
                application_name="kivactl",
                **where,
            )
        if not read_only and not self.query("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)):
            self.query(f"CREATE SCHEMA {self._schema}")
        self.query(f"SET search_path TO {self._schema}")
        self.query("SET synchronous_commit TO on")

    def exists(self, table: str) -> bool:
        """Whether there is such a table."""
        return self.query("SELECT to_regclass(?)", (f"{self._schema}.{table}",))[0][0] is not None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; its rows."""
        parts = sql.split("?")
        numbered = parts[0] + "".join(f"${number}{part}" for number, part in enumerate(parts[1:], start=1))
        with self._told():
            rows = self._connection.run(numbered, **{f"p{number}": value for number, value in enumerate(parameters)})
        return [tuple(row) for row in rows or ()]

    def among(self, column: str, values: Sequence[str]) -> tuple[str, str]:
        """The condition that a column is one of many values, and its one parameter."""
        return f"{column} IN (SELECT json_array_elements_text(CAST(? AS json)))", json.dumps(values)

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Row], conflict: str) -> None:
        """Insert many rows; all of them travel as one parameter."""
        if rows:
            names = ", ".join(columns)
            source = f"SELECT {names} FROM json_populate_recordset(CAST(NULL AS {table}), CAST(? AS json))"  # noqa: S608  (our own names)
            objects = [dict(zip(columns, row, strict=True)) for row in rows]
            self.query(f"INSERT INTO {table} ({names}) {source} ON CONFLICT {conflict}", (json.dumps(objects),))

    def begin(self) -> None:
        """Begin a transaction that no other writer gets into."""
        self.query("BEGIN")
        self.query("SELECT pg_advisory_xact_lock(hashtext(?))", (f"kivactl {self._schema}",))

    def commit(self) -> None:
        """Make it last."""
        self.query("COMMIT")

    def roll_back(self) -> None:
        """Forget it."""
        with suppress(*self._errors):
            self._connection.run("ROLLBACK")

    def close(self) -> None:
        """Let go."""
        with suppress(*self._errors):
            self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            hint = f"is the server up, and the password in {PASSWORD_VARIABLE} or ~/.pgpass?"
            raise LedgerUnavailable(f"the ledger {self._where} cannot be used: {_reason(error)}", hint) from error


def _reason(error: Exception) -> str:
    """The server's own words, which the driver loses when it hangs up on a server that has hung up first."""
    told: BaseException | None = error
    while told is not None:
        if told.args and isinstance(told.args[0], dict):
            return str(told.args[0].get("M", told))
        told = told.__context__
    return str(error)

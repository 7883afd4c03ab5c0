"""PostgreSQL's address, password and troubles."""

from __future__ import annotations

import sys

import pytest
from usage_lines import until

from kivactl.errors import PreconditionError
from kivactl.usage.database import LedgerUnavailable
from kivactl.usage.ledger import open_ledger
from kivactl.usage.postgresql import Postgresql, Server, parse_address, parse_password_file, password_for

SERVER = Server("kiva", "db.example.org", 5432, "usage")


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("postgresql://kiva@db.example.org/usage", SERVER),
        ("postgresql://kiva@127.0.0.1:6000/usage", Server("kiva", "127.0.0.1", 6000, "usage")),
        ("postgresql://kiva@[::1]:6000/usage", Server("kiva", "::1", 6000, "usage")),
        ("postgresql://a%40b@%2Frun%2Fpg/usage", Server("a@b", "/run/pg", 5432, "usage")),
    ],
)
def test_addresses(text, server):
    assert parse_address(text) == server


@pytest.mark.parametrize("text", ["", "postgresql://", "postgresql://kiva:secret@db/usage", "postgresql://db/usage", "postgresql://kiva@db", "mysql://a@b/c"])
def test_what_is_no_address(text):
    with pytest.raises(PreconditionError, match="not postgresql://"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "here"), [("/run/pg", True), ("localhost", True), ("127.0.0.2", True), ("::1", True), ("10.0.0.1", False), ("db.example.org", False)]
)
def test_only_this_machine_goes_without_tls(host, here):
    assert Server("u", host, 1, "d").here == here


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("db.example.org:5432:usage:kiva:secret", "secret"),
        ("*:*:*:*:any", "any"),
        ("# db.example.org:5432:usage:kiva:no\nother:5432:usage:kiva:no\n*:5432:usage:kiva:first\n*:*:*:*:second", "first"),
        (r"*:*:*:kiva:a\:b\\c", r"a:b\c"),
        ("db.example.org:5433:usage:kiva:no", None),
        ("nonsense\n::\n", None),
        ("", None),
    ],
)
def test_the_password_file(text, password):
    assert parse_password_file(text, SERVER) == password


def test_a_socket_is_localhost_in_the_password_file():
    assert parse_password_file("localhost:5432:usage:kiva:s", Server("kiva", "/run/pg", 5432, "usage")) == "s"


def test_where_the_password_comes_from(tmp_path):
    file = tmp_path / ".pgpass"
    assert password_for(SERVER, {"HOME": str(tmp_path)}) is None
    file.write_text("*:*:*:*:from-file\n")
    file.chmod(0o600)
    assert password_for(SERVER, {"HOME": str(tmp_path)}) == "from-file"
    assert password_for(SERVER, {"PGPASSFILE": str(file)}) == "from-file"
    assert password_for(SERVER, {"HOME": str(tmp_path), "KIVA_LEDGER_PASSWORD": "from-variable"}) == "from-variable"
    file.chmod(0o644)
    with pytest.raises(PreconditionError, match="read by others") as caught:
        password_for(SERVER, {"HOME": str(tmp_path)})
    assert caught.value.hint == f"chmod 600 {file}"


def test_without_the_driver_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pg8000.native", None)
    with pytest.raises(PreconditionError, match="pg8000") as caught:
        Postgresql(SERVER, "kiva")
    assert "kivactl[postgres]" in caught.value.hint


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(LedgerUnavailable, match="cannot be used") as caught:
        open_ledger(f"postgresql://kiva@{str(tmp_path).replace('/', '%2F')}/usage", "kiva")
    assert "KIVA_LEDGER_PASSWORD" in caught.value.hint


def connects(address):
    try:
        Postgresql(parse_address(address), "none", read_only=True).close()
    except LedgerUnavailable:
        return False
    return True


@pytest.mark.real
def test_a_password_is_asked_for_and_never_told(postgres, monkeypatch):
    admin = Postgresql(parse_address(postgres), "admin")
    admin.query("CREATE ROLE clerk LOGIN PASSWORD 'correct horse'")
    (database,) = admin.query("SELECT current_database()")[0]
    admin.query(f"GRANT CREATE ON DATABASE {database} TO clerk")
    ((rules,),) = admin.query("SHOW hba_file")
    # The server writes the file itself, for it may run as another user than the tests.
    admin.query(f"COPY (VALUES ('local all clerk scram-sha-256'), ('local all all trust')) TO '{rules}'")
    admin.query("SELECT pg_reload_conf()")
    address = postgres.replace("postgres@", "clerk@")
    monkeypatch.setenv("KIVA_LEDGER_PASSWORD", "wrong horse")
    until(lambda: not connects(address), within_s=10)
    with pytest.raises(LedgerUnavailable, match="password authentication failed") as caught:
        open_ledger(address, "of-clerk")
    assert "horse" not in f"{caught.value.message}{caught.value.hint}"
    monkeypatch.setenv("KIVA_LEDGER_PASSWORD", "correct horse")
    open_ledger(address, "of-clerk").close()
    admin.close()


@pytest.mark.real
def test_a_lost_connection_is_told(postgres):
    ledger = open_ledger(postgres, "lost")
    admin = Postgresql(parse_address(postgres), "admin2")
    admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
    with pytest.raises(LedgerUnavailable):
        ledger.positions()
    ledger.close()
    admin.close()

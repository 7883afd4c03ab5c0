"""The scripted engine, with and without TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_engine import Engine, engine_serving, tls_engine_serving


@pytest.fixture
def engine() -> Iterator[Engine]:
    with engine_serving() as engine:
        yield engine


@pytest.fixture
def tls_engine(tmp_path: Path) -> Iterator[Engine]:
    with tls_engine_serving(tmp_path) as engine:
        yield engine

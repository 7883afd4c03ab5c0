"""The machines of these tests, and how long what is done to them takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from machines import site
from node_ground import fresh, only

__all__ = ["fresh", "only", "site"]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[str], AbstractContextManager[None]]:
    """Prints how long something took."""

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        before = time.monotonic()
        yield
        with capsys.disabled():
            print(f"\n  {what}: {time.monotonic() - before:.1f} s", flush=True)

    return timed

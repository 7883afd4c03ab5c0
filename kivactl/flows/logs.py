"""`logs`: the last lines of the supervised processes, and what comes after them."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from kivactl.errors import PreconditionError, UsageError
from kivactl.stack.layout import Layout


def names(layout: Layout) -> list[str]:
    """The processes that have a log."""
    return sorted(path.stem for path in layout.logs.glob("*.log"))


def last_lines(layout: Layout, process: str | None, count: int) -> dict[str, list[str]]:
    """The last lines by process.

    Args:
        layout: Where the logs lie.
        process: One process; all when absent.
        count: Lines of each, at most.

    Raises:
        PreconditionError: There are no logs yet.
        UsageError: There is no such process.
    """
    known = names(layout)
    if not known:
        raise PreconditionError(f"there are no logs in {layout.logs} yet", "kivactl deploy")
    if process is not None and process not in known:
        near = difflib.get_close_matches(process, known, n=1)
        raise UsageError(f"there is no log of '{process}'", f"kivactl logs {near[0]}" if near else f"there are: {', '.join(known)}")
    return {name: _tail(layout.log(name), count) for name in ([process] if process else known)}


def followed(layout: Layout, processes: list[str], sleep: Callable[[float], None]) -> Iterator[tuple[str, str]]:
    """Yield (process, line) for what is written from now on, through rotations and restarts; never ends by itself."""
    at = {name: _size(layout.log(name)) for name in processes}
    identity = {name: _inode(layout.log(name)) for name in processes}
    rest = dict.fromkeys(processes, "")
    while True:
        for name in processes:
            path = layout.log(name)
            if _inode(path) != identity[name] or _size(path) < at[name]:
                at[name], identity[name] = 0, _inode(path)
            if _size(path) > at[name]:
                with path.open(errors="replace") as file:
                    file.seek(at[name])
                    *lines, rest[name] = (rest[name] + file.read()).split("\n")
                    at[name] = file.tell()
                for line in lines:
                    yield name, line
        sleep(0.3)


def _tail(path: Path, count: int) -> list[str]:
    with path.open(errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0

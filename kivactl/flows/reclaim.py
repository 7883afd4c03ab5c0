"""Room on a full disk: removes what nobody reads any more or what can be made again, the oldest first.

Never touched: keys, certificates, the register of tokens, the ledger, the journal, runs and their evidence, the record of
what is deployed, and logs that the meter has not read to their end.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kivactl.errors import CheckError, KivaError
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_bytes
from kivactl.stack.layout import Layout
from kivactl.stack.metering import read_orders
from kivactl.targets.release import read_release
from kivactl.tools import machine
from kivactl.tools.models import ModelStore
from kivactl.usage.follow import Source
from kivactl.usage.ledger import Position, open_ledger

_AT_REST_S = 3600.0
"""Nobody works any more on what was not written for so long."""

_HALF_WRITTEN = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)")
_CONVERTED = re.compile(r"(?P<name>.+)\.(?P<pid>\d+)\.tmp")
_ROTATED = re.compile(r"(?P<log>.+\.log)\.(?P<number>\d+)")


class Kind(StrEnum):
    """What can go, in the order in which it goes."""

    RESERVE = "the reserve"
    REMAINS = "remains of a command that was killed"
    BACKUP_CACHE = "cache of the backup program"
    LOG = "old log"
    LOAD_TEST = "old load test"
    MODEL = "prepared model that this platform does not use"


_TURN = {Kind.RESERVE: 0, Kind.REMAINS: 1, Kind.BACKUP_CACHE: 2, Kind.LOG: 3, Kind.LOAD_TEST: 3, Kind.MODEL: 4}
"""Logs and load tests go by their age alone."""


@dataclass(frozen=True, slots=True)
class Removable:
    """Something that can go.

    Attributes:
        kind: What it is.
        path: File or folder.
        size_bytes: What is free without it.
        written_s: When it was written last, seconds since 1970.
    """

    kind: Kind
    path: Path
    size_bytes: int
    written_s: float


def reserve_of(layout: Layout) -> Path:
    """A file that holds room for a bad day: with a full disk not even a journal can be begun."""
    return layout.state / "reserve"


def backup_cache_of(layout: Layout) -> Path:
    """Where the backup program keeps copies of what lies in the repository."""
    return layout.state / "backup" / "cache"


def removable(deployment: Deployment, *, models: bool = False, now_s: float | None = None) -> list[Removable]:
    """What can go, in the order in which it goes.

    Args:
        deployment: The platform.
        models: Whether prepared models count that neither the spec nor what is deployed uses; other platforms may use them.
        now_s: Seconds since 1970; the present when absent.
    """
    layout, moment_s = deployment.layout, time.time() if now_s is None else now_s
    paths = [
        *((Kind.RESERVE, path) for path in (reserve_of(layout),) if path.exists()),
        *((Kind.REMAINS, path) for path in _remains(layout)),
        *((Kind.BACKUP_CACHE, path) for path in (backup_cache_of(layout),) if path.exists()),
        *((Kind.LOG, path) for path in (*_rotated(layout), *_read_to_the_end(layout))),
        *((Kind.LOAD_TEST, path) for path in _load_tests(layout, moment_s)),
        *((Kind.MODEL, path) for path in (_unused_models(deployment) if models else ())),
    ]
    found = [Removable(kind, path, _size(path), _written_s(path)) for kind, path in paths]
    return sorted(found, key=lambda one: (_TURN[one.kind], one.written_s, str(one.path)))


def reclaim(deployment: Deployment, disk: Path, wanted_bytes: int, *, models: bool = False) -> Iterator[Outcome]:
    """Remove what can go until enough is free.

    Args:
        deployment: The platform.
        disk: A path on the disk that is full; only what lies on the same one is removed.
        wanted_bytes: What has to be free in the end.
        models: Whether prepared models may go that this platform does not use.

    Yields:
        An outcome for each thing removed; at last one with `freed_bytes` and `free_bytes`.

    Raises:
        CheckError: Too little is free after all that could go has gone.
    """
    started_s = deployment.clock.now_s()
    yield Outcome("disk", Status.STARTED, f"{format_bytes(machine.disk_free(disk))} free, {format_bytes(wanted_bytes)} wanted")
    freed = 0
    for one in removable(deployment, models=models):
        if machine.disk_free(disk) >= wanted_bytes:
            break
        if not _same_disk(one.path, disk):
            continue
        _remove(one.path)
        freed += one.size_bytes
        facts = {"path": str(one.path), "bytes": one.size_bytes, "kind": one.kind.value}
        yield Outcome(f"remove {one.path.name}", Status.DONE, f"{one.kind.value}, {format_bytes(one.size_bytes)}: {one.path}", data=facts)
    free = machine.disk_free(disk)
    if free < wanted_bytes:
        raise CheckError(
            f"only {format_bytes(free)} are free on the disk of {disk}, and nothing is left that kivactl may remove",
            f"see what takes the room: du -xsh {disk}/* | sort -h",
        )
    facts = {"freed_bytes": freed, "free_bytes": free}
    yield Outcome("disk", Status.DONE, f"{format_bytes(freed)} removed, {format_bytes(free)} free", deployment.clock.now_s() - started_s, facts)


def make_room(layout: Layout, wanted_bytes: int) -> int:
    """Remove the little that may always go, so that a journal can be begun on a full disk: reserve, remains, rotated logs.

    Args:
        layout: Where files lie.
        wanted_bytes: What has to be free.

    Returns:
        Bytes removed; nothing is removed when enough is free.
    """
    freed = 0
    for path in (reserve_of(layout), *_remains(layout), *sorted(_rotated(layout), key=_written_s)):
        if machine.disk_free(layout.state) >= wanted_bytes:
            break
        if path.exists() and _same_disk(path, layout.state):
            freed += _size(path)
            _remove(path)
    return freed


def keep_reserve(layout: Layout, size_bytes: int) -> Iterator[Outcome]:
    """Put room aside for the next bad day; a reserve of the same size stays as it is.

    Raises:
        OSError: There is no room for it; then there is none of a wrong size either.
    """
    path = reserve_of(layout)
    if path.exists() and path.stat().st_size == size_bytes:
        yield Outcome("reserve", Status.SKIPPED, f"{format_bytes(size_bytes)} are put aside already")
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        path.unlink()
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)
    yield Outcome("reserve", Status.DONE, f"{format_bytes(size_bytes)} are put aside", data={"bytes": size_bytes})


def unread_bytes(layout: Layout) -> int:
    """What gateway and engines have logged and the meter has not entered into the ledger yet.

    Raises:
        KivaError: There is no ledger yet, or it cannot be read just now.
    """
    positions = {(position.source, position.inode): position for position in _positions(layout)}
    unread = 0
    for source, path in _metered(layout):
        status = path.stat()
        position = positions.get((source, status.st_ino))
        unread += max(0, status.st_size - (position.read_bytes if position else 0))
    return unread


def _remains(layout: Layout) -> Iterator[Path]:
    """Files that a killed command left beside what it was about to replace, and conversions of models that were cut off."""
    for folder in (layout.state, layout.gateway, layout.tls, layout.signing_key.parent, layout.retired_keys, layout.usage, layout.scrape_targets.parent):
        for path in _entries(folder):
            match = _HALF_WRITTEN.fullmatch(path.name)
            if match and path.is_file() and not _alive(int(match["pid"])):
                yield path
    for path in _entries(layout.cache / "models"):
        match = _CONVERTED.fullmatch(path.name)
        if match and not _alive(int(match["pid"])):
            yield path


def _rotated(layout: Layout) -> Iterator[Path]:
    """What the supervisor set aside; the gateway's access log is the meter's to judge."""
    for path in _entries(layout.logs):
        match = _ROTATED.fullmatch(path.name)
        if match and match["log"] != layout.access_log.name:
            yield path


def _read_to_the_end(layout: Layout) -> Iterator[Path]:
    """Logs set aside whose every line is in the ledger; none when the ledger cannot be asked."""
    try:
        positions = {(position.source, position.inode): position for position in _positions(layout)}
    except KivaError:
        return
    for source, path in _metered(layout):
        with suppress(FileNotFoundError):
            status = path.stat()
            position = positions.get((source, status.st_ino))
            if path != Path(source) and Path(source).exists() and position is not None and position.read_bytes >= status.st_size:
                yield path


def _metered(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Every log that the meter reads: its path while it is written, its path now."""
    for source in (Source(layout.access_log.parent, layout.access_log.name), Source(layout.usage, "*.jsonl")):
        for path in _entries(source.folder):
            log = source.log_of(path.name)
            if log is not None and path.is_file():
                yield str(source.folder / log), path


def _positions(layout: Layout) -> list[Position]:
    from kivactl.errors import PreconditionError

    try:
        orders = read_orders(layout.meter_orders)
    except (OSError, ValueError) as error:
        raise PreconditionError(f"the meter's orders {layout.meter_orders} cannot be read: {error}", "kivactl deploy") from None
    ledger = open_ledger(orders.ledger, orders.platform, read_only=True)
    try:
        return ledger.positions()
    finally:
        ledger.close()


def _load_tests(layout: Layout, now_s: float) -> Iterator[Path]:
    for path in _entries(layout.state / "loadtests"):
        if path.is_dir() and now_s - _written_s(path) > _AT_REST_S:
            yield path


def _unused_models(deployment: Deployment) -> Iterator[Path]:
    layout, store = deployment.layout, ModelStore(deployment.layout.cache)
    prepared = (store.prepared(model, deployment.loaded.folder) for model in deployment.platform.models)
    used = {one.path for one in prepared if one is not None}
    arguments = {Path(word) for process in read_release(layout.release).processes.values() for word in process.get("argv", ()) if word.startswith("/")}
    for path in _entries(layout.cache / "models"):
        if path.is_dir() and not path.name.endswith(".tmp") and not any(path == one or path in one.parents for one in (*used, *arguments)):
            yield path


def _entries(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_blocks * 512
    return total


def _written_s(path: Path) -> float:
    """When anything in it was written last."""
    times = [0.0]
    for file in (path, *(path.rglob("*") if path.is_dir() else ())):
        with suppress(OSError):
            times.append(file.lstat().st_mtime)
    return max(times)


def _same_disk(path: Path, disk: Path) -> bool:
    there = next(folder for folder in (disk.absolute(), *disk.absolute().parents) if folder.exists())
    return path.lstat().st_dev == there.stat().st_dev


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

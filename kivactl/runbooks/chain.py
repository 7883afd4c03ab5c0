"""The journal of one run: append-only, on disk before the next step, and chained, so that tampering shows.

Each line is a JSON object with `seq`, `at` (UTC), `monotonic_s`, `boot` (which start of the machine `monotonic_s` counts from), `event`,
the event's fields, `previous` (SHA-256 of the line before as it stands in the file) and last `own` (SHA-256 of the line without it).
A line that a crash cut short stays as it is; the next entry, `torn`, covers it. That the end was cut off at the end of a line is the one
thing that a chain cannot tell by itself: whoever signs the journal signs `head_of` it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kivactl.journal import timestamp
from kivactl.stack.redaction import redacted

RESERVE = "reserve"
"""File beside the journal that is given up when the disk is full, so that the end of the run can still be written."""

_RESERVE_BYTES = 256 * 1024
_OWN = re.compile(rb', "own": "([0-9a-f]{64})"\}\Z')
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as it stands in the file.

    Attributes:
        raw: Its bytes without the line feed.
        start: Where it begins.
        entry: What it says; None when it is not a whole entry, or is covered by a `torn` one.
        fault: Why it is not a whole entry; empty when it is.
        ended: Whether a line feed follows.
    """

    raw: bytes
    start: int
    entry: dict[str, Any] | None
    fault: str
    ended: bool


class Chain:
    """A run's journal, open for appending; several threads and processes may append at the same time.

    What is appended follows from what stands in the file, not from what this process remembers: an interrupt between any two of its
    instructions leaves a whole chain.

    Args:
        path: The file; made with mode 0600, its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.RLock()
        self._known: tuple[int, int, bytes] | None = None  # size of the file, seq and hash of its last line
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def append(self, event: str, **fields: Any) -> None:
        """Write an entry; it is on disk when this returns.

        Args:
            event: One of `record.EVENTS`.
            fields: JSON-ready; what looks like a secret is struck out.

        Raises:
            OSError: The disk is full or broken. What was written of the entry will be covered by a `torn` one.
        """
        with self._guard, self._alone():
            size, seq, previous = self._tail()
            self._write(_line_for(seq + 1, event, fields, previous), size)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._guard:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Other processes append too: a second person's approval comes from another terminal."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _tail(self) -> tuple[int, int, str]:
        """Size of the file, and seq and hash of its last line, after covering what a crash left."""
        size = os.fstat(self._descriptor).st_size
        if self._known is None or self._known[0] != size:
            data = _all_of(self._descriptor, size)
            lines = _lines_of(data)
            whole = [line for line in lines if line.fault == "" and line.ended]
            seq = max((_seq_of(line) for line in whole), default=0)
            self._known = (size, seq, _hash(lines[-1].raw) if lines else b"")
            if lines and not lines[-1].ended:
                torn = data[whole[-1].start + len(whole[-1].raw) + 1 if whole else 0 :]
                entry = _line_for(seq + 1, "torn", {"sha256": _hash(torn).decode(), "bytes": len(torn)}, self._known[2].decode())
                self._write(b"\n" + entry, size)
        return self._known[0], self._known[1], self._known[2].decode()

    def _write(self, data: bytes, size: int) -> None:
        rest = data
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except OSError as error:
                    if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not self._gave_up_reserve():
                        raise
            os.fsync(self._descriptor)
        except OSError as error:
            error.filename = str(self.path)
            raise
        line = data.removeprefix(b"\n").removesuffix(b"\n")
        self._known = (size + len(data), int(json.loads(line)["seq"]), _hash(line))

    def _gave_up_reserve(self) -> bool:
        try:
            (self.path.parent / RESERVE).unlink()
        except OSError:
            return False
        return True


def set_aside(folder: Path) -> None:
    """Keep some of the disk for the journal's end, should the disk become full meanwhile.

    Raises:
        OSError: There is not even that much.
    """
    path = folder / RESERVE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def release(folder: Path) -> None:
    """Give the kept space back: the run has ended."""
    (folder / RESERVE).unlink(missing_ok=True)


def entries_of(text: str | bytes) -> list[dict[str, Any]]:
    """The whole entries in order, whether or not the chain holds; what is torn is left out."""
    return [line.entry for line in _lines_of(_bytes(text)) if line.entry is not None]


def head_of(text: str | bytes) -> str:
    """SHA-256 of the last line: with it the whole journal is fixed."""
    lines = _lines_of(_bytes(text))
    return _hash(lines[-1].raw).decode() if lines else ""


def faults_of(text: str | bytes) -> list[str]:
    """Every sign that a journal is not as it was written: a line edited, removed, moved, inserted, cut short.

    Args:
        text: The file's content.

    Returns:
        A sentence for each, in the order of the lines; empty when the chain holds.
    """
    faults: list[str] = []
    lines = _lines_of(_bytes(text))
    previous, seq = "", 0
    for number, line in enumerate(lines, 1):
        if line.fault:
            faults.append(f"line {number} {line.fault}")
        elif line.entry is not None:
            if line.entry.get("previous") != previous:
                faults.append(f"line {number} does not follow the line before it")
            if line.entry.get("seq") != seq + 1:
                faults.append(f"line {number} is number {line.entry.get('seq')}, where {seq + 1} was to come")
            seq = line.entry["seq"] if isinstance(line.entry.get("seq"), int) else seq + 1
        if not line.ended and not line.fault:
            faults.append(f"line {number} does not end")
        previous = _hash(line.raw).decode()
    if not lines:
        faults.append("the journal is empty")
    return faults


def now_fields() -> dict[str, Any]:
    """When something is written: `at`, `monotonic_s`, `boot`."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""
    return {"at": timestamp(), "monotonic_s": round(time.monotonic(), 3), "boot": boot}


def _line_for(seq: int, event: str, fields: dict[str, Any], previous: str) -> bytes:
    entry = {"seq": seq, **now_fields(), "event": event, **_clean(fields), "previous": previous}
    body = json.dumps(entry).encode()
    return body[:-1] + b', "own": "' + _hash(body) + b'"}\n'


def _lines_of(data: bytes) -> list[_Line]:
    lines: list[_Line] = []
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        raw = data[start:] if end < 0 else data[start:end]
        entry, fault = _read(raw)
        if entry is not None and entry.get("event") == "torn":
            _cover(lines, data, start, entry)
        lines.append(_Line(raw, start, entry, fault, end >= 0))
        start += len(raw) + 1
    return lines


def _seq_of(line: _Line) -> int:
    seq = line.entry.get("seq") if line.entry else 0
    return seq if isinstance(seq, int) else 0


def _cover(lines: list[_Line], data: bytes, start: int, entry: dict[str, Any]) -> None:
    """Take the lines that a `torn` entry stands for as known to be torn."""
    count = entry.get("bytes")
    if not isinstance(count, int) or not 0 < count < start:
        return
    first = start - 1 - count
    torn = data[first : start - 1]
    if (first == 0 or data[first - 1 : first] == b"\n") and _hash(torn).decode() == entry.get("sha256"):
        for index, line in enumerate(lines):
            if line.start >= first:
                lines[index] = _Line(line.raw, line.start, None, "", line.ended)


def _read(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    own = _OWN.search(raw)
    if own is None:
        return None, "is cut short or no entry of this journal"
    body = raw[: own.start()] + b"}"
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None, "is cut short or no entry of this journal"
    if not isinstance(entry, dict):
        return None, "is cut short or no entry of this journal"
    return entry, "" if _hash(body) == own[1] else "was edited"


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else redacted(str(value))


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _all_of(descriptor: int, size: int) -> bytes:
    parts: list[bytes] = []
    while (got := sum(map(len, parts))) < size:
        part = os.pread(descriptor, size - got, got)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")

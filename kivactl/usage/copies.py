"""Copies of what engines on other machines have counted: each a beginning of an engine's file, byte by byte, so that its size is the place to go on.

`ID.jsonl` grows; `ID.jsonl.TIME.ended` grows no more: the meter deletes it when everything in it is entered. `fetch.json` says which file
is read of whom. It is written before the first byte of another file, and a copy is ended only when nobody reads it by that list:
wherever this is cut short, the next one goes on with no line twice and none missing.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from kivactl.usage.serve import Answer

ENDED = ".ended"
"""How the name of a copy ends that will not grow any more."""

_STATE = "fetch.json"
_CHUNK_BYTES = 2**20
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,149}")


class Copies:
    """The copies in a folder, which is made; nobody else writes them. Several threads may use it.

    Args:
        folder: Where the meter reads them.

    Raises:
        OSError: The folder cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._reads = _reads_from(folder / _STATE)
        for path in self._growing():
            _drop_half_line(path)

    def readers(self) -> list[str]:
        """Of whom there is something."""
        with self._lock:
            return list(self._reads)

    def place(self, whom: str) -> tuple[str, int]:
        """Which file is read of somebody, and how much of it is here; an empty name before the first answer."""
        with self._lock:
            file = self._reads.get(whom, "")
            return file, self._size(file) if file else 0

    def take(self, whom: str, asked: tuple[str, int], answer: Answer) -> bool:
        """Keep an answer.

        Args:
            whom: Who gave it.
            asked: The file and place it was asked for.
            answer: What it says.

        Returns:
            Whether there may be more at once.

        Raises:
            ValueError: It is no answer of an engine's.
            OSError: It cannot be written; nothing of it is kept.
        """
        if not answer.file and not answer.lines:
            return False
        if not _FILE.fullmatch(answer.file) or (answer.lines and not answer.lines.endswith(b"\n")):
            msg = "not what an engine says of its use"
            raise ValueError(msg)
        with self._lock:
            moved = self._reads.get(whom) != answer.file
            if moved:
                self._keep_reads({**self._reads, whom: answer.file})
            size = self._size(answer.file)
            if answer.start != size:
                if asked != (answer.file, size) or answer.start != 0:
                    return True  # the copy is further, or was not known: ask again from where it ends
                self._end(answer.file)  # the engine's disk has lost some of it: what is there now is another file
            if answer.lines:
                self._append(answer.file, answer.lines)
            return moved or bool(answer.lines)

    def forget(self, whom: str) -> None:
        """Nothing more will come from somebody."""
        with self._lock:
            if whom in self._reads:
                self._keep_reads({name: file for name, file in self._reads.items() if name != whom})

    def end_unread(self) -> None:
        """End the copies of files that are read of nobody any more."""
        with self._lock:
            read = set(self._reads.values())
            for path in self._growing():
                if path.stem not in read:
                    self._end(path.stem)

    def size_bytes(self) -> int:
        """How much disk all of them take."""
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # the meter deletes
                    total += entry.stat().st_size if ".jsonl" in entry.name else 0
        return total

    def _growing(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _path(self, file: str) -> Path:
        return self._folder / f"{file}.jsonl"

    def _size(self, file: str) -> int:
        try:
            return self._path(file).stat().st_size
        except FileNotFoundError:
            return 0

    def _end(self, file: str) -> None:
        path, stamp = self._path(file), time.time_ns()
        while (ended := Path(f"{path}.{stamp}{ENDED}")).exists():  # the clock was set back
            stamp += 1
        with suppress(FileNotFoundError):
            path.rename(ended)

    def _append(self, file: str, lines: bytes) -> None:
        descriptor = os.open(self._path(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size, rest = os.fstat(descriptor).st_size, memoryview(lines)
            try:
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _keep_reads(self, reads: dict[str, str]) -> None:
        path = self._folder / _STATE
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"reads": reads}))
        beside.replace(path)
        self._reads = reads


def _reads_from(path: Path) -> dict[str, str]:
    """Which file is read of whom; without the list, the engines say which is their oldest."""
    try:
        reads = json.loads(path.read_text())["reads"]
        return {str(whom): file for whom, file in reads.items() if _FILE.fullmatch(file)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _drop_half_line(path: Path) -> None:
    """Cut off what was written when somebody was killed in the middle of a line."""
    with path.open("r+b") as opened:
        end = size = opened.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _CHUNK_BYTES)
            found = os.pread(opened.fileno(), end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            opened.truncate(end)

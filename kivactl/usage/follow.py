"""Reads logs while they are written, each line once: through rotation, truncation, restarts, half-written lines and inodes used again.

A file is known by its inode and its beginning, whatever its name is by now: the log itself and everything beside it whose name
begins with the log's and a dot. Nothing counts as read until `accept`, so that a reader that fails in between reads it again.
What others delete or rename something over, before it was read or at least opened, is lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kivactl.usage.ledger import Position
from kivactl.usage.serve import aside_for

# A line of the gateway's has its request id behind path and replica, beyond the first 256 bytes; positions written with a shorter beginning stay good.
_HEAD_BYTES = 1024
_CHUNK_BYTES = 4 * 2**20
_PACKED = (".gz", ".xz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True, slots=True)
class Source:
    """Logs to follow.

    Attributes:
        folder: Where they lie; need not exist yet.
        name: Name of one log; or, with a leading `*`, how the names of several end.
    """

    folder: Path
    name: str

    def log_of(self, file: str) -> str | None:
        """The name of the log that a file is, or was before it was set aside; None when it is none."""
        if file.endswith(_PACKED):
            return None
        if not self.name.startswith("*"):
            return self.name if file == self.name or file.startswith(f"{self.name}.") else None
        stem, suffix, rest = file.partition(self.name[1:])
        return stem + suffix if stem and suffix and (not rest or rest.startswith(".")) else None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some whole lines of a log.

    Attributes:
        source: Path of the log.
        lines: Without their ends.
        position: How far it is read with them.
        replaced: Whether the file turned out to be another, or begun anew.
        more: Whether there is probably more to read at once.
    """

    source: str
    lines: list[str]
    position: Position
    replaced: bool
    more: bool


@dataclass(slots=True)
class _File:
    """A file being followed.

    Attributes:
        source: Path of the log it is or was.
        inode: What it is known by.
        path: Its name now; empty when it has none any more.
        live: Whether it is the log and not set aside.
        read_bytes: How much of it is read.
        head: Length and hash of its beginning.
        ragged_bytes: Its size when half a line was all that was left to read.
        descriptor: -1 while it is not open.
    """

    source: str
    inode: int
    path: Path
    live: bool
    read_bytes: int = 0
    head: str = ""
    ragged_bytes: int = -1
    descriptor: int = -1

    def finished(self, size_bytes: int) -> bool:
        """Whether nothing that could be read is left in it."""
        return size_bytes <= max(self.read_bytes, self.ragged_bytes)

    @property
    def position(self) -> Position:
        return Position(self.source, self.inode, self.read_bytes, self.head)

    def rest(self) -> None:
        """Close what was set aside: it is found again by its name if it has grown. Without a name it can only be held."""
        if not self.live and self.path.name:
            self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Follower:
    """Follows logs.

    Args:
        sources: Which.
        positions: How far they were read before.
        chunk_bytes: Most to read of a file at once.
    """

    def __init__(self, sources: Sequence[Source], positions: Iterable[Position] = (), chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._sources = sources
        self._known = {(position.source, position.inode): position for position in positions}
        self._files: dict[tuple[str, int], _File] = {}
        self._chunk_bytes = chunk_bytes

    def read(self) -> list[Piece]:
        """What is new since it was last accepted: at most a chunk of each file."""
        self._look()
        pieces = []
        for file in self._files.values():
            piece = self._read(file)
            if piece is not None:
                pieces.append(piece)
        return pieces

    def accept(self, pieces: Iterable[Piece]) -> None:
        """Count what was read as read."""
        for piece in pieces:
            file = self._files[(piece.source, piece.position.inode)]
            file.read_bytes, file.head = piece.position.read_bytes, piece.position.head
            if not piece.more:
                file.rest()

    def gone(self) -> list[Position]:
        """Files that are no more and of which nothing is left to read; `forget` them once that is written down."""
        vanished = [
            file.position
            for file in self._files.values()
            if not file.path.name and (file.descriptor < 0 or (file.finished(_size(file.descriptor)) and not self._may_grow(file)))
        ]
        return [*self._known.values(), *vanished]

    def forget(self, gone: Iterable[Position]) -> None:
        """Let go of files that are no more."""
        for position in gone:
            key = (position.source, position.inode)
            self._known.pop(key, None)
            file = self._files.pop(key, None)
            if file is not None:
                file.close()

    def set_aside(self, size_bytes: int, stamp: int, only: str | None = None) -> list[str]:
        """Rename logs that are above a size; who writes them has to open them anew.

        Args:
            size_bytes: The size.
            stamp: What to append to the names; a larger number where there is one as large already, for a clock may be set back.
            only: Path of the one log to look at; None for all.

        Returns:
            Paths of the logs renamed.
        """
        renamed = []
        for file in self._files.values():
            if file.live and file.read_bytes > size_bytes and only in (None, file.source):
                aside = aside_for(file.path, stamp)
                with suppress(FileNotFoundError):
                    file.path.rename(aside)
                    file.path, file.live = aside, False
                    renamed.append(file.source)
        return renamed

    def missing(self, source: str) -> bool:
        """Whether a log was set aside and nobody has begun a new one."""
        return not Path(source).exists() and any(file.source == source for file in self._files.values())

    def drop_old(self, keep: int) -> None:
        """Delete the oldest files set aside that are read to their ends, beyond a number of each log; none whose log is not written anew."""
        aside: dict[str, list[_File]] = {}
        for file in self._files.values():
            if not file.live and file.path.name and file.path.suffix[1:].isdigit() and Path(file.source).exists():
                aside.setdefault(file.source, []).append(file)
        for files in aside.values():
            for file in sorted(files, key=lambda one: int(one.path.suffix[1:]), reverse=True)[keep:]:
                _drop(file)

    def drop_ended(self, ending: str) -> None:
        """Delete the files that are read to their ends and whose names say that nobody writes them any more.

        Args:
            ending: How such names end.
        """
        for file in self._files.values():
            if not file.live and file.path.name.endswith(ending):
                _drop(file)

    def rewind(self, positions: Iterable[Position]) -> None:
        """Go on from what is written down, which after a failure may be more or less than what was accepted."""
        self._known = {(position.source, position.inode): position for position in positions}
        for key, file in list(self._files.items()):
            known = self._known.pop(key, None)
            if known is None and not file.path.name and (file.descriptor < 0 or (file.read_bytes and file.finished(_size(file.descriptor)))):
                # Entered to its end and forgotten; only the ledger's answer to that got lost.
                file.close()
                del self._files[key]
                continue
            file.read_bytes, file.head = (known.read_bytes, known.head) if known else (0, "")
            file.ragged_bytes = -1

    def close(self) -> None:
        """Let go of all files."""
        for file in self._files.values():
            file.close()

    def _may_grow(self, file: _File) -> bool:
        """Whether a log was deleted under somebody who keeps it open, and writes on into it until told to begin a new one."""
        return any(file.source == str(source.folder / source.name) for source in self._sources) and not Path(file.source).exists()

    def _look(self) -> None:
        """Find the files there are, by inode; open the ones that are written, so that they can be read to the end whatever becomes of their names."""
        seen = set()
        for source in self._sources:
            for name, inode in _entries(source.folder):
                log = source.log_of(name)
                if log is None:
                    continue
                path, key = source.folder / name, (str(source.folder / log), inode)
                seen.add(key)
                file = self._files.get(key)
                if file is None:
                    known = self._known.pop(key, None)
                    file = _File(key[0], inode, path, name == log, *((known.read_bytes, known.head) if known else ()))
                    self._files[key] = file
                file.path, file.live = path, name == log
        for key, file in self._files.items():
            if key not in seen:
                file.path, file.live = Path(), False

    def _read(self, file: _File) -> Piece | None:
        opened = file.descriptor < 0
        if opened:
            if not file.path.name or not _open(file):
                return None
            if _inode(file.descriptor) != file.inode:  # renamed since we looked
                file.close()
                return None
            # While it was closed it may have been deleted, and its inode given to another: nothing but its beginning tells.
            file.ragged_bytes = -1
        size, start, head, replaced = _size(file.descriptor), file.read_bytes, file.head, False
        if size < start or (head and _head(file.descriptor, int(head.partition(":")[0])) != head):
            start, head, replaced, file.ragged_bytes = 0, "", True, -1
        elif size in (start, file.ragged_bytes):
            file.rest()
            return None
        data = os.pread(file.descriptor, self._chunk_bytes, start)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) < self._chunk_bytes:
            file.ragged_bytes = size
            file.rest()
            return Piece(file.source, [], Position(file.source, file.inode, 0, ""), replaced=True, more=False) if replaced else None
        end = end or len(data)  # a line longer than a chunk is none of ours
        lines = data[:end].decode(errors="replace").split("\n")
        if not lines[-1]:
            lines.pop()
        read_bytes = start + end
        if not head or int(head.partition(":")[0]) < min(_HEAD_BYTES, read_bytes):
            head = _head(file.descriptor, min(_HEAD_BYTES, read_bytes))
        return Piece(file.source, lines, Position(file.source, file.inode, read_bytes, head), replaced, more=len(data) == self._chunk_bytes)


def _entries(folder: Path) -> list[tuple[str, int]]:
    """Names and inodes of the files in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.inode()) for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _open(file: _File) -> bool:
    try:
        file.descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    return True


def _drop(file: _File) -> None:
    """Delete a file that is read to its end."""
    with suppress(FileNotFoundError):
        if _inode(file.path) == file.inode and file.finished(_size(file.path)):
            file.path.unlink()


def _inode(file: int | Path) -> int:
    return os.stat(file).st_ino  # noqa: PTH116  (of open files too)


def _size(file: int | Path) -> int:
    return os.stat(file).st_size  # noqa: PTH116


def _head(descriptor: int, length: int) -> str:
    """Length and hash of a file's beginning."""
    return f"{length}:{hashlib.sha256(os.pread(descriptor, length, 0)).hexdigest()[:24]}"

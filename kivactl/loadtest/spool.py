"""Records on their way from the machine that made them: sent as they lie there, compressed, and written here in the clock of this one."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from kivactl.loadtest.record import parse_record

_READ_BYTES = 1 << 18
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 6


def packed(path: Path) -> Iterator[bytes]:
    """A spool, compressed, in pieces of some hundred kilobytes at most."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    with path.open("rb") as source:
        while piece := source.read(_READ_BYTES):
            if made := packer.compress(piece):
                yield made
    yield packer.flush()


class Arriving:
    """A spool that comes in pieces.

    Args:
        path: New file, which only we may read.
        offset_ns: How far the clock of its stamps is ahead of ours.
    """

    def __init__(self, path: Path, offset_ns: int) -> None:
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8")
        self._offset_ns = offset_ns
        self._unpacker = zlib.decompressobj(_GZIP)
        self._begun = b""

    def take(self, piece: bytes) -> None:
        """Write what a piece completes.

        Raises:
            ValueError: It holds no records.
            OSError: They cannot be written.
        """
        try:
            *lines, self._begun = (self._begun + self._unpacker.decompress(piece)).split(b"\n")
        except zlib.error as error:
            msg = f"not compressed records: {error}"
            raise ValueError(msg) from error
        for line in lines:
            self._file.write(parse_record(line.decode()).shifted(-self._offset_ns).to_json() + "\n")

    def close(self) -> bool:
        """End the file; returns whether it came whole. A half-written last line (its writer was killed) is left out."""
        self._file.close()
        return self._unpacker.eof

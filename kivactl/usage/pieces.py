"""A copy of a ledger on its way: pieces as text, for who can only run programs over there, and files beside the ledger that were forgotten."""

from __future__ import annotations

import re
import time
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

_FORGOTTEN_S = 86_400


def piece_text(piece: bytes) -> str:
    """A piece, compressed, as text."""
    return b64encode(zlib.compress(piece, 6)).decode()


def piece_of(text: str) -> bytes:
    """The bytes of a piece.

    Raises:
        ValueError: It is none.
    """
    try:
        return zlib.decompress(b64decode(text.strip(), validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from None


def clear_forgotten(folder: Path, name: re.Pattern[str]) -> None:
    """Remove the copies of such names that nobody has come back for within a day."""
    for old in folder.iterdir():
        if name.fullmatch(old.name) and time.time() - old.stat().st_mtime > _FORGOTTEN_S:
            old.unlink(missing_ok=True)

"""Hands a copy of a ledger in a file over to somebody who can only run programs beside it, piece by piece: a backup of a ledger in a cluster.

`python3 -m kivactl.usage.handing make ORDERS` makes the copy beside the ledger and says what it is, `read ORDERS NAME OFFSET` prints a
piece of it, `drop ORDERS NAME` removes it. A refusal is one sentence on stderr.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.stack.metering import SQLITE, Orders, read_orders
from kivactl.usage.asked import answered
from kivactl.usage.pieces import clear_forgotten, piece_text
from kivactl.usage.snapshot import snapshot

PIECE_BYTES = 4 * 2**20
"""Of the copy, in one answer; fewer go over the network."""

_NAME = re.compile(r"handed-[0-9a-f]{16}\.db")
_ROOM_BYTES = 64 * 2**20
"""What stays free for the meter beside a copy."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that was made.

    Attributes:
        name: Of its file.
        size_bytes: Of the whole.
        sha256: Of its content.
    """

    name: str
    size_bytes: int
    sha256: str


def make(orders: Orders) -> Copy:
    """Copy the ledger as it is now; copies that were forgotten go.

    Raises:
        PreconditionError: There is no ledger, it is on a server, or there is no room for a copy beside it.
        KivaError: It cannot be read just now.
    """
    folder, ledger = _folder(orders), Path(orders.ledger.removeprefix(SQLITE))
    clear_forgotten(folder, _NAME)
    if ledger.exists():
        room = os.statvfs(folder)
        free, needed = room.f_bavail * room.f_frsize, sum(path.stat().st_size for path in folder.glob(f"{ledger.name}*")) + _ROOM_BYTES
        if free < needed:
            raise PreconditionError(f"no room for a copy of the ledger beside it: {needed} bytes are needed, {free} are free", "enlarge the ledger's volume")
    name = f"handed-{secrets.token_hex(8)}.db"
    snapshot(orders.ledger, orders.platform, folder / name)
    with (folder / name).open("rb") as file:
        return Copy(name, (folder / name).stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def read(orders: Orders, name: str, offset: int) -> str:
    """A piece of a copy, compressed, as text.

    Raises:
        PreconditionError: There is no such copy.
    """
    with _path(orders, name).open("rb") as file:
        file.seek(offset)
        return piece_text(file.read(PIECE_BYTES))


def drop(orders: Orders, name: str) -> None:
    """Remove a copy."""
    with suppress(PreconditionError):
        _path(orders, name).unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the answer is on stdout."""
    return answered(lambda: _done(*arguments), "handed over")


def _done(verb: str, orders: str, *words: str) -> str:
    verbs: dict[str, Callable[..., str]] = {"make": _made, "read": _read, "drop": _dropped}
    return verbs[verb](read_orders(Path(orders)), *words)


def _made(orders: Orders) -> str:
    copy = make(orders)
    return json.dumps({"name": copy.name, "bytes": copy.size_bytes, "sha256": copy.sha256})


def _read(orders: Orders, name: str, offset: str) -> str:
    return read(orders, name, int(offset))


def _dropped(orders: Orders, name: str) -> str:
    drop(orders, name)
    return ""


def _folder(orders: Orders) -> Path:
    if not orders.ledger.startswith(SQLITE):
        raise PreconditionError("the ledger lies on a server: it is copied from there", "kivactl runbook backup")
    return Path(orders.ledger.removeprefix(SQLITE)).parent


def _path(orders: Orders, name: str) -> Path:
    path = _folder(orders) / name
    if not _NAME.fullmatch(name) or not path.is_file():
        raise PreconditionError(f"there is no copy '{name}' of the ledger", "make the backup again")
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

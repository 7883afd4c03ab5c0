"""Takes a copy of a ledger from somebody who can only run programs beside it, piece by piece, and fills the ledger with it: a restore in a cluster.

`python3 -m kivactl.usage.taking write ORDERS NAME OFFSET LENGTH` appends a piece that comes on standard input, `fill ORDERS NAME SHA256 RUN
SINCE_MS [replace]` brings it into the ledger and says what became of that, `back ORDERS RUN` gives back what was replaced, `forget ORDERS RUN`
removes the copy of that. A refusal is one sentence on stderr.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kivactl.errors import CheckError, PreconditionError
from kivactl.stack.metering import SQLITE, Orders, read_orders
from kivactl.usage.asked import answered
from kivactl.usage.pieces import clear_forgotten, piece_of
from kivactl.usage.refilling import Refilled, forget_replaced, refill, refill_back
from kivactl.usage.snapshot import sums_of

PIECE_BYTES = 512 * 2**10
"""Of the copy, in one program's standard input; fewer go over the network."""

_NAME = re.compile(r"taken-[0-9a-f]{16}\.db")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


def name_of(sha256: str) -> str:
    """How a copy is called beside the ledger: the same one always the same."""
    return f"taken-{sha256[:16]}.db"


def write(orders: Orders, name: str, offset: int, piece: bytes) -> int:
    """Append a piece; with the first one the file begins anew, and copies that were forgotten go.

    Returns:
        Bytes that the file has now.

    Raises:
        PreconditionError: The ledger is on a server, or the piece does not follow the one before.
    """
    path = _path(orders, name)
    if offset == 0:
        clear_forgotten(path.parent, _NAME)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if offset == 0 else 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if file.seek(0, os.SEEK_END) != offset:
            raise PreconditionError(f"the piece at {offset} does not follow the {file.tell()} bytes of {name}", "do it again: kivactl runbook resume")
        file.write(piece)
        return file.tell()


def fill(orders: Orders, name: str, sha256: str, run: str, since_ms: int, *, replace: bool) -> Refilled:
    """Bring a whole copy into the ledger; the copy goes.

    Raises:
        CheckError: It is not what was sent.
        KivaError: The ledger cannot be written just now.
    """
    path = _path(orders, name)
    if not path.is_file():
        raise PreconditionError(f"there is no copy '{name}' beside the ledger", "do it again: kivactl runbook resume")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise CheckError("the copy of the ledger came damaged", "do it again: kivactl runbook resume")
    sums_of(path)
    did = refill(_ledger(orders), path, orders.platform, run=_sound(run), since_ms=since_ms, replace=replace)
    path.unlink(missing_ok=True)
    return did


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the answer is on stdout."""
    return answered(lambda: _done(*arguments), "filled")


def _done(verb: str, orders: str, *words: str) -> str:
    verbs: dict[str, Callable[..., object]] = {"write": _write, "fill": _fill, "back": _back, "forget": _forget}
    return json.dumps({"did": verbs[verb](read_orders(Path(orders)), *words)})


def _write(orders: Orders, name: str, offset: str, length: str) -> int:
    # By its length: not every API server can say where standard input ends.
    return write(orders, name, int(offset), piece_of(sys.stdin.read(int(length))))


def _fill(orders: Orders, name: str, sha256: str, run: str, since_ms: str, replace: str = "") -> str:
    return fill(orders, name, sha256, run, int(since_ms), replace=replace == "replace").value


def _back(orders: Orders, run: str) -> bool:
    return refill_back(_ledger(orders), _sound(run))


def _forget(orders: Orders, run: str) -> bool:
    forget_replaced(_ledger(orders), _sound(run))
    return True


def _ledger(orders: Orders) -> Path:
    if not orders.ledger.startswith(SQLITE):
        raise PreconditionError("the ledger lies on a server: it has backups of its own", "kivactl runbook restore")
    return Path(orders.ledger.removeprefix(SQLITE))


def _path(orders: Orders, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise PreconditionError(f"'{name}' is no name of a copy")
    return _ledger(orders).parent / name


def _sound(run: str) -> str:
    if not _RUN.fullmatch(run):
        raise PreconditionError(f"'{run}' is no name of a run")
    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Starts an engine in place of itself: without the socket that a killed one left behind, and with less priority.

vLLM does not bind a socket whose file exists, so after a SIGKILL it would never come up again.
Runs as `python -m kivactl.targets.launch SOCKET PROGRAM ARGUMENT...`; the process id stays the same.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_NICENESS = 10


def launch(socket: str, argv: list[str]) -> None:
    """Remove a stale socket and become the program; never returns."""
    with suppress(FileNotFoundError):
        os.unlink(socket)  # noqa: PTH108  (pathlib would triple the start-up time of this launcher)
    # An engine takes all of its cores; the gateway and the operator on the same machine must not wait for it.
    os.nice(_NICENESS)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])

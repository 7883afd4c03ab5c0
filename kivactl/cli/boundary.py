"""The one error boundary: whatever happens below becomes one sentence and an exit code.

0 done, 1 our bug, 2 usage or spec, 3 missing precondition, 4 a tool failed, 5 not ready in time, 6 a check failed,
7 invalid measurement, 130 interrupted; 141 when nobody reads the output any more.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from kivactl.cli.output import Mode, OutputClosed, Sink
from kivactl.errors import Interrupted, KivaError, UsageError, from_os_error
from kivactl.stack.redaction import redacted

_OUTPUT_CLOSED = 128 + signal.SIGPIPE
_TOGETHER_S = 0.2
"""Signals to stop that are no further apart are one."""
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160)) if chr(number) not in "\t\n"}


def run(argv: Sequence[str]) -> int:
    """Run a command line.

    Args:
        argv: The words after the program's name.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # replaced by something that cannot
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words = list(argv)[: list(argv).index("--")] if "--" in argv else list(argv)
    sink = Sink(asked_mode(words))
    try:
        try:
            with _stopped_once():
                code = _run(list(argv))
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001  (this is the boundary)
            code = _shown(error, sink, debug="--debug" in words or "--verbose" in words)
            sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        # The interpreter flushes at its end; give it something that takes everything.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return _OUTPUT_CLOSED
    return code


def asked_mode(words: Sequence[str]) -> Mode:
    """Whom the output is for, read off a command line that may be wrong; the last mention wins."""
    mode = Mode.HUMAN
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in {"--output", "-o"}:
            value = value or (words[index + 1] if index + 1 < len(words) else "")
            mode = Mode.JSON if value == Mode.JSON else Mode.HUMAN
    return mode


def _run(argv: list[str]) -> int:
    import typer

    from kivactl.cli.app import PROGRAM, build
    from kivactl.cli.group import Carried

    try:
        code = build().main(args=argv, prog_name=PROGRAM, standalone_mode=False)
    except Carried as carried:
        raise carried.error from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        raise UsageError(error.format_message().strip().rstrip("."), f"{path} --help") from None
    return code if isinstance(code, int) else 0


def _shown(error: BaseException, sink: Sink, *, debug: bool) -> int:
    """Show why the command ends; returns the exit code."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        case OutputClosed():
            raise error
        case KivaError():
            known: KivaError | None = error
        case KeyboardInterrupt() | EOFError():
            known = Interrupted("interrupted", "the same command goes on from here")
        case OSError():
            known = from_os_error(error)
        case _:
            known = None
    if debug:
        sys.stderr.write(_clean("".join(traceback.format_exception(error))))
    if known is None:
        known = _our_bug(error, debug=debug)
    sink.error(known.exit_code, _clean(known.message), _clean(known.hint), [_clean(line) for detail in known.details for line in detail.splitlines()])
    return known.exit_code


def _our_bug(error: BaseException, *, debug: bool) -> KivaError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    message = f"kivactl has a bug: {type(error).__name__}{where}"
    if debug:
        return KivaError(message)
    from kivactl import __version__

    text = f"kivactl {__version__}, Python {platform.python_version()}, {platform.platform()}\n" + "".join(traceback.format_exception(error))
    try:
        descriptor, name = tempfile.mkstemp(prefix="kivactl-bug-", suffix=".txt")  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_clean(text))
    except OSError:
        return KivaError(message, "run it again with --debug to see the traceback")
    return KivaError(message, f"please report it with the traceback in {name}")


def _clean(text: str) -> str:
    return redacted(text).translate(_CONTROL)


@contextmanager
def _stopped_once() -> Iterator[None]:
    """SIGTERM ends a command the way Ctrl-C does, so that both take the same careful way out.

    Signals that come together are one wish: `timeout`, service managers and shells send one to the program and one to its group, and the
    second of them is no further Ctrl-C, which would cut the careful way short.
    """
    heard_s = -math.inf

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal heard_s
        before_s, heard_s = heard_s, time.monotonic()
        if heard_s - before_s > _TOGETHER_S:
            raise KeyboardInterrupt

    # Where SIGINT is ignored, as in a shell's background, it stays so.
    numbers = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else [])]
    try:
        before = {number: signal.signal(number, interrupt) for number in numbers}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

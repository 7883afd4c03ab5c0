"""Shows outcomes while they happen: moving lines on a terminal, one line each elsewhere, JSON for programs."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from kivactl.plan import Outcome, Status

if TYPE_CHECKING:
    from rich.console import RenderResult

_SIGNS = {Status.STARTED: "…", Status.PROGRESS: "…", Status.DONE: "✔", Status.SKIPPED: "–", Status.FAILED: "✘"}
_STYLES = {Status.DONE: "green", Status.SKIPPED: "dim", Status.FAILED: "red"}
_SHOWN_FROM_S = 0.05


def line_for(outcome: Outcome) -> str:
    """An outcome as one line: sign, step, message, seconds once it has ended."""
    ended = outcome.status in _STYLES
    seconds = f" ({seconds_text(outcome.elapsed_s)})" if ended and outcome.elapsed_s >= _SHOWN_FROM_S else ""
    return f"{_SIGNS[outcome.status]} {outcome.step}{': ' + outcome.message if outcome.message else ''}{seconds}"


def unremarkable(outcome: Outcome) -> bool:
    """Whether a step ended without doing anything, as most of a playbook's tasks do: nobody wants to read of it."""
    without_reason = outcome.status is Status.SKIPPED and outcome.message in {"", "skipped"}
    return without_reason or (outcome.status is Status.DONE and outcome.data.get("changed") is False)


def seconds_text(elapsed_s: float) -> str:
    """`4.2 s`, `1 m 15 s`."""
    if elapsed_s < 60:
        return f"{elapsed_s:.1f} s"
    return f"{int(elapsed_s) // 60} m {int(elapsed_s) % 60:02d} s"


class Reporter(ABC):
    """Shows outcomes; a context manager."""

    @abstractmethod
    def show(self, outcome: Outcome) -> None:
        """Show one."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let a person read and type; nothing moves meanwhile."""
        yield

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop showing."""


class Lines(Reporter):
    """One line for each; progress only when its message is new."""

    def __init__(self, stream: IO[str], *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._last: dict[str, str] = {}

    def show(self, outcome: Outcome) -> None:
        """Show one."""
        if self._as_json:
            text = json.dumps(outcome.as_dict(), ensure_ascii=False)
        else:
            text = line_for(outcome)
            if outcome.status in {Status.STARTED, Status.PROGRESS} and self._last.get(outcome.step) == text:
                return
            self._last[outcome.step] = text
        self._stream.write(text + "\n")
        self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing moves, so nothing is left to stop."""


class Live(Reporter):
    """Finished steps as lines, the running ones below with a spinner, their message and their seconds."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.spinner import Spinner

        self._running: dict[str, tuple[Outcome, float]] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live: Any = RichLive(self, console=Console(file=stream, highlight=False), refresh_per_second=8, transient=True, redirect_stdout=False)

    def show(self, outcome: Outcome) -> None:
        """Show one."""
        from rich.text import Text

        if outcome.status in _STYLES:
            self._running.pop(outcome.step, None)
            if not unremarkable(outcome):
                self._live.console.print(Text(line_for(outcome), style=_STYLES[outcome.status]))
        else:
            _, since = self._running.get(outcome.step, (outcome, time.monotonic() - outcome.elapsed_s))
            self._running[outcome.step] = (outcome, since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let a person read and type; nothing moves meanwhile."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start(refresh=True)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()
        if kind is not None:
            from rich.text import Text

            for outcome, _ in self._running.values():
                self._live.console.print(Text(line_for(outcome), style="yellow"))

    def __rich_console__(self, console: Any, options: Any) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        # A copy: outcomes arrive while the refreshing thread draws.
        for outcome, since in list(self._running.values()):
            message = f"{outcome.step}{': ' + outcome.message if outcome.message else ''}"
            table.add_row(self._spinner, Text(message, overflow="ellipsis", no_wrap=True), Text(seconds_text(time.monotonic() - since), style="dim"))
        yield table

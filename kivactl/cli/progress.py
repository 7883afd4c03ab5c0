"""Shows outcomes while they happen: moving lines on a terminal, one line each elsewhere, JSON for programs."""

from __future__ import annotations

import importlib
import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, cast

from kivactl.plan import Outcome, Status

if TYPE_CHECKING:
    from rich.console import RenderResult
    from rich.text import Text

    View = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], int, int], Sequence[Text]]
    """Draws a running step from the data it started with and those of its last minute of progress, within a width and a height."""

_SIGNS = {Status.STARTED: "…", Status.PROGRESS: "…", Status.DONE: "✔", Status.SKIPPED: "–", Status.FAILED: "✘"}
_STYLES = {Status.DONE: "green", Status.SKIPPED: "dim", Status.FAILED: "red"}
_SHOWN_FROM_S = 0.05
_VIEWS = {"load": "kivactl.cli.loadtest_view"}
"""Kinds of steps that are worth more than a line while they run, by the `kind` in the data they start with; and the module whose `lines_for` draws them."""
_KEPT = 60
"""So many progress outcomes are kept for a view, which come once a second."""


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


@dataclass(slots=True)
class _Running:
    """A step under way.

    Attributes:
        began: The outcome it started with.
        outcome: The last one.
        since_s: When it began, on the monotonic clock.
        view: What draws it; None for its line alone.
        course: The data of its progress, the newest last.
    """

    began: Outcome
    outcome: Outcome
    since_s: float
    view: View | None
    course: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    @property
    def message(self) -> str:
        # A view shows what progress says, and more of it.
        told = self.began if self.view else self.outcome
        return f"{told.step}{': ' + told.message if told.message else ''}"


class _Whole:
    """A terminal that shows each frame at once (synchronized output): what is drawn anew is erased first, which would flicker.

    Terminals that do not know of it take no notice.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(f"\x1b[?2026h{text}\x1b[?2026l") if text else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Live(Reporter):
    """Finished steps as lines, the running ones below with a spinner, their message and their seconds, and some with a view of their own."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.spinner import Spinner

        self._running: dict[str, _Running] = {}
        self._spinner = Spinner("dots", style="cyan")
        console = Console(file=cast("IO[str]", _Whole(stream)), highlight=False)
        self._live: Any = RichLive(self, console=console, refresh_per_second=8, transient=True, redirect_stdout=False)

    def show(self, outcome: Outcome) -> None:
        """Show one."""
        from rich.text import Text

        if outcome.status in _STYLES:
            self._running.pop(outcome.step, None)
            if not unremarkable(outcome):
                self._live.console.print(Text(line_for(outcome), style=_STYLES[outcome.status]))
        else:
            running = self._running.get(outcome.step)
            if running is None:
                # Complete before the refreshing thread sees it.
                self._running[outcome.step] = running = _Running(outcome, outcome, time.monotonic() - outcome.elapsed_s, _view_of(outcome))
            running.outcome = outcome
            if running.view and outcome.status is Status.PROGRESS:
                running.course.append(outcome.data)

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

            for running in self._running.values():
                self._live.console.print(Text(line_for(running.outcome), style="yellow"))

    def __rich_console__(self, console: Any, options: Any) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        # Copies: outcomes arrive while the refreshing thread draws.
        steps = list(self._running.values())
        room = options.max_height - len(steps)
        for running in steps:
            table = Table.grid(padding=(0, 1))
            seconds = seconds_text(time.monotonic() - running.since_s)
            table.add_row(self._spinner, Text(running.message, overflow="ellipsis", no_wrap=True), Text(seconds, style="dim"))
            yield table
            if running.view:
                lines = running.view(running.began.data, list(running.course), options.max_width, room)
                room -= len(lines)
                yield from lines


def _view_of(outcome: Outcome) -> View | None:
    name = _VIEWS.get(outcome.data.get("kind", ""))
    if name is None:
        return None
    view: View = importlib.import_module(name).lines_for
    return view

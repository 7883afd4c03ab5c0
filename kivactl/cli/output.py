"""The one sink: stdout is data, stderr is talk.

For people (`human`) or programs (`json`, where stdout holds one document and stderr one JSON object a line). rich loads
only where a terminal is there to show colours and movement; everything else is plain lines.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

from kivactl.errors import UsageError

if TYPE_CHECKING:
    from kivactl.cli.progress import Reporter
    from kivactl.plan import Outcome, Plan


class Mode(StrEnum):
    """Whom the output is for."""

    HUMAN = "human"
    JSON = "json"


class OutputClosed(Exception):
    """Nobody reads stdout any more (`kivactl logs | head`)."""


_YES, _NO = {"y", "yes", "j", "ja"}, {"n", "no", "nein"}

Style = Mapping[str, str]
"""Words and the rich style in which a table shows them on a terminal, such as `{"serving": "green"}`."""


class Sink:
    """Where a command's output goes.

    Args:
        mode: Whom it is for.
        out: Data; standard output when absent.
        err: Talk; standard error when absent.
        stdin: Answers; standard input when absent.
    """

    def __init__(self, mode: Mode = Mode.HUMAN, *, out: IO[str] | None = None, err: IO[str] | None = None, stdin: IO[str] | None = None) -> None:
        self.mode = mode
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._in = stdin or sys.stdin
        self._reporter: Reporter | None = None

    @property
    def json(self) -> bool:
        return self.mode is Mode.JSON

    @property
    def coloured(self) -> bool:
        """Whether stdout is a terminal that wants colours."""
        return _terminal(self._out) and "NO_COLOR" not in os.environ

    def result(self, data: Any, human: str | Callable[[], object] | None = None) -> None:
        """Hand over a command's result.

        Args:
            data: JSON-ready; what programs get.
            human: What people get: a text, or a function that calls `text` and `table`; None for nothing.
        """
        if self.json:
            self._write(self._out, json.dumps(data, indent=2, ensure_ascii=False))
        elif callable(human):
            human()
        elif human is not None:
            self.text(human)

    def text(self, text: str, *, end: str = "\n") -> None:
        """Data for people, as it is; with `end=""` a piece of a stream, shown at once."""
        if not self.json:
            self._write(self._out, text, end)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], styles: Style | None = None) -> None:
        """Rows under headings, for people; numbers stand right."""
        if self.json:
            return
        cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
        widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
        right = [bool(cells) and all(_number(row[index]) for row in cells) for index in range(len(columns))]
        if not right[-1]:
            widths[-1] = 0  # nothing stands behind it
        for number, line in enumerate([list(columns), *cells]):
            padded = [cell.rjust(width) if of_numbers else cell.ljust(width) for cell, width, of_numbers in zip(line, widths, right, strict=True)]
            if self.coloured:
                padded = [_styled(cell, "bold" if number == 0 else (styles or {}).get(cell.strip(), "")) for cell in padded]
            self._write(self._out, "  ".join(padded).rstrip())

    def plan(self, plan: Plan, *, result: bool = False) -> None:
        """Show what would change.

        Args:
            plan: The plan.
            result: Whether the plan is what the command was asked for (then stdout), or comes before a question (stderr).
        """
        from kivactl.cli.plan_text import lines_for

        stream = self._out if result else self._err
        if self.json:
            self._write(stream, json.dumps(plan.as_dict() if result else {"plan": plan.as_dict()}, indent=2 if result else None, ensure_ascii=False))
            return
        self.lines(lines_for(plan), result=result)

    def lines(self, lines: Iterable[tuple[str, str]], *, result: bool = True) -> None:
        """Lines with their style, for people.

        Args:
            lines: Each with a style such as `bold` or `red`, or an empty one.
            result: Whether they are what the command was asked for (then stdout), or come before a question (stderr).
        """
        if self.json:
            return
        stream = self._out if result else self._err
        colours = _terminal(stream) and "NO_COLOR" not in os.environ
        for text, style in lines:
            self._write(stream, _styled(text, style) if colours else text)

    def outcomes(self, outcomes: Iterable[Outcome], seen: list[Outcome] | None = None) -> list[Outcome]:
        """Show what happens while it happens.

        Args:
            outcomes: As a flow yields them; its errors pass through. A Ctrl-C that comes while something is drawn is thrown
                into it, so that it can undo what it has begun, and show it.
            seen: Gets them; for who wants to know them when it ends with an error.

        Returns:
            All of them.
        """
        from kivactl.cli.progress import Lines, Live

        reporter: Reporter = Live(self._err) if _terminal(self._err) and not self.json else Lines(self._err, as_json=self.json)
        source: AbstractContextManager[Any] = closing(outcomes) if hasattr(outcomes, "close") else nullcontext()
        seen = [] if seen is None else seen
        flow: Any = iter(outcomes)
        interrupt: KeyboardInterrupt | None = None
        with source, reporter:
            self._reporter = reporter
            try:
                while True:
                    try:
                        outcome = next(flow) if interrupt is None else flow.throw(interrupt)
                    except StopIteration:
                        break
                    interrupt = None
                    try:
                        seen.append(outcome)
                        reporter.show(outcome)
                    except KeyboardInterrupt as error:
                        if not hasattr(flow, "throw"):
                            raise
                        interrupt = error
            finally:
                self._reporter = None
        return seen

    @property
    def asks(self) -> bool:
        """Whether there is a person at a terminal who could answer."""
        return not self.json and _terminal(self._in)

    def ask(self, title: str, question: str) -> bool:
        """Let a person answer in the middle of a flow, while what moves stands still.

        Args:
            title: What the question belongs to.
            question: Answered with y or n (German: j); asked again until it is one of them.

        Raises:
            EOFError: The input ended.
        """
        with self._reporter.paused() if self._reporter else nullcontext():
            self._write(self._err, f"{title}: {question}")
            while True:
                self._write(self._err, "[y/n] ", "")
                line = self._in.readline()
                if not line:
                    raise EOFError
                if (answer := line.strip().lower()) in _YES | _NO:
                    return answer in _YES

    def confirm_by_name(self, name: str, action: str, assume_yes: bool = False, *, way: str = "--yes") -> bool:
        """Ask before something is taken away: only who types the name goes on.

        Args:
            name: What has to be typed.
            action: What would happen to it, such as `Runs 'stop' on`.
            assume_yes: What `--yes` says.
            way: What the command takes instead of an answer.

        Raises:
            UsageError: There is no one to ask.
        """
        if assume_yes:
            return True
        if not self.asks:
            raise UsageError(f"{action} '{name}' needs its name typed, and there is no terminal to ask", f"add {way}")
        self._write(self._err, f"{action} '{name}'. Type its name to go on: ", "")
        return self._in.readline().strip() == name

    def confirm(self, question: str, assume_yes: bool = False) -> bool:
        """Ask before something changes.

        Args:
            question: Answered with y or n; anything but yes is no.
            assume_yes: What `--yes` says.

        Raises:
            UsageError: There is no one to ask.
        """
        if assume_yes:
            return True
        if not self.asks:
            raise UsageError(f"'{question}' needs an answer, and there is no terminal to ask", "add --yes")
        self._write(self._err, f"{question} [y/N] ", "")
        return self._in.readline().strip().lower() in _YES

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self._talk("note", text)

    def warn(self, text: str) -> None:
        """Something that may become a problem."""
        self._talk("warning", text)

    def error(self, code: int, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        """Why the command ends; programs get it on stdout, in place of the result."""
        if self.json:
            error = {"code": code, "message": message, "hint": hint, "details": list(details)}
            self._write(self._out, json.dumps({"error": error}, indent=2, ensure_ascii=False))
            return
        colours = _terminal(self._err) and "NO_COLOR" not in os.environ
        self._write(self._err, f"{_styled('error:', 'bold red') if colours else 'error:'} {message}")
        for line in details:
            self._write(self._err, f"  {line}")
        if hint:
            self._write(self._err, f"{_styled('hint:', 'cyan') if colours else 'hint:'} {hint}")

    def _talk(self, kind: str, text: str) -> None:
        if self.json:
            self._write(self._err, json.dumps({kind: text}, ensure_ascii=False))
        else:
            self._write(self._err, text if kind == "note" else f"{kind}: {text}")

    def _write(self, stream: IO[str], text: str, end: str = "\n") -> None:
        try:
            stream.write(text + end)
            stream.flush()
        except BrokenPipeError as error:
            raise OutputClosed from error


def _terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _number(text: str) -> bool:
    return not text or text[0].isdigit() or text[0] == "-"


_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def _styled(text: str, style: str) -> str:
    codes = ";".join(_CODES[word] for word in style.split() if word in _CODES)
    return f"\x1b[{codes}m{text}\x1b[0m" if codes else text

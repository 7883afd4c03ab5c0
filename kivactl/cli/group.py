"""Groups of commands: a mistyped name gets the nearest one, and modules load only when their command is meant."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from kivactl.cli.commands import Entry
from kivactl.cli.options import add_common
from kivactl.errors import UsageError


class Carried(Exception):
    """Takes an error that Typer would answer itself (a broken pipe, Ctrl-C, an end of input) past it to the error boundary."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Group(TyperGroup):
    """A group that suggests the nearest name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command a word names.

        Raises:
            UsageError: There is none.
        """
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.commands, n=1)
            raise UsageError(f"there is no command '{ctx.command_path} {name}'", f"{ctx.command_path} {near[0] if near else '--help'}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """The root: its commands are names and sentences until one is meant."""

    def register(self, entries: Sequence[Entry]) -> None:
        """Take commands without loading them."""
        self._entries = {entry.name: entry for entry in entries}
        for entry in entries:
            self.commands[entry.name] = TyperCommand(entry.name, help=entry.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command a word names, loaded.

        Raises:
            UsageError: There is none.
        """
        entry = self._entries.get(args[0])
        if entry is not None:
            self.commands[entry.name] = loaded(entry)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Typer sees neither the system's errors nor Ctrl-C, which it would answer itself."""
        try:
            return super().invoke(ctx)
        except (OSError, EOFError, KeyboardInterrupt) as error:
            raise Carried(error) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  (the signature is the base class's)
        """List the commands by section, from the registry alone."""
        width = max(len(name) for name in self._entries)
        for section in dict.fromkeys(entry.section for entry in self._entries.values()):
            with formatter.section(section):
                formatter.write_dl([(entry.name.ljust(width), entry.summary) for entry in self._entries.values() if entry.section == section])


def loaded(entry: Entry) -> Any:
    """The command of a registry line: the module's `app` (a group) or `command` (a function), with the common options."""
    module = importlib.import_module(f"kivactl.cli.commands.{entry.module}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(entry.name)(module.command)
    return add_common(typer.main.get_command(app))


def group(summary: str) -> typer.Typer:
    """An app for a command with subcommands."""
    return typer.Typer(cls=Group, help=summary, add_completion=False, rich_markup_mode=None)

"""`kivactl runbook NAME`: a word that is no command of the group is the name of a runbook."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from kivactl.cli.completion import MEANT, runbooks
from kivactl.cli.group import Group


class RunbookGroup(Group):
    """A group whose command `run` is meant when the first word names none."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command a word names; `run` with that word otherwise."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        if args[0] == "run" and len(args) > 1:
            ctx.meta[MEANT] = args[1]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands, options, and the names of runbooks with their titles."""
        for name, title in runbooks(incomplete):  # the process ends with this answer
            self.commands.setdefault(name, TyperCommand(name, help=title))
        return list(super().shell_complete(ctx, incomplete))

"""`kivactl loadtest SCENARIO`: a word that is no command of the group is a scenario, and no word is the smoke test."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from kivactl.cli.completion import scenario_names
from kivactl.cli.group import Group


class LoadtestGroup(Group):
    """A group whose command `run` is meant when the first word names none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words of a command line, with `run` where it is left out."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands, options, and the names of scenarios."""
        for name, about in scenario_names(incomplete):  # the process ends with this answer
            self.commands.setdefault(name, TyperCommand(name, help=about))
        return list(super().shell_complete(ctx, incomplete))

"""`kivactl loadtest SCENARIO`: a word that is no command of the group is a scenario, and no word is the smoke test.

The first word that is neither an option nor an option's value decides, wherever options stand.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from kivactl.cli.completion import scenario_names
from kivactl.cli.group import Group


class LoadtestGroup(Group):
    """A group whose command `run` is meant when the first word names none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words of a command line, with `run` where it is left out."""
        at = self._first_word(args)
        if at is not None and args[at] in self.commands:
            args = [args[at], *args[:at], *args[at + 1 :]]
        elif at is not None or not {"--help", "-h"} & set(args):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))

    def _first_word(self, args: list[str]) -> int | None:
        """Where it is; None where there is none."""
        parameters: list[Any] = self.commands["run"].params
        options = [parameter for parameter in parameters if parameter.param_type_name == "option" and not parameter.is_flag]
        takes_value = {name for option in options for name in option.opts}
        at = 0
        while at < len(args):
            if args[at] == "--":
                return at + 1 if at + 1 < len(args) else None
            if not args[at].startswith("-") or args[at] == "-":
                return at
            at += 2 if args[at] in takes_value else 1
        return None

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands, options, and the names of scenarios."""
        for name, about in scenario_names(incomplete):  # the process ends with this answer
            self.commands.setdefault(name, TyperCommand(name, help=about))
        return list(super().shell_complete(ctx, incomplete))

"""`kivactl runbook NAME`: a word that is no command of the group is the name of a runbook, and an option that `run` does not have a parameter of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
            if not ctx.resilient_parsing:
                known = {option for parameter in self.commands["run"].params for option in (*parameter.opts, *parameter.secondary_opts)}
                args = [args[0], *assigned(args[1:], known)]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands, options, and the names of runbooks with their titles."""
        for name, title in runbooks(incomplete):  # the process ends with this answer
            self.commands.setdefault(name, TyperCommand(name, help=title))
        return list(super().shell_complete(ctx, incomplete))


def assigned(words: Sequence[str], known: Collection[str]) -> list[str]:
    """A command line's words with `--set NAME=VALUE` for `--NAME=VALUE`, and `--set NAME=true` for `--NAME`.

    Args:
        words: As typed.
        known: Options that are no parameters of a runbook.
    """
    found: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            return [*found, *words[index:]]
        name, sign, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and f"--{name}" not in known:
            found += ["--set", f"{name.replace('-', '_')}={value if sign else 'true'}"]
        else:
            found.append(word)
    return found

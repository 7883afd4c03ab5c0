"""Builds the command line from the registry of commands.

Help is plain text: drawing it with rich would cost a third of the time `--help` may take, and plain help can be copied
into a document.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kivactl import __version__
from kivactl.cli.commands import registered
from kivactl.cli.group import LazyGroup
from kivactl.cli.options import add_common

PROGRAM = "kivactl"


def build() -> Any:
    """The root command, with every registered command by name; none of their modules is loaded."""
    app = typer.Typer(name=PROGRAM, cls=LazyGroup, invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_root)
    root = add_common(typer.main.get_command(app))
    root.register(registered())
    return root


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,  # noqa: ARG001  (eager)
) -> None:
    """Put a self-hosted LLM platform into production and keep it there.

    The first platform: kivactl init, then kivactl up.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)

"""The options every command takes, before or behind its name: `kivactl --output json status` is `kivactl status --output json`.

`add_common` gives them to a command, so that no command declares them; `common(ctx)` is what they say. Behind the name
wins over before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kivactl.cli.output import Mode, Sink

if TYPE_CHECKING:
    from kivactl.spec.load import Loaded


@dataclass
class Common:
    """What the common options say.

    Attributes:
        spec: The file or folder named by `--spec`; None to look for `kiva.yaml`.
        environment: The overlay named by `--env`.
        output: For people or for programs.
    """

    spec: Path | None = None
    environment: str | None = None
    output: Mode = Mode.HUMAN

    @cached_property
    def sink(self) -> Sink:
        """Where this command's output goes."""
        return Sink(self.output)

    @property
    def path(self) -> Path:
        """The spec's path.

        Raises:
            SpecError: There is none.
        """
        from kivactl.spec.load import find

        return find(self.spec)

    def load(self) -> Loaded:
        """Read the spec.

        Raises:
            SpecError: It has faults.
        """
        from kivactl.spec.load import load

        return load(self.path, self.environment)


def common(context: typer.Context) -> Common:
    """What the common options of this command line say."""
    found: Common = context.find_root().ensure_object(Common)
    return found


def add_common(command: Any) -> Any:
    """Give the common options to a command, or to every command of a group; returns it."""
    known = {parameter.name for parameter in command.params}
    command.params.extend(parameter for parameter in _parameters() if parameter.name not in known)
    for child in getattr(command, "commands", {}).values():
        add_common(child)
    return command


def _keep(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    if value is not None and not context.resilient_parsing:
        setattr(common(context), str(parameter.name), value)
    return value


@cache
def _parameters() -> tuple[Any, ...]:
    """The common options as Typer makes them from a signature; they are without state, so all commands share them."""
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    return tuple(typer.main.get_command(app).params)


def _declared(
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="PATH", help="The spec, instead of $KIVACTL_SPEC or the nearest kiva.yaml.", callback=_keep, expose_value=False),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--env", metavar="NAME", help="Lay kiva.NAME.yaml over the spec.", callback=_keep, expose_value=False)
    ] = None,
    output: Annotated[
        Mode | None, typer.Option("--output", "-o", help="For people, or one JSON document on stdout.", callback=_keep, expose_value=False)
    ] = None,
    # The error boundary looks for it, for a command line with a mistake must obey it too.
    debug: Annotated[bool, typer.Option("--debug", "--verbose", help="Show the traceback of an error.", expose_value=False)] = False,
) -> None:
    """Carry the declarations; never called."""

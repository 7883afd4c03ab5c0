"""The options every command takes, before or behind its name: `kivactl --output json status` is `kivactl status --output json`.

`add_common` gives them to a command, so that no command declares them; `common(ctx)` is what they say. Behind the name
wins over before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
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
    for parameter in command.params:
        parameter.process_value = partial(_processed, parameter, parameter.process_value)
    command.params.extend(parameter for parameter in _parameters() if parameter.name not in known)
    for child in getattr(command, "commands", {}).values():
        add_common(child)
    return command


def _declared(
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="PATH", help="The spec, instead of $KIVACTL_SPEC or the nearest kiva.yaml.", expose_value=False)
    ] = None,
    environment: Annotated[str | None, typer.Option("--env", metavar="NAME", help="Lay kiva.NAME.yaml over the spec.", expose_value=False)] = None,
    output: Annotated[Mode | None, typer.Option("--output", "-o", help="For people, or one JSON document on stdout.", expose_value=False)] = None,
    # The error boundary looks for it, for a command line with a mistake must obey it too.
    debug: Annotated[bool, typer.Option("--debug", "--verbose", help="Show the traceback of an error.", expose_value=False)] = False,
    show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this help.", is_eager=True, expose_value=False)] = False,
) -> None:
    """Carry the declarations; never called."""


@cache
def _parameters() -> tuple[Any, ...]:
    """The common options as Typer makes them from a signature; they keep nothing, so all commands share them."""
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    parameters = tuple(typer.main.get_command(app).params)
    for parameter in parameters:
        parameter.process_value = partial(_keep, parameter)  # type: ignore[method-assign]
    return parameters


def _processed(parameter: Any, process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """Leave an option that is not given alone.

    Typer would build a pydantic validator for it even so, which takes a third of the time that `status` may.
    """
    if value is None and not (parameter.required or parameter.multiple or parameter.nargs == -1):
        return parameter.callback(context, parameter, None) if parameter.callback else None
    return process(context, value)


def _keep(parameter: Any, context: Any, value: Any) -> None:
    """Put a value given on the command line where `common` finds it."""
    if parameter.name == "show_help" and value and not context.resilient_parsing:
        typer.echo(context.get_help())
        raise typer.Exit
    if value is None or context.resilient_parsing or parameter.name not in _READ:
        return
    try:
        setattr(common(context), parameter.name, _READ[parameter.name](value))
    except ValueError:
        raise typer.BadParameter(f"'{value}' is not one of: {', '.join(Mode)}", ctx=context, param=parameter) from None


_READ: dict[str, Callable[[str], Any]] = {"spec": Path, "environment": str, "output": Mode}

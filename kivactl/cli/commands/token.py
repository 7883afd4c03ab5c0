"""`kivactl token`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from kivactl.cli.group import group
from kivactl.cli.options import common
from kivactl.cli.site import deployment_of

app = group("Issue a token for a tenant.")


@app.callback()
def _tokens() -> None:
    """Issue a token for a tenant."""


@app.command()
def issue(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="A tenant of the spec.")],
    name: Annotated[str, typer.Option("--name", help="What the token is for.")] = "client",
    expires: Annotated[str, typer.Option("--expires", help="When it ends, such as 12h or 90d.")] = "90d",
) -> None:
    """Print a new token. The platform keeps no copy: it is shown this once."""
    from kivactl.errors import UsageError
    from kivactl.flows.chat import endpoint_of
    from kivactl.spec.quantities import parse_duration

    options = common(context)
    try:
        lifetime = timedelta(seconds=parse_duration(expires))
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from None
    endpoint = endpoint_of(deployment_of(options), tenant, lifetime, name)
    options.sink.result({"tenant": tenant, "name": name, "token": endpoint.token.reveal(), "endpoint": endpoint.url}, endpoint.token.reveal())

"""`kivactl provision`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.provisioning import destroy, provision_machines, provision_this_machine, verify
from kivactl.cli.site import deployment_of
from kivactl.errors import UsageError


def command(
    context: typer.Context,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would change; exit code 2 when something would.")] = False,
    limit: Annotated[list[str] | None, typer.Option("--limit", metavar="MACHINE", help="Set up only this machine; may be repeated.")] = None,
    verify_only: Annotated[bool, typer.Option("--verify", help="Only look whether every machine is fit; exit code 6 when one is not.")] = False,
    destroying: Annotated[
        bool, typer.Option("--destroy", help="Take the machines away, or what was put on those that stay; the platform's name is asked for.")
    ] = False,
    confirm: Annotated[str | None, typer.Option(metavar="NAME", help="The platform's name, with --destroy where nobody can be asked.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make the platform's machines ready, or this one where the spec names none. A second time changes nothing."""
    options = common(context)
    deployment = deployment_of(options)
    if deployment.platform.infrastructure is None:
        if limit or verify_only or destroying:
            raise UsageError(
                "--limit, --verify and --destroy are for machines that `infrastructure` in kiva.yaml names, and it names none", "kivactl provision --help"
            )
        provision_this_machine(options.sink, deployment, plan_only=plan_only, yes=yes)
    elif destroying:
        destroy(options.sink, deployment, plan_only=plan_only, confirmed=confirm)
    elif verify_only:
        verify(options.sink, deployment, limit or [])
    else:
        provision_machines(options.sink, deployment, limit or [], plan_only=plan_only, yes=yes)

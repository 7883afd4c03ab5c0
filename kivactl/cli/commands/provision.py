"""`kivactl provision`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(
    context: typer.Context,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would change; exit code 2 when something would.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Prepare this machine: folders, certificates, keys, tuning, checks. A second time changes nothing."""
    from kivactl.flows.provision import apply_provision, plan_provision

    options = common(context)
    deployment = deployment_of(options)
    where = (deployment.platform, deployment.loaded.folder, deployment.layout)
    plan = plan_provision(*where)
    options.sink.plan(plan, result=plan_only)
    if plan_only:
        raise typer.Exit(0 if plan.empty else 2)
    if plan.empty:
        options.sink.result({"changed": False})
        return
    if not options.sink.confirm("Provision this machine?", yes):
        raise typer.Exit(130)
    outcomes = options.sink.outcomes(apply_provision(*where))
    options.sink.result({"changed": True, "steps": [outcome.as_dict() for outcome in outcomes]})
    options.sink.note("next: kivactl deploy")

"""`kivactl rollback`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(min=1, help="Of the deploy, as `kivactl history` has it; when absent the one before.")] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would change; exit code 2 when something would.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go back to an earlier deploy in the cluster, and prove it with a generated token."""
    from kivactl.flows.cluster import apply_rollback, plan_rollback

    options = common(context)
    deployment = deployment_of(options)
    plan = plan_rollback(deployment, number)
    options.sink.plan(plan, result=plan_only)
    if plan_only:
        raise typer.Exit(0 if plan.empty else 2)
    if plan.empty:
        options.sink.result({"changed": False})
        return
    if not options.sink.confirm(f"Roll '{deployment.platform.name}' back?", yes):
        raise typer.Exit(130)
    outcomes = options.sink.outcomes(apply_rollback(deployment, number, plan))
    result = {"changed": True, "steps": [outcome.as_dict() for outcome in outcomes if not outcome.passing]}
    options.sink.result(result, f"'{deployment.platform.name}' is what it was; kiva.yaml still says what it says")

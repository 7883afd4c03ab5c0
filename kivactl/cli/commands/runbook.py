"""`kivactl runbook NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a runbook, or `list`.")],
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show the steps.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    language: Annotated[str, typer.Option("--lang", help="en or de.")] = "en",
) -> None:
    """Run a written procedure: every step is shown first, recorded in the journal, and undone when a later one fails."""
    from kivactl.runbooks.binding import bind, listing
    from kivactl.runbooks.engine import plan_runbook, run_runbook

    options = common(context)
    deployment = deployment_of(options)
    folder = deployment.loaded.folder
    if name == "list":
        rows = listing(folder, language)
        options.sink.result(rows, lambda: options.sink.table(("RUNBOOK", "WHAT IT DOES"), [(row["name"], row["purpose"]) for row in rows]))
        return
    bound = bind(name, folder)
    plan = plan_runbook(bound, language)
    options.sink.plan(plan, result=plan_only)
    if plan_only:
        return
    if not options.sink.confirm(f"Run '{name}' on '{deployment.platform.name}'?", yes):
        raise typer.Exit(130)
    outcomes = options.sink.outcomes(run_runbook(bound, deployment, language))
    options.sink.result({"runbook": name, "steps": [outcome.as_dict() for outcome in outcomes if not outcome.passing]})

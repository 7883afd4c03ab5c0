"""`kivactl deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kivactl.cli.options import Common, common
from kivactl.cli.site import deployment_of
from kivactl.errors import UsageError


def command(
    context: typer.Context,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would change; exit code 2 when something would.")] = False,
    rendered: Annotated[
        Path | None,
        typer.Option("--rendered", metavar="DIR", help="With --plan: compare with what `kivactl render` wrote, and ask no cluster.", file_okay=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make the platform what the spec says, one replica at a time, and prove it with a generated token."""
    from kivactl.flows.deploy import apply_deploy, plan_deploy

    options = common(context)
    if rendered is not None:
        _plan_against(rendered, options, plan_only=plan_only)
    deployment = deployment_of(options)
    plan = plan_deploy(deployment)
    options.sink.plan(plan, result=plan_only)
    if plan_only:
        raise typer.Exit(0 if plan.empty else 2)
    if plan.empty:
        options.sink.result({"changed": False, "endpoint": deployment.endpoint})
        return
    if not options.sink.confirm(f"Deploy '{deployment.platform.name}'?", yes):
        raise typer.Exit(130)
    outcomes = options.sink.outcomes(apply_deploy(deployment, plan))
    result = {"changed": True, "endpoint": deployment.endpoint, "steps": [outcome.as_dict() for outcome in outcomes if not outcome.passing]}
    options.sink.result(result, f"'{deployment.platform.name}' serves at {deployment.endpoint}")
    options.sink.note('next: kivactl chat "What is the capital of Germany?"')


def _plan_against(folder: Path, options: Common, *, plan_only: bool) -> NoReturn:
    """Show what would change against a rendered folder; who deploys from one is not kivactl."""
    if not plan_only:
        raise UsageError("--rendered only shows what would change; Argo CD, Flux or helmfile deploy a folder", f"kivactl deploy --plan --rendered {folder}")
    from kivactl.flows.deploy.folder import plan_against

    plan = plan_against(options.path, options.environment, folder)
    options.sink.plan(plan, result=True)
    raise typer.Exit(0 if plan.empty else 2)

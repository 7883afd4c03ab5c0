"""`kivactl down`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove keys, certificates, logs, records and the ledger of usage; tokens issued before become worthless.")
    ] = False,
) -> None:
    """Stop the platform: requests in work are finished; no process, port or temporary file stays."""
    from kivactl.cli.runbook_running import rooms
    from kivactl.flows.operate import purge as remove
    from kivactl.runbooks.approvals import person_named
    from kivactl.runbooks.binding import bind
    from kivactl.runbooks.engine import Order, plan_runbook, run_runbook

    options = common(context)
    deployment = deployment_of(options)
    bound = bind("stop", None, {})
    options.sink.plan(plan_runbook(bound, deployment))
    also = f" and remove {deployment.layout.state}, with keys and the ledger of usage" if purge else ""
    if not options.sink.confirm(f"Stop '{deployment.platform.name}'{also}?", yes):
        raise typer.Exit(130)
    options.sink.outcomes(run_runbook(bound, deployment, Order(person_named(None)), rooms()))
    if purge:
        remove(deployment)
    options.sink.result({"stopped": True, "purged": purge}, f"'{deployment.platform.name}' is down{' and its state is removed' if purge else ''}")

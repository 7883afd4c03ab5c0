"""`kivactl drift`."""

from __future__ import annotations

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(context: typer.Context) -> None:
    """Say what somebody else changed in the cluster since it was deployed. Exit code 6 when something was."""
    from kivactl.flows.cluster import drift

    options = common(context)
    deployment = deployment_of(options)
    found = drift(deployment)
    if not found:
        options.sink.result([], f"'{deployment.platform.name}' is as it was deployed")
        return

    def show() -> None:
        for one in found:
            who = f" by {one.by}" if one.by else ""
            options.sink.text(f"{one.subject}: changed{who}{f' at {one.at}' if one.at else ''}")
            for difference in one.differences:
                options.sink.text(f"    {difference.path}: {difference.before or '(nothing)'} -> {difference.after or '(nothing)'}")

    options.sink.result([one.as_dict() for one in found], show)
    options.sink.note("next: kivactl deploy    # makes it what the spec says")
    raise typer.Exit(6)

"""`kivactl history`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(context: typer.Context) -> None:
    """List what was deployed to the cluster, the newest last."""
    from kivactl.flows.cluster import history

    options = common(context)
    record = history(deployment_of(options))
    data = {"deploys": [asdict(one) for one in record.deploys], "unfinished": asdict(record.unfinished) if record.unfinished else None}

    def show() -> None:
        if record.deploys:
            rows = [(one.number, one.at, one.by, one.verb, one.spec[:12], len(one.releases)) for one in record.deploys]
            options.sink.table(("NUMBER", "AT", "BY", "WHAT", "SPEC", "RELEASES"), rows)
        if record.unfinished:
            options.sink.text(f"unfinished: {record.unfinished.verb} by {record.unfinished.by} since {record.unfinished.since}")

    options.sink.result(data, show)
    if record.unfinished:
        if record.unfinished.verb == "deploy":
            options.sink.note("on from here: kivactl deploy" + ("; back to what was proved last: kivactl rollback" if record.deploys else ""))
        else:
            options.sink.note("on from here: kivactl rollback; what kiva.yaml says: kivactl deploy")
    else:
        options.sink.note("back to one: kivactl rollback NUMBER" if record.deploys else "next: kivactl deploy")

"""`kivactl drift`."""

from __future__ import annotations

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(context: typer.Context) -> None:
    """Say what somebody else changed in the cluster since it was deployed. Exit code 6 when something was."""
    from kivactl.flows.cluster import drift, editing

    options = common(context)
    deployment = deployment_of(options)
    found = drift(deployment)
    if not found:
        options.sink.result([], f"'{deployment.platform.name}' is as it was deployed")
        return

    def show() -> None:
        for one in found:
            who = f"changed by {one.by or 'someone'}{f' at {one.at}' if one.at else ''}"
            options.sink.text(f"{one.subject}: {'gone' if one.gone else who}")
            for difference in () if one.gone else one.differences:
                field = difference.path.removeprefix(f"{one.subject} ")
                options.sink.text(f"    {field}: {difference.before or '(nothing)'} -> {difference.after or '(nothing)'}")

    options.sink.result([one.as_dict() for one in found], show)
    if any(difference.before is not None for one in found for difference in one.differences):
        options.sink.note("next: kivactl deploy    # makes it what the spec says")
    for subject in dict.fromkeys(one.subject for one in found if one.added):
        options.sink.note(f"what was added to it stays with a deploy: {editing(deployment, subject)}")
    raise typer.Exit(6)

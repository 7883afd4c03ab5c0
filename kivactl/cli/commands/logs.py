"""`kivactl logs`."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of, layout_in, site_of


def command(
    context: typer.Context,
    process: Annotated[str | None, typer.Argument(help="Name of a process as `kivactl status` shows it; all when absent.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
) -> None:
    """Show the last lines of the platform's logs."""
    options = common(context)
    site = site_of(options)
    if site.on_cluster:
        from kivactl.flows.cluster import followed_logs, last_logs

        deployment = deployment_of(options)
        found = last_logs(deployment, process, lines)
        coming = partial(followed_logs, deployment, list(found))
    else:
        from kivactl.flows.logs import followed, last_lines

        layout = layout_in(site)
        found = last_lines(layout, process, lines)
        coming = partial(followed, layout, list(found), time.sleep)
    labelled = _labelled(found)
    options.sink.result(found, "\n".join(labelled) if labelled else None)
    if not labelled:
        options.sink.note("nothing was written yet")
    if follow:
        for name, line in coming():
            options.sink.text(line if len(found) == 1 else f"{name} | {line}")


def _labelled(found: dict[str, list[str]]) -> list[str]:
    width = max(map(len, found))
    return [line if len(found) == 1 else f"{name.ljust(width)} | {line}" for name, lines in found.items() for line in lines]

"""`kivactl loadtest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kivactl.cli.options import common
from kivactl.cli.site import deployment_of


def command(
    context: typer.Context,
    scenario: Annotated[str, typer.Argument(help="A scenario's name or file.")] = "smoke",
    duration: Annotated[str | None, typer.Option("--duration", help="Instead of the scenario's, such as 90s.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", "-c", help="Users at the same time, instead of the scenario's.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest answer, instead of the scenario's.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where records and report go; a new one in the state folder when absent.")] = None,
) -> None:
    """Measure what users see under load. Exit code 0: service levels met, 6: missed, 7: the measurement is invalid."""
    from kivactl.cli.loadtest_table import show_summary
    from kivactl.flows.loadtest import verdict
    from kivactl.flows.measure import measure

    options = common(context)
    outcomes = options.sink.outcomes(
        measure(deployment_of(options), scenario, duration=duration, concurrency=concurrency, max_tokens=max_tokens, folder=folder)
    )
    summary = outcomes[-1].data
    options.sink.result(summary, lambda: show_summary(options.sink, summary))
    verdict(summary)

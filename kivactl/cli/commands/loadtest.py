"""`kivactl loadtest SCENARIO`, and `list`, `show` and `compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kivactl.cli.completion import loadtest_runs, scenario_names
from kivactl.cli.loadtest_group import LoadtestGroup
from kivactl.cli.options import common
from kivactl.cli.site import deployment_of, loadtests_of, own_scenarios

app = typer.Typer(
    cls=LoadtestGroup,
    help="Measure what users see under load: kivactl loadtest SCENARIO. Of your own platform, or of any OpenAI-compatible endpoint.\n\n"
    "The options of SCENARIO: kivactl loadtest run --help",
    add_completion=False,
    rich_markup_mode=None,
    subcommand_metavar="SCENARIO|COMMAND [ARGS]...",
)
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder, or 'latest'.", autocompletion=loadtest_runs)]


@app.command(hidden=True)
def run(
    context: typer.Context,
    scenario: Annotated[str, typer.Argument(help="A scenario's name or file.", autocompletion=scenario_names)] = "smoke",
    duration: Annotated[str | None, typer.Option("--duration", help="Instead of the scenario's, such as 90s.")] = None,
    users: Annotated[int | None, typer.Option("--users", "-u", help="Closed loop: users at the same time.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Open loop: requests per second.")] = None,
    requests: Annotated[int | None, typer.Option("--requests", help="How many requests are measured, instead of a duration.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest answer.")] = None,
    warm_up: Annotated[str | None, typer.Option("--warm-up", help="Load before the measured phase.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeats what was random in another run.")] = None,
    processes: Annotated[int | None, typer.Option("--processes", help="Of the load generator on each machine, instead of as many as the load needs.")] = None,
    on: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="[USER@]HOST[:PORT]", help="A machine that generates the load instead of this one, by ssh; repeatable."),
    ] = None,
    ssh_config: Annotated[Path | None, typer.Option("--ssh-config", metavar="FILE", help="With --on: instead of ~/.ssh/config.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where records and report go; a new one in the state folder when absent.")] = None,
    ui: Annotated[int | None, typer.Option("--ui", metavar="PORT", help="Serve Locust's own page meanwhile, on this port of the loopback interface.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Another endpoint, up to its /v1; no kiva.yaml is needed.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="What is asked, instead of the platform's first model.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="With --url: the authority to trust, in PEM.")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="With --url: file with the bearer token.")] = None,
    tenant_token: Annotated[list[str] | None, typer.Option("--tenant-token", metavar="NAME=FILE", help="With --url: a tenant's token; repeatable.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be sent.")] = False,
) -> None:
    """Measure what users see under load. Exit code 0: service levels met, 6: missed, 7: the measurement is invalid."""
    from kivactl.cli.loadtest_table import show_plan, show_summary
    from kivactl.flows.loadtest import verdict
    from kivactl.flows.measure import Foreign, measure, plan_measure, remotes_from
    from kivactl.loadtest.catalogue import Changes

    options = common(context)
    changes = Changes(users, rate, duration, requests, warm_up, max_tokens, seed, processes)
    foreign = Foreign(url, model, ca, token_file, tuple(tenant_token or ())) if url else None
    remotes = remotes_from(on or (), ssh_config)
    own = own_scenarios(options)
    if plan:
        told = plan_measure(scenario, changes, url, remotes, own)
        options.sink.result(told, lambda: show_plan(options.sink, told))
        return
    deployment = None if foreign else deployment_of(options)
    outcomes = options.sink.outcomes(measure(foreign or deployment, scenario, changes, folder=folder, page_port=ui, model=model, remotes=remotes, own=own))
    summary = outcomes[-1].data
    options.sink.result(summary, lambda: show_summary(options.sink, summary))
    verdict(summary)


@app.command(hidden=True)
def worker() -> None:
    """Generate load for `kivactl loadtest --on`, which starts this on a machine by ssh."""
    from kivactl.errors import UsageError
    from kivactl.flows.load_worker import work

    if sys.stdin.isatty():
        raise UsageError("this is what another machine starts here", "on that machine: kivactl loadtest SCENARIO --on HOST")
    work(sys.stdin.buffer, sys.stdout.buffer)


@app.command(name="list")
def list_(context: typer.Context) -> None:
    """Show which scenarios there are, and which load tests there were."""
    from kivactl.flows.loadtest_runs import runs_in
    from kivactl.loadtest.catalogue import described

    options = common(context)
    known, runs = described(own_scenarios(options)), runs_in(loadtests_of(options))

    def show() -> None:
        options.sink.table(("SCENARIO", "WHAT IT IS FOR"), list(known.items()))
        if runs:
            rows = [(run.name, run.summary["load"], f"{run.summary['requests_per_s']:.2f}", run.result) for run in runs]
            options.sink.table(("RUN", "LOAD", "REQUESTS/S", "RESULT"), rows, {"met": "green", "missed": "red", "invalid": "red"})

    options.sink.result({"scenarios": known, "runs": [run.as_dict() for run in runs]}, show)


@app.command()
def show(context: typer.Context, run: Run = "latest") -> None:
    """Show the result of a load test again."""
    from kivactl.cli.loadtest_table import show_summary
    from kivactl.flows.loadtest_runs import find_run

    options = common(context)
    found = find_run(run, loadtests_of(options))
    summary = {**found.summary, "report": str(found.folder / "report.html")}
    options.sink.result(summary, lambda: show_summary(options.sink, summary))


@app.command()
def compare(
    context: typer.Context,
    first: Run,
    second: Run = "latest",
    fail_if_worse: Annotated[bool, typer.Option("--fail-if-worse", help="Exit code 6 when a figure is worse beyond noise.")] = False,
) -> None:
    """Hold two load tests against each other, and say what differs beyond noise."""
    from kivactl.cli.loadtest_table import show_comparison
    from kivactl.errors import CheckError
    from kivactl.flows.loadtest_runs import compare_runs, find_run

    options = common(context)
    folder = loadtests_of(options)
    one, other = find_run(first, folder), find_run(second, folder)
    differences, doubts = compare_runs(one, other)
    told = {"first": one.as_dict(), "second": other.as_dict(), "differences": [found.as_dict() for found in differences], "doubts": doubts}
    options.sink.result(told, lambda: show_comparison(options.sink, one.name, other.name, differences, doubts))
    worse = [found.name for found in differences if found.verdict == "worse"]
    if fail_if_worse and worse:
        raise CheckError(f"'{other.name}' is worse than '{one.name}' in {', '.join(worse)}")

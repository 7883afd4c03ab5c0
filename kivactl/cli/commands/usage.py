"""`kivactl usage`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kivactl.cli.group import group
from kivactl.cli.options import common
from kivactl.cli.site import deployment_of, layout_in, site_of

if TYPE_CHECKING:
    from kivactl.flows.usage import Report
    from kivactl.usage.report import Line

app = group("Show who used what, what it costs, and how budgets stand.")

_STATES = {"within": "green", "near": "yellow", "used up": "red"}


class By(StrEnum):
    """What a report adds up by; the values are those of `usage.report.By`, which loads only for a report."""

    TENANT = "tenant"
    COST_CENTRE = "cost-centre"
    MODEL = "model"
    DAY = "day"


class Form(StrEnum):
    """How a report is written for people."""

    TABLE = "table"
    CSV = "csv"


@app.callback()
def _usage() -> None:
    """Show who used what, what it costs, and how budgets stand."""


@app.command()
def report(
    context: typer.Context,
    by: Annotated[By, typer.Option("--by", help="What to add up by.")] = By.TENANT,
    month: Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="One month (UTC); all there is when absent.")] = None,
    form: Annotated[Form, typer.Option("--format", help="A table, or CSV for a spreadsheet.")] = Form.TABLE,
) -> None:
    """Show requests, tokens and amounts; the platform need not run."""
    from kivactl.flows.usage import report_in_cluster, report_of
    from kivactl.usage.report import By as ReportBy

    options, wanted = common(context), ReportBy(by.value)
    site = site_of(options)
    if site.on_cluster:
        found = report_in_cluster(deployment_of(options), wanted, month)
    else:
        name, layout = site.name, layout_in(site)
        found = report_of(layout, name, wanted, month)
    sink = options.sink
    sink.result(found.as_dict(), lambda: sink.text(_csv(found), end="") if form is Form.CSV else sink.table(*_table(found)))
    if found.unreadable:
        sink.warn(f"lines of the logs that could not be read: {', '.join(f'{lines} of {log}' for log, lines in found.unreadable.items())}")


@app.command()
def budgets(context: typer.Context) -> None:
    """Show how the tenants stand to their budgets this month (UTC)."""
    from kivactl.flows.usage import budgets_in_cluster, budgets_of

    options = common(context)
    site = site_of(options)
    if site.on_cluster:
        found = budgets_in_cluster(deployment_of(options))
    else:
        name, layout = site.name, layout_in(site)
        found = budgets_of(layout, name)
    rows = [
        (
            one.tenant,
            "" if one.budget is None else f"{one.budget:.2f}",
            f"{one.spent:.4f}",
            "" if one.percent is None else one.percent,
            one.currency,
            one.state.value,
        )
        for one in found
    ]
    columns = ("TENANT", "BUDGET", "SPENT", "PERCENT", "CURRENCY", "STATE")
    options.sink.result([one.as_dict() for one in found], lambda: options.sink.table(columns, rows, _STATES))


def _table(report: Report) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    columns = (report.by.value.upper(), "REQUESTS", "FAILED", "PROMPT", "CACHED", "COMPLETION", "AMOUNT", "CURRENCY")
    return columns, [_cells(line) for line in (*report.lines, *report.total)]


def _cells(line: Line) -> tuple[object, ...]:
    return (line.name or "(none)", *line.sums, f"{line.amount:.4f}", line.currency)


def _csv(report: Report) -> str:
    import csv
    import io

    from kivactl.flows.usage import row_of

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((report.by.value, "requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "amount", "currency"))
    writer.writerows(row_of(line).values() for line in report.lines)
    return text.getvalue()

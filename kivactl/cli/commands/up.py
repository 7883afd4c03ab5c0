"""`kivactl up`."""

from __future__ import annotations

from typing import Annotated

import typer

from kivactl.cli.options import Common, common
from kivactl.cli.site import deployment_of

QUESTION = "What is the capital of Germany?"


def command(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    loadtest: Annotated[bool, typer.Option("--loadtest/--no-loadtest", help="End with a short load test.")] = True,
) -> None:
    """Everything from nothing to a first answer: spec, provision, deploy, a chat, a short load test, how to go on."""
    from kivactl.cli.loadtest_table import show_summary
    from kivactl.flows import up

    options = common(context)
    sink = options.sink
    _write_spec(options)
    deployment = deployment_of(options)
    for plan, apply in up.stages(deployment):
        if not plan.empty:
            sink.plan(plan)
            if not sink.confirm("Go on?", yes):
                raise typer.Exit(130)
            sink.outcomes(apply(plan))
    answer = up.first_answer(deployment, QUESTION)
    sink.text(f"\n> {QUESTION}\n{answer}\n")
    summary = None
    if loadtest:
        summary = sink.outcomes(up.short_load(deployment))[-1].data
        if not sink.json:
            show_summary(sink, summary)
    client = up.client_for(deployment)
    ca = "" if client.ca is None else f"\nCA         {client.ca}"
    sink.result(
        {"endpoint": client.url, "token": client.token.reveal(), "ca": str(client.ca or ""), "answer": answer, "loadtest": summary},
        f"\nendpoint   {client.url}{ca}\nmodel      {client.model}\ntoken      {client.token.reveal()}\n"
        "           (90 days; shown this once, another: kivactl token issue TENANT)\n\n"
        "go on with\n"
        '  kivactl chat "..."           ask something\n'
        "  kivactl status --watch       see how it is\n"
        "  kivactl loadtest chat        measure it\n"
        "  edit kiva.yaml, then kivactl deploy\n"
        "  kivactl down                 stop it",
    )


def _write_spec(options: Common) -> None:
    """A commented kiva.yaml where there is none."""
    from kivactl.errors import SpecError
    from kivactl.spec.load import FILE
    from kivactl.spec.template import starters, write

    try:
        _ = options.path
    except SpecError:
        if options.spec is not None:
            raise
        from pathlib import Path

        for path, text in starters(Path(), None, None, force=False).items():
            write(path, text, force=False)
        options.sink.note(f"wrote {FILE}: the demo model, two replicas; change it as you like")

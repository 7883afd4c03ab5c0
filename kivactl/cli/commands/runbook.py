"""`kivactl runbook NAME`, and `list`, `show`, `check`, `resume`, `approve`, `history`, `report` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kivactl.cli.completion import assignments, runbooks, steps
from kivactl.cli.options import Common, common
from kivactl.cli.runbook_group import RunbookGroup
from kivactl.cli.runbook_options import Answers, As, Form, Lang, Language, OwnLang, Run, Yes, contacts_of, spec_for_reading, spec_if_any
from kivactl.cli.site import deployment_of, layout_of

if TYPE_CHECKING:
    from kivactl.runbooks.bound import Bound
    from kivactl.runbooks.engine import Order

app = typer.Typer(
    cls=RunbookGroup,
    help="Run a written procedure: kivactl runbook NAME. It is bound whole before anything runs, journalled, and resumed where it stopped.\n\n"
    "The options of NAME: kivactl runbook run --help",
    add_completion=False,
    rich_markup_mode=None,
    subcommand_metavar="NAME|COMMAND [ARGS]...",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A runbook's name.", autocompletion=runbooks)]


@app.command(name="list")
def list_(context: typer.Context, language: Lang = Language.EN) -> None:
    """Show which runbooks there are: those that come with kivactl and your own."""
    from kivactl.runbooks.listing import listing

    options = common(context)
    listed = listing(spec_for_reading(options), language)
    rows = [(row.name, "" if row.shipped else "own", row.title or "(cannot be read: kivactl runbook check)") for row in listed]
    options.sink.result({"runbooks": [row.as_dict() for row in listed]}, lambda: options.sink.table(("RUNBOOK", "", "WHAT IT DOES"), rows))


@app.command()
def show(context: typer.Context, name: Name, language: Lang = Language.EN) -> None:
    """Show a runbook as people read it: roles, preconditions, steps, checks, undo, objectives."""
    from kivactl.runbooks.binding import bind
    from kivactl.runbooks.rendering import as_dict, sheet

    options = common(context)
    loaded = spec_for_reading(options)
    bound, contacts = bind(name, loaded), contacts_of(loaded)
    options.sink.result(as_dict(bound, contacts), lambda: options.sink.lines(sheet(bound, contacts, language)))


@app.command()
def check(context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="A runbook's file, or the name of one.")]) -> None:
    """Say everything that is wrong with a runbook; touches nothing."""
    from kivactl.runbooks.binding import bind, bind_file

    options = common(context)
    loaded = spec_if_any(options)
    named = file.parent == Path() and file.suffix == "" and not file.exists()
    bound = bind(str(file), loaded) if named else bind_file(file, loaded)
    if loaded is None:
        options.sink.note("without a kiva.yaml the names of models, tenants and roles are not checked")
    options.sink.result(
        {"name": bound.name, "path": str(bound.path), "sha256": bound.text_sha256, "steps": len(bound.steps), "destructive": bound.destructive},
        f"{bound.path}: no faults (steps: {len(bound.steps)}{', destructive' if bound.destructive else ''})",
    )


@app.command(hidden=True)
def run(
    context: typer.Context,
    name: Name,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter; see kivactl runbook show.", autocompletion=assignments)
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show the steps.")] = False,
    yes: Yes = False,
    start: Annotated[str | None, typer.Option("--from", metavar="STEP", help="Begin with this step.", autocompletion=steps)] = None,
    operator: As = None,
    answer: Answers = None,
    language: Lang = Language.EN,
) -> None:
    """Run a written procedure. Exit code 0: passed, 3: waits for a person, 6: a check or an objective was missed, 7: the measurement is invalid."""
    from kivactl.cli.runbook_running import answers_of, begin
    from kivactl.runbooks.parameters import assignments

    options = common(context)

    def order(bound: Bound) -> Order:
        return _order(options, operator, language, start=start, answers=answers_of(answer or (), bound.steps))

    begin(options, name, assignments(given or ()), order, plan_only=plan_only, yes=yes)


@app.command()
def resume(
    context: typer.Context,
    run: Run,
    done: Annotated[list[str] | None, typer.Option("--done", metavar="STEP", help="A step that was cut off: it is done, a person has made sure.")] = None,
    again: Annotated[list[str] | None, typer.Option("--again", metavar="STEP", help="A step that was cut off: do it again.")] = None,
    operator: As = None,
    answer: Answers = None,
    language: OwnLang = None,
) -> None:
    """Go on with a run where it stopped; steps that are done are not done again. Refused when the runbook or the platform changed meanwhile."""
    from kivactl.cli.runbook_running import answers_of, follow, rooms
    from kivactl.runbooks.binding import bind_file
    from kivactl.runbooks.engine import resume_runbook
    from kivactl.runbooks.listing import located
    from kivactl.runbooks.resuming import refuse_edited
    from kivactl.runbooks.runs import find, record_of

    options = common(context)
    deployment = deployment_of(options)
    folder = find(deployment.layout, run)
    record = record_of(folder)
    path = located(record.runbook, deployment.loaded)
    refuse_edited(record, path)
    bound = bind_file(path, deployment.loaded, record.parameters)
    answers = answers_of(answer or (), bound.steps)
    order = _order(options, operator, language or record.language, answers=answers, done=frozenset(done or ()), again=frozenset(again or ()))
    follow(options, deployment, bound, resume_runbook(folder, bound, deployment, order, rooms()), folder.name)


@app.command()
def approve(
    context: typer.Context,
    run: Run,
    approver: As = None,
    role: Annotated[str | None, typer.Option("--role", help="In which role; needed where several may.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Agree to a run that waits for a second person: what is shown is what will be done."""
    from kivactl.runbooks.approvals import approve, person_named
    from kivactl.runbooks.runs import find, plan_of, record_of

    options = common(context)
    name, layout = layout_of(options)
    folder = find(layout, run)
    record, person = record_of(folder), person_named(approver)
    asked = [("runbook", record.runbook), ("by", record.operator.name), *((f"--set {key}", str(value)) for key, value in record.parameters.items())]
    lines = [(f"{folder.name} on '{name}', to be approved by {person.name}", "bold")]
    lines += [(f"  {key}: {value}", "") for key, value in asked]
    lines += [(f"  - {step.title}", "") for step in record.steps]
    notes = plan_of(folder).get("notes")
    lines += [(f"  {note}", "") for note in (notes if isinstance(notes, list) else [])]
    options.sink.lines(lines, result=False)
    if not options.sink.confirm("Approve?", yes):
        raise typer.Exit(130)
    approve(folder, person, role)
    options.sink.result({"run": folder.name, "approved_by": person.name}, f"{folder.name}: approved by {person.name}")


@app.command()
def history(
    context: typer.Context,
    runbook: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only runs of this runbook.", autocompletion=runbooks)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="This many, the newest.")] = 20,
) -> None:
    """Show the runs: which, when, by whom, how they ended."""
    from kivactl.cli.runbook_sheets import STYLES, facts_of, history_row
    from kivactl.runbooks import runs

    options = common(context)
    _, layout = layout_of(options)
    records = [record for record in runs.history(layout) if runbook in {None, record.runbook}][:limit]
    rows = [history_row(record) for record in records]
    options.sink.result(
        {"runs": [facts_of(record) for record in records]}, lambda: options.sink.table(("RUN", "BEGAN (UTC)", "TOOK", "BY", "END"), rows, STYLES)
    )


@app.command()
def report(
    context: typer.Context,
    run: Run,
    language: OwnLang = None,
    form: Annotated[Form, typer.Option("--format", help="md (Markdown) or html (one file, printable).")] = Form.MD,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write it there instead of stdout.")] = None,
) -> None:
    """Show the report of a run, for auditors; of one that has not ended as it is now, unsigned."""
    from kivactl.cli.runbook_running import unfinished_report
    from kivactl.runbooks import evidence, runs

    options = common(context)
    _, layout = layout_of(options)
    folder = runs.find(layout, run)
    if evidence.manifest_of(folder) is None:
        text = unfinished_report(options, folder, language, form.value)
    else:
        text = evidence.report(folder, language.value if language else None, form.value)
    if to is not None:
        to.write_text(text, encoding="utf-8")
        options.sink.result({"run": folder.name, "file": str(to)}, f"wrote {to}")
    else:
        options.sink.result({"run": folder.name, "format": form.value, "report": text}, text.rstrip("\n"))


@app.command()
def verify(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, its beginning, `latest`, or a copy of its folder.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="Certificate (PEM) of the authority to believe; the platform's own when absent.")
    ] = None,
) -> None:
    """Check a run's evidence: journal unbroken, every file as signed, by whom. A copied folder needs no platform. Exit code 6 when something is wrong."""
    from kivactl.runbooks import evidence, runs

    options = common(context)
    folder, named = Path(run), None
    if not folder.is_dir():
        _, layout = layout_of(options)
        folder = runs.find(layout, run)
        trust, named = trust or evidence.trusted(layout), folder.name
    found = evidence.verify(folder, trust, run=named)
    rows = [(finding.kind, finding.path, finding.message) for finding in found]

    manifest = evidence.manifest_of(folder)

    def human() -> None:
        if rows or manifest is None:
            options.sink.table(("FINDING", "FILE", "WHAT"), rows)
        else:
            signed = f"signed by '{manifest.platform}' {manifest.made_at:%Y-%m-%d %H:%M} UTC, whose certificate {trust} vouches for"
            options.sink.text(f"{manifest.run}: genuine ({manifest.verdict}); {signed}; nothing changed since")

    facts = [{"kind": kind, "path": path, "message": message} for kind, path, message in rows]
    options.sink.result({"run": folder.name, "genuine": not rows, "findings": facts}, human)
    raise typer.Exit(6 if rows else 0)


def _order(
    options: Common,
    operator: str | None,
    language: str,
    *,
    start: str | None = None,
    answers: dict[str, str] | None = None,
    done: frozenset[str] = frozenset(),
    again: frozenset[str] = frozenset(),
) -> Order:
    """What the engine is told about this run."""
    from kivactl.runbooks.approvals import person_named
    from kivactl.runbooks.engine import Order

    ask = options.sink.ask if options.sink.asks else None
    return Order(person_named(operator), language=str(language), start=start, answers=answers or {}, ask=ask, done=done, again=again)

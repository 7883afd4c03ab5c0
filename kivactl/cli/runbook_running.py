"""Running a runbook from the command line: what is meant, whether it may begin, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kivactl.cli.options import Common
from kivactl.cli.runbook_options import contacts_of, spec_if_any
from kivactl.cli.runbook_sheets import facts_of, summary_lines
from kivactl.cli.site import deployment_of
from kivactl.errors import CheckError, Interrupted, InvalidMeasurementError, KivaError, UsageError

if TYPE_CHECKING:
    from kivactl.flows.deployment import Deployment
    from kivactl.plan import Outcome
    from kivactl.runbooks.bound import Bound, BoundStep
    from kivactl.runbooks.engine import Order, Rooms
    from kivactl.runbooks.record import Record

_ANSWERS = {"yes": "yes", "y": "yes", "ja": "yes", "no": "no", "n": "no", "nein": "no"}


def begin(options: Common, name: str, given: Mapping[str, str], order: Callable[[Bound], Order], *, plan_only: bool, yes: bool) -> None:
    """Run a runbook: bind it, show the steps, ask, run, say how it ended.

    Args:
        options: The common ones.
        name: Of the runbook.
        given: Its parameters.
        order: Makes what the engine is told about this run.
        plan_only: Show the steps and stop.
        yes: Do not ask.

    Raises:
        KivaError: The runbook, a parameter or the spec has faults, the run failed, or it missed its objectives.
    """
    from kivactl.runbooks.binding import bind
    from kivactl.runbooks.engine import plan_runbook, run_runbook

    loaded = spec_if_any(options)
    if loaded is None and not _recovered(options, bind(name, None, given), order, plan_only=plan_only, yes=yes):
        return
    deployment = deployment_of(options)
    bound = bind(name, deployment.loaded, given)
    told = order(bound)
    steps = bound.starting_from(told.start) if told.start else bound.steps
    plan = plan_runbook(bound, deployment, told.language)
    if options.sink.json:
        options.sink.plan(plan, result=plan_only)
    else:
        _show(options, bound, steps, plan.notes, told.language, contacts_of(deployment.loaded), result=plan_only)
    if plan_only:
        return
    if not _confirmed(options, bound, steps, deployment.platform.name, yes=yes):
        raise typer.Exit(130)
    follow(options, deployment, bound, run_runbook(bound, deployment, told, rooms()))


def follow(options: Common, deployment: Deployment, bound: Bound, outcomes: Iterator[Outcome], run: str = "") -> None:
    """Show a run while it goes on, and how it ended.

    Args:
        options: The common ones.
        deployment: The platform.
        bound: The runbook.
        outcomes: What the engine yields.
        run: The run's name where it is known already.

    Raises:
        KivaError: The run failed, was interrupted, or missed its objectives.
    """
    from kivactl.runbooks.record import Verdict
    from kivactl.runbooks.runs import record_of, runs_folder

    seen: list[Outcome] = []
    try:
        options.sink.outcomes(outcomes, seen)
    except (KivaError, KeyboardInterrupt, EOFError) as error:
        run = run or _run_in(seen)
        if not run:
            raise
        again = f"kivactl runbook resume {run}"
        if not isinstance(error, KivaError):
            raise Interrupted(f"the run {run} was interrupted", again) from None
        if run not in error.hint:
            options.sink.note(f"run {run}: kivactl runbook report {run}; to go on: {again}")
        raise
    run = run or _run_in(seen)
    folder = runs_folder(deployment.layout) / run
    record = record_of(folder)
    _tell(options, record, bound, folder)
    if record.verdict is Verdict.PASSED:
        return
    failure = InvalidMeasurementError if record.verdict is Verdict.INVALID else CheckError
    if options.sink.json:  # the result says how it ended
        raise typer.Exit(failure.exit_code)
    raise failure(f"the run {run} ended with: {record.verdict or record.state}", f"kivactl runbook report {run}")


def unfinished_report(options: Common, folder: Path, language: str | None, form: str) -> str:
    """The report of a run that has not ended, of the runbook as it was begun.

    Raises:
        KivaError: The run or the spec cannot be read.
    """
    from kivactl.runbooks import evidence
    from kivactl.runbooks.binding import bind_file
    from kivactl.runbooks.runs import RUNBOOK, record_of

    deployment, record = deployment_of(options), record_of(folder)
    bound = replace(bind_file(folder / RUNBOOK, deployment.loaded, record.parameters), name=record.runbook)
    options.sink.note(f"the run {folder.name} has not ended ({record.state}): nothing of this is signed")
    return evidence.render(folder, record, bound, deployment, str(language or record.language), form)


def rooms() -> Rooms:
    """Observation and evidence, as the engine calls them."""
    from kivactl.runbooks import evidence, observation
    from kivactl.runbooks.engine import Rooms

    return Rooms(begin=observation.begin, write=evidence.write, written=lambda folder: evidence.manifest_of(folder) is not None)


def answers_of(words: Iterable[str], steps: Sequence[BoundStep]) -> dict[str, str]:
    """What `--answer STEP=yes` says, by step.

    Raises:
        UsageError: One is no answer, or its step asks nothing.
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, text = word.partition("=")
        answer = _ANSWERS.get(text.strip().lower())
        if not sign or answer is None:
            raise UsageError(f"'--answer {word}' is not of the form STEP=yes or STEP=no")
        step = step_named("--answer", name, steps)
        if step.step.ask is None:
            raise UsageError(f"the step '{name}' asks nothing", _asking(steps))
        if found.setdefault(name, answer) != answer:
            raise UsageError(f"the question of the step '{name}' is answered with yes and with no")
    return found


def step_named(option: str, name: str, steps: Sequence[BoundStep]) -> BoundStep:
    """The step that an option names.

    Raises:
        UsageError: There is none.
    """
    import difflib

    for step in steps:
        if step.name == name:
            return step
    names = [step.name for step in steps]
    near = difflib.get_close_matches(name, names, n=1)
    raise UsageError(f"{option}: there is no step '{name}'", f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(names)}")


def _recovered(options: Common, bound: Bound, order: Callable[[Bound], Order], *, plan_only: bool, yes: bool) -> bool:
    """Take the spec out of the backup, where there is none and the runbook can do without; whether to go on.

    Raises:
        SpecError: The runbook needs a spec.
    """
    if bound.runbook.spec != "recovered":
        _ = options.path  # says that there is none
    told = order(bound)
    if plan_only:
        steps = bound.starting_from(told.start) if told.start else bound.steps
        listed = [{"name": step.name, "title": step.title(told.language), "destructive": step.destructive} for step in steps]
        options.sink.result({"runbook": bound.name, "steps": listed}, lambda: _show(options, bound, steps, (), told.language, {}, result=True))
        return False
    folder = Path.cwd()
    if not options.sink.confirm(f"There is no kiva.yaml here. Take it out of the backup into {folder}?", yes):
        raise typer.Exit(130)
    from kivactl.flows.backup import open_store_by_name
    from kivactl.flows.restore import recover_spec

    path = recover_spec(folder, bound.parameters, open_store_by_name)
    options.sink.note(f"{path} was taken out of the backup")
    return True


def _confirmed(options: Common, bound: Bound, steps: Sequence[BoundStep], platform: str, *, yes: bool) -> bool:
    if bound.runbook.confirm == "never":
        return True
    if any(step.destructive for step in steps):
        return options.sink.confirm_by_name(platform, f"This runs '{bound.name}', which takes something away, on", yes)
    return options.sink.confirm(f"Run '{bound.name}' on '{platform}'?", yes)


def _show(options: Common, bound: Bound, steps: Sequence[BoundStep], notes: Sequence[str], language: str, contacts: Mapping[str, str], *, result: bool) -> None:
    from kivactl.runbooks.rendering import plan_lines

    options.sink.lines(plan_lines(bound, steps, notes, contacts, language), result=result)


def _tell(options: Common, record: Record, bound: Bound, folder: Path) -> None:
    objectives = bound.runbook.objectives.limits
    facts = {**facts_of(record), "objectives": objectives, "folder": str(folder)}
    options.sink.result(facts, lambda: options.sink.lines(summary_lines(record, objectives, str(folder))))


def _run_in(seen: Sequence[Outcome]) -> str:
    return next((str(outcome.data["run"]) for outcome in seen if "run" in outcome.data), "")


def _asking(steps: Sequence[BoundStep]) -> str:
    asking = [step.name for step in steps if step.step.ask is not None]
    return f"these ask: {', '.join(asking)}" if asking else "no step of it asks anything"

"""Runs a bound runbook: one step after the other, each in the journal; on failure or interrupt the undo steps, last first."""

from __future__ import annotations

from collections.abc import Iterator

from kivactl.errors import KivaError, NotReadyError
from kivactl.flows.deploy import Deployment
from kivactl.journal import Journal, run_name
from kivactl.plan import Change, Outcome, Plan, Status, Verb
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.binding import Bound, BoundAction, BoundStep
from kivactl.targets.lock import held


def plan_runbook(bound: Bound, language: str = "en") -> Plan:
    """The steps in order, destructive ones with what users notice."""
    changes = [
        Change(Verb.STOP if step.do.action.destructive else Verb.START, step.title(language), disruption=step.disruption(language)) for step in bound.steps
    ]
    return Plan(bound.runbook.title.in_language(language), tuple(changes), (bound.runbook.purpose.in_language(language),))


def run_runbook(bound: Bound, deployment: Deployment, language: str = "en") -> Iterator[Outcome]:
    """Do every step; yields what happens.

    Raises:
        KivaError: A step failed; its undo steps and those of the steps before it have run.
        KeyboardInterrupt: The user asked to stop; the same.
    """
    layout = deployment.layout
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = run_name(f"runbook-{bound.name}")
    site = Site(deployment, layout.state / "runs" / run, run)
    with held(layout.lock, f"runbook {bound.name}"), Journal(layout.journal, run, {"runbook": bound.name}) as journal:
        yield from journal.record(_steps(bound, site, language))


def _steps(bound: Bound, site: Site, language: str) -> Iterator[Outcome]:
    begun: list[BoundStep] = []
    try:
        for step in bound.steps:
            begun.append(step)
            title = step.title(language)
            started_s = site.deployment.clock.now_s()
            yield Outcome(title, Status.STARTED)
            yield from _acted(step.do, site, step.timeout_s, title)
            yield Outcome(title, Status.DONE, elapsed_s=site.deployment.clock.now_s() - started_s)
    except (KivaError, KeyboardInterrupt) as error:
        reason = error.message if isinstance(error, KivaError) else "interrupted"
        yield Outcome(begun[-1].title(language), Status.FAILED, reason)
        yield from _undone(begun, site, language)
        raise


def _undone(begun: list[BoundStep], site: Site, language: str) -> Iterator[Outcome]:
    """Run the undo steps; one that fails does not keep the others from running."""
    for step in reversed(begun):
        if step.undo is None:
            continue
        title = f"undo: {step.title(language)}"
        yield Outcome(title, Status.STARTED)
        try:
            yield from _acted(step.undo, site, step.timeout_s, title)
            yield Outcome(title, Status.DONE)
        except KivaError as error:
            yield Outcome(title, Status.FAILED, error.message)


def _acted(bound: BoundAction, site: Site, timeout_s: float, title: str) -> Iterator[Outcome]:
    """Do one action within its time; what it does shows as steps of its own."""
    started_s = site.deployment.clock.now_s()
    for outcome in bound.action.act(site, bound.params):
        yield outcome
        if site.deployment.clock.now_s() - started_s > timeout_s:
            raise NotReadyError(f"the step '{title}' did not end within {timeout_s:g} s", "kivactl status")

"""Runs a bound runbook: gate, load, steps, verdict; each thing in the run's journal before and after it is done, so that a run can be resumed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kivactl import journal as platform_journal
from kivactl.errors import CheckError, KivaError
from kivactl.flows.deployment import Deployment
from kivactl.flows.reclaim import make_room
from kivactl.plan import Change, Outcome, Plan, Status, Verb, digest
from kivactl.runbooks import chain, resuming, runs
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.approvals import until_approved
from kivactl.runbooks.bound import Bound, BoundCheck
from kivactl.runbooks.chain import Chain
from kivactl.runbooks.checks import look
from kivactl.runbooks.record import Record, Verdict
from kivactl.runbooks.steps import Order, Stepper, Watcher, note_check
from kivactl.runbooks.verdicts import missed
from kivactl.targets.lock import held

__all__ = ["Order", "Rooms", "plan_runbook", "resume_runbook", "run_runbook"]

_ROOM_BYTES = 1024 * 1024
"""What a run needs on a full disk to be begun."""


class Observation(Watcher, Protocol):
    """What the engine asks of an observation."""

    def healthy(self) -> str | None:
        """None while the measurement can be believed, else why not; the last word is after `end`."""

    def end(self) -> Mapping[str, float]:
        """End load and looking; the figures by the names of `format.Objectives`."""

    def abandon(self) -> None:
        """End everything at once; nothing is measured."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms that a run needs beside the engine; absent ones are done without.

    Attributes:
        begin: Puts the platform under observation, for runbooks with load or continuous checks.
        write: Writes the evidence of a run that has ended.
        written: Whether a run's evidence is whole.
    """

    begin: Callable[[Site, Bound], Observation] | None = None
    write: Callable[[Path, Record, Bound, Deployment], None] | None = None
    written: Callable[[Path], bool] | None = None


def plan_runbook(bound: Bound, deployment: Deployment, language: str = "en") -> Plan:
    """The steps in order, destructive ones with what users notice; `basis` is what an approval is bound to."""
    changes = tuple(Change(Verb.STOP if step.destructive else Verb.START, step.title(language), disruption=step.disruption(language)) for step in bound.steps)
    values = {name: str(value) for name, value in bound.parameters.items()}
    basis = digest([bound.text_sha256, deployment.platform.name, deployment.loaded.digest, values])
    return Plan(bound.runbook.title.in_language(language), changes, (bound.runbook.purpose.in_language(language),), basis)


def run_runbook(bound: Bound, deployment: Deployment, order: Order, rooms: Rooms) -> Iterator[Outcome]:
    """Do every step; yields what happens, first the run's name and folder as data `run` and `folder`.

    A run that missed its objectives, or whose measurement is invalid, ends without an error: its record has the verdict.

    Raises:
        KivaError: A step failed; the undo steps have run. Or the run waits: for an approval, for an answer.
        KeyboardInterrupt: The user asked to stop; the same.
    """
    layout = deployment.layout
    plan = plan_runbook(bound, deployment, order.language)
    steps = bound.starting_from(order.start) if order.start else bound.steps
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(layout.lock, f"runbook {bound.name}", lending=True):
        folder = _created(bound, deployment, plan)
        with runs.working_on(folder, "runbook"), Chain(folder / runs.JOURNAL) as entries:
            entries.append("opened", **_opening(bound, deployment, order, plan))
            taken = {step.name for step in steps}
            for step in bound.steps:
                if step.name not in taken:
                    entries.append("skipped", step=step.name, reason=f"--from {order.start}")
            yield from _Run(folder, bound, deployment, order, rooms, entries).all(plan.basis, fresh=True)


def resume_runbook(folder: Path, bound: Bound, deployment: Deployment, order: Order, rooms: Rooms) -> Iterator[Outcome]:
    """Go on with a run where its journal ends; what is done is not done again.

    Raises:
        KivaError: As `run_runbook`; or the runbook, the spec or the platform changed meanwhile, the run is done, or held by someone else.
    """
    with held(deployment.layout.lock, f"runbook {bound.name}", lending=True), runs.working_on(folder, "runbook resume"):
        record = runs.record_of(folder)
        if not record.state.resumable and rooms.write is not None and rooms.written is not None and not rooms.written(folder):
            rooms.write(folder, record, bound, deployment)  # the run had ended, but was killed before its evidence was whole
            yield Outcome("evidence", Status.DONE, str(folder), data={"run": folder.name, "folder": str(folder)})
            return
        resuming.refuse_ended(record)
        if record.runbook_sha256 != bound.text_sha256:
            resuming.refuse_edited(record, bound.path)
        with Chain(folder / runs.JOURNAL) as entries:
            told = chain.entries_of((folder / runs.JOURNAL).read_bytes())
            resuming.refuse_changed(record, told, deployment)
            resuming.refuse_doubtful(record, bound, order.done, order.again)
            with suppress(OSError):
                chain.set_aside(folder)
            entries.append("resumed", operator=asdict(order.operator), step=order.start, done=sorted(order.done), again=sorted(order.again))
            begun = any(step.attempts for step in record.steps) or bool(order.done)
            yield from _Run(folder, bound, deployment, order, rooms, entries).all(record.plan, fresh=not begun)


@dataclass
class _Run:
    """One process's work on a run."""

    folder: Path
    bound: Bound
    deployment: Deployment
    order: Order
    rooms: Rooms
    entries: Chain
    observation: Observation | None = field(default=None, init=False)

    def all(self, plan: str, *, fresh: bool) -> Iterator[Outcome]:
        """Everything from the approval to the evidence.

        Args:
            plan: What an approval has to be of.
            fresh: Whether no step was begun yet, so that the gate has to hold.
        """
        layout, run = self.deployment.layout, self.folder.name
        started_s = self.deployment.clock.now_s()
        yield Outcome(self.bound.name, Status.STARTED, run, data={"run": run, "folder": str(self.folder)})
        yield from until_approved(self.folder, self.bound, plan, self.deployment.clock)
        facts = {"runbook": self.bound.name, **resuming.looks_only(self.bound)}
        platform_journal.note(layout.journal, run, "opened", facts)
        stepper = Stepper(self._site(), self.bound, self.order, self.entries)
        try:
            with platform_journal.within(run):
                reason, verdict = yield from self._judged(stepper, fresh=fresh)
        except (Exception, KeyboardInterrupt) as error:
            if stepper.waiting:  # for an answer: nothing failed, nothing is undone
                self._abandoned()
                raise
            yield from self._broken_off(stepper, error)
            raise
        self._closed(verdict, reason)
        status = Status.DONE if verdict is Verdict.PASSED else Status.FAILED
        yield Outcome(self.bound.name, status, reason or str(verdict), self.deployment.clock.now_s() - started_s, {"verdict": str(verdict)})

    def _judged(self, stepper: Stepper, *, fresh: bool) -> Generator[Outcome, None, tuple[str, Verdict]]:
        if fresh:
            yield from self._gate("precondition", self.bound.preconditions)
            yield from self._gate("before", self.bound.before)
        if self.rooms.begin is not None and (self.bound.runbook.load is not None or self.bound.during):
            yield Outcome("observation", Status.STARTED, "")
            self.observation = self.rooms.begin(self._site(), self.bound)
            yield Outcome("observation", Status.DONE, "the platform is under observation")
            stepper.watcher = self.observation
            self.observation.mark("steps", self.deployment.clock.now_s())
        yield from stepper.steps()
        stepper.follow_spec()
        self.deployment = stepper.site.deployment
        unmet = yield from self._looks("after", self.bound.after_with(stepper.results))
        doubt: str | None = None
        if self.observation is not None:
            self.observation.mark("end", self.deployment.clock.now_s())
            figures = self.observation.end()
            stepper.drain()
            doubt = self.observation.healthy()
            self.observation = None
            self.entries.append("observed", measured=dict(figures))
        if doubt:
            return doubt, Verdict.INVALID
        reasons = [*unmet, *missed(self.bound.runbook.objectives, runs.record_of(self.folder).measured)]
        return ("; ".join(reasons), Verdict.MISSED) if reasons else ("", Verdict.PASSED)

    def _gate(self, phase: str, checks: tuple[BoundCheck, ...]) -> Iterator[Outcome]:
        """Everything is looked at before the run is refused, so that all that is missing is told at once."""
        unmet = yield from self._looks(phase, checks)
        if unmet:
            raise CheckError(f"the runbook '{self.bound.name}' cannot begin: {unmet[0]}", f"kivactl runbook report {self.folder.name}", tuple(unmet[1:]))

    def _looks(self, phase: str, checks: tuple[BoundCheck, ...]) -> Generator[Outcome, None, list[str]]:
        unmet = []
        for check in checks:
            title = check.check.title.in_language(self.order.language)
            started_s = self.deployment.clock.now_s()
            yield Outcome(title, Status.STARTED)
            seen = look(self._site(), check, self.deployment.clock)
            note_check(self.entries, phase, "", title, check, seen)
            elapsed_s = self.deployment.clock.now_s() - started_s
            yield Outcome(title, Status.DONE if seen.met else Status.FAILED, seen.message, elapsed_s)
            if not seen.met:
                unmet.append(f"{title}: {seen.message}")
        return unmet

    def _broken_off(self, stepper: Stepper, error: BaseException) -> Iterator[Outcome]:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = error.message if isinstance(error, KivaError) else "interrupted" if interrupted else f"{type(error).__name__}: {error}"
        if interrupted:
            self.entries.append("interrupted", step=stepper.current, reason=reason)
        try:
            self._abandoned()
            with platform_journal.within(self.folder.name):
                yield from stepper.undone()
        finally:  # also when a second interrupt stops the undoing
            self._closed(Verdict.INTERRUPTED if interrupted else Verdict.FAILED, reason)

    def _closed(self, verdict: Verdict, reason: str) -> None:
        chain.release(self.folder)
        self.entries.append("closed", verdict=str(verdict), reason=reason, measured=runs.record_of(self.folder).measured)
        with suppress(OSError):
            platform_journal.note(self.deployment.layout.journal, self.folder.name, "closed", {"verdict": str(verdict)})
        if self.rooms.write is not None:
            self.rooms.write(self.folder, runs.record_of(self.folder), self.bound, self.deployment)

    def _abandoned(self) -> None:
        if self.observation is not None:
            observation, self.observation = self.observation, None
            observation.abandon()

    def _site(self) -> Site:
        return Site(self.deployment, self.folder, self.folder.name)


def _created(bound: Bound, deployment: Deployment, plan: Plan) -> Path:
    text = bound.text.decode()
    try:
        return runs.create(deployment.layout, bound.name, text, plan)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not make_room(deployment.layout, _ROOM_BYTES):
            raise
    return runs.create(deployment.layout, bound.name, text, plan)


def _opening(bound: Bound, deployment: Deployment, order: Order, plan: Plan) -> dict[str, Any]:
    before = platform_journal.read(deployment.layout.journal)
    runbook = bound.runbook
    return {
        "runbook": bound.name,
        "title": runbook.title.in_language(order.language),
        "purpose": runbook.purpose.in_language(order.language),
        "platform": deployment.platform.name,
        "operator": asdict(order.operator),
        "parameters": bound.parameters,
        "language": order.language,
        "runbook_sha256": bound.text_sha256,
        "spec": deployment.loaded.digest,
        "plan": plan.basis,
        "steps": [{"name": step.name, "title": step.title(order.language)} for step in bound.steps],
        "approval": {"by": list(runbook.approval.by)} if runbook.approval else None,
        "path": str(bound.path),
        "platform_run": str(before[-1].get("run", "")) if before else "",
    }

"""The steps of a run, one after the other, each in the journal before and after; and what takes them back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from kivactl.errors import CheckError, KivaError, PreconditionError, from_os_error
from kivactl.plan import Outcome, Status
from kivactl.runbooks import chain, runs
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.bound import Bound, BoundAction, BoundCheck, BoundStep
from kivactl.runbooks.chain import Chain
from kivactl.runbooks.checks import Seen, described, look
from kivactl.runbooks.overdue import limited
from kivactl.runbooks.record import Person, Record, StepState
from kivactl.runbooks.replay import known_specs, results_in


class Change(Protocol):
    """What a continuous check saw, as far as it is something else than before."""

    @property
    def check(self) -> BoundCheck: ...

    @property
    def seen(self) -> Seen: ...


class Watcher(Protocol):
    """What the steps tell an observation, and ask of it."""

    def mark(self, kind: str, at_s: float) -> None:
        """Note a moment, in seconds of the monotonic clock."""

    def changes(self) -> list[Any]:
        """What continuous checks saw since the last call, as `Change`s."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a person wants of a run.

    Attributes:
        operator: Who.
        language: `en` or `de`, of the titles that are journalled.
        start: The step to begin with; None for the first.
        answers: Given beforehand, `yes` or `no` by step.
        ask: Asks at the terminal: title, question; None without a terminal.
        done: Steps that were cut off and are done, a person has made sure.
        again: Steps that were cut off and are to be done again.
    """

    operator: Person
    language: str = "en"
    start: str | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[str, str], bool] | None = None
    done: frozenset[str] = frozenset()
    again: frozenset[str] = frozenset()


class Stepper:
    """Does the steps of a run that are not done yet.

    Args:
        site: The run and its platform.
        bound: The runbook.
        order: What the operator wants.
        entries: The run's journal.
    """

    def __init__(self, site: Site, bound: Bound, order: Order, entries: Chain) -> None:
        self.watcher: Watcher | None = None
        self.current = ""
        self.waiting = False
        self.site = site
        self._bound = bound
        self._order = order
        self._entries = entries
        self._clock = site.deployment.clock

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """What the steps that are done hand on, and the run's name."""
        return {**results_in(runs.record_of(self.site.folder)), "run": {"name": self.site.run}}

    def steps(self) -> Iterator[Outcome]:
        """Do what is not done.

        Raises:
            KivaError: A step failed, or waits for an answer (then `waiting` is true).
        """
        states = {step.name: step.state for step in runs.record_of(self.site.folder).steps}
        for step in self._bound.steps:
            title = step.title(self._order.language)
            if states.get(step.name) in {StepState.DONE, StepState.SKIPPED}:
                yield Outcome(title, Status.SKIPPED, "done already" if states[step.name] is StepState.DONE else f"--from {self._order.start}")
                continue
            self.current = step.name
            yield from self._step(step.with_results(self.results), title)
            self.drain()
        self.current = ""

    def undone(self) -> Iterator[Outcome]:
        """Take back what was begun, the last first; an undo that fails does not keep the others from running.

        Raises:
            KeyboardInterrupt: A second interrupt: the rest is left as it is.
        """
        record = runs.record_of(self.site.folder)
        begun = {step.name for step in record.steps if step.attempts and step.state in {StepState.BEGUN, StepState.DONE, StepState.FAILED}}
        for step in reversed(self._bound.steps):
            if step.name not in begun or step.undo is None:
                continue
            title = f"undo: {step.title(self._order.language)}"
            self._entries.append("undoing", step=step.name)
            started_s = self._clock.now_s()
            yield Outcome(title, Status.STARTED)
            try:
                own = step.with_results({**self.results, step.name: _result_of(record, step.name)})
                assert own.undo is not None
                yield from self._acted(own.undo, step, title, {})
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one undo, the others have to run
                reason = error.message if isinstance(error, KivaError) else f"{type(error).__name__}: {error}"
                self._entries.append("undo failed", step=step.name, reason=reason)
                yield Outcome(title, Status.FAILED, reason, self._clock.now_s() - started_s)
            else:
                self._entries.append("undone", step=step.name)
                yield Outcome(title, Status.DONE, elapsed_s=self._clock.now_s() - started_s)

    def drain(self) -> None:
        """Journal what the continuous checks saw."""
        if self.watcher is None:
            return
        for change in self.watcher.changes():
            note_check(self._entries, "during", "", change.check.check.title.in_language(self._order.language), change.check, change.seen)

    def follow_spec(self) -> None:
        """Go on by the spec as it is now; only the run itself may have changed it.

        Raises:
            PreconditionError: Somebody else changed it.
        """
        deployment = self.site.deployment
        loaded = deployment.reload()
        if loaded.digest == deployment.loaded.digest:
            return
        if loaded.digest not in known_specs(chain.entries_of((self.site.folder / runs.JOURNAL).read_bytes())):
            raise PreconditionError("the spec changed while the run was going on", f"kivactl runbook report {self.site.run}")
        self.site = replace(self.site, deployment=replace(deployment, loaded=loaded))

    def _step(self, step: BoundStep, title: str) -> Iterator[Outcome]:
        started_s = self._clock.now_s()
        self.follow_spec()
        yield Outcome(title, Status.STARTED)
        try:
            if step.precondition is not None:
                self._check(step, step.precondition, "precondition")
            result = yield from (self._attempts(step, title) if step.do is not None else self._asked(step, title))
        except Exception as error:
            if self.waiting:
                raise
            reason = error.message if isinstance(error, KivaError) else f"{type(error).__name__}: {error}"
            self._entries.append("failed", step=step.name, reason=reason, elapsed_s=round(self._clock.now_s() - started_s, 3))
            yield Outcome(title, Status.FAILED, reason, self._clock.now_s() - started_s)
            raise
        elapsed_s = self._clock.now_s() - started_s
        self._entries.append("done", step=step.name, elapsed_s=round(elapsed_s, 3), result=result)
        yield Outcome(title, Status.DONE, elapsed_s=elapsed_s)

    def _attempts(self, step: BoundStep, title: str) -> Generator[Outcome, None, dict[str, Any]]:
        assert step.do is not None
        retries = step.step.retries if step.do.action.repeatable else None
        most = 1 + (retries.times if retries else 0)
        for attempt in range(1, most + 1):
            self._entries.append("begun", step=step.name, attempt=attempt)
            try:
                result: dict[str, Any] = {}
                yield from self._acted(step.do, step, title, result)
                if step.check is not None:
                    own = step.with_results({**self.results, step.name: result})
                    assert own.check is not None
                    self._check(step, own.check, "step")
            except KivaError as error:
                if attempt == most or retries is None:
                    raise
                self._entries.append("failed", step=step.name, reason=error.message, attempt=attempt)
                yield Outcome(title, Status.PROGRESS, f"{error.message}; attempt {attempt + 1} of {most}")
                self._clock.sleep(retries.pause)
            else:
                return result
        raise AssertionError

    def _acted(self, bound: BoundAction, step: BoundStep, title: str, result: dict[str, Any]) -> Iterator[Outcome]:
        """Do one action within its time; what it does is journalled as it happens."""
        try:
            for outcome in limited(bound.action.act(self.site, bound.params), step.timeout_s, title, self._clock):
                if not outcome.passing:
                    self._entries.append("outcome", step=step.name, outcome=outcome.as_dict())
                result.update(outcome.data.get("result") or {})
                if self.watcher is not None and "mark" in outcome.data:
                    self.watcher.mark(str(outcome.data["mark"]), float(outcome.data.get("at_s", self._clock.now_s())))
                yield outcome
        except OSError as error:
            known = from_os_error(error)
            raise known or error from None

    def _asked(self, step: BoundStep, title: str) -> Generator[Outcome, None, dict[str, Any]]:
        """Let a person answer."""
        assert step.step.ask is not None
        question = step.step.ask.in_language(self._order.language)
        self._entries.append("asked", step=step.name, question=question)
        answer = self._order.answers.get(step.name)
        if answer is None:
            if self._order.ask is None:
                self.waiting = True
                raise PreconditionError(
                    f"the run {self.site.run} waits for an answer: {question}", f"kivactl runbook resume {self.site.run} --answer {step.name}=yes"
                )
            answer = "yes" if self._order.ask(title, question) else "no"
        self._entries.append("answered", step=step.name, answer=answer, **_answerer(self._order.operator))
        yield Outcome(title, Status.PROGRESS, answer)
        if answer != "yes":
            raise CheckError(f"'{title}' was answered with {answer}", f"kivactl runbook report {self.site.run}")
        return {}

    def _check(self, step: BoundStep, check: BoundCheck, phase: str) -> None:
        self.follow_spec()
        title = check.check.title.in_language(self._order.language)
        seen = look(self.site, check, self._clock)
        note_check(self._entries, phase, step.name, title, check, seen)
        if not seen.met:
            raise CheckError(f"{title}: {seen.message}", f"kivactl runbook report {self.site.run}")


def note_check(entries: Chain, phase: str, step: str, title: str, check: BoundCheck, seen: Seen) -> None:
    """Journal what a check saw."""
    tolerance = described(check.check.tolerance, check.probe.kind)
    value = seen.value if isinstance(seen.value, (bool, int, float, str, list, tuple)) else None
    entries.append(
        "checked", phase=phase, step=step, check=title, probe=check.check.probe, value=value, tolerance=tolerance, met=seen.met, message=seen.message
    )


def _answerer(person: Person) -> dict[str, Any]:
    return {"by": asdict(person), "user": person.user, "host": person.host}


def _result_of(record: Record, name: str) -> dict[str, Any]:
    return next((step.result for step in record.steps if step.name == name), {})

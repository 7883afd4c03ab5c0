"""Running a runbook: in order, in the journal, undone on failure and on interrupt, resumed where it stopped."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from staged_runbooks import ADA, Stage, step

from kivactl import journal
from kivactl.errors import CheckError, NotReadyError, PreconditionError, ToolError, UsageError
from kivactl.plan import Outcome, Status
from kivactl.runbooks import chain, runs
from kivactl.runbooks.actions.action import Action, NoParams
from kivactl.runbooks.approvals import approve
from kivactl.runbooks.engine import Rooms
from kivactl.runbooks.record import Person, State, StepState, Verdict
from kivactl.targets.lock import held

BOB = Person("Bob", "bob", "host")
CHECK = "{title: {en: Seen, de: Gesehen}, probe: seen, tolerance: {equals: 1}}"


def test_steps_run_in_order_and_are_journalled(stage: Stage) -> None:
    outcomes = stage.run(stage.runbook(step("one", "a") + step("two", "b")))
    assert stage.done == ["a", "b"]
    assert (outcomes[0].data["run"], outcomes[0].data["folder"]) == (stage.last.name, str(stage.last))
    assert (stage.record.state, stage.record.verdict) == (State.DONE, Verdict.PASSED)
    assert [one.state for one in stage.record.steps] == [StepState.DONE, StepState.DONE]
    text = (stage.last / runs.JOURNAL).read_bytes()
    assert chain.faults_of(text) == []
    assert [entry["event"] for entry in chain.entries_of(text)] == ["opened", *["begun", "outcome", "done"] * 2, "closed"]
    assert not (stage.last / chain.RESERVE).exists()


def test_every_outcome_that_starts_ends(stage: Stage) -> None:
    stage.action("b", CheckError("no good"))
    with pytest.raises(CheckError):
        stage.run(stage.runbook(step("one", "a", ", undo: {action: x}") + step("two", "b")))
    started = {one.step for one in stage.outcomes if one.status is Status.STARTED}
    ended = {one.step for one in stage.outcomes if one.status in {Status.DONE, Status.FAILED, Status.SKIPPED}}
    assert started - ended == {"book"}, "only the run itself ends with its error"


@pytest.mark.parametrize("error", [CheckError("no good"), KeyboardInterrupt(), ValueError("a bug")])
def test_undo_steps_run_on_failure_and_on_interrupt_last_first(stage: Stage, error: BaseException) -> None:
    stage.action("c", error)
    steps = step("one", "a", ", undo: {action: x}") + step("two", "b", ", undo: {action: y}") + step("three", "c", ", undo: {action: z}") + step("four", "a")
    with pytest.raises(type(error)):
        stage.run(stage.runbook(steps))
    assert stage.done == ["a", "b", "c", "z", "y", "x"]
    interrupted = isinstance(error, KeyboardInterrupt)
    assert stage.record.verdict is (Verdict.INTERRUPTED if interrupted else Verdict.FAILED)
    assert [one.state for one in stage.record.steps] == [StepState.UNDONE] * 3 + [StepState.OPEN]


def test_an_undo_that_fails_does_not_keep_the_others_from_running(stage: Stage) -> None:
    stage.action("b", CheckError("no good"))
    stage.action("y", OSError(errno.ENOSPC, "full", "/somewhere"))
    with pytest.raises(CheckError, match="no good"):
        stage.run(stage.runbook(step("one", "a", ", undo: {action: x}") + step("two", "b", ", undo: {action: y}")))
    assert stage.done == ["a", "b", "y", "x"]
    assert [one.state for one in stage.record.steps] == [StepState.UNDONE, StepState.FAILED]
    assert "no space left" in stage.record.steps[1].reason


def test_a_second_interrupt_ends_the_undoing_and_resume_goes_on(stage: Stage) -> None:
    stage.action("b", KeyboardInterrupt(), times=1)
    stage.action("y", KeyboardInterrupt())
    path = stage.runbook(step("one", "a", ", undo: {action: x}") + step("two", "b", ", undo: {action: y}"))
    with pytest.raises(KeyboardInterrupt):
        stage.run(path)
    assert stage.done == ["a", "b", "y"]
    assert stage.record.state is State.INTERRUPTED
    stage.run(path, resume=stage.last)
    assert stage.done == ["a", "b", "y", "b"], "the first step was not undone, so it is not done again"
    assert stage.record.verdict is Verdict.PASSED


def test_a_failed_action_is_tried_again_where_that_is_safe(stage: Stage) -> None:
    stage.action("a", ToolError("not yet"), times=2)
    stage.run(stage.runbook(step("one", "a", ", retries: {times: 2, pause: 0s}")))
    assert stage.done == ["a", "a", "a"]
    assert stage.record.steps[0].attempts == 3


def test_retries_end(stage: Stage) -> None:
    stage.action("a", ToolError("never"))
    with pytest.raises(ToolError, match="never"):
        stage.run(stage.runbook(step("one", "a", ", retries: {times: 2, pause: 0s}")))
    assert stage.done == ["a", "a", "a"]


def test_a_bug_is_not_tried_again(stage: Stage) -> None:
    stage.action("a", ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        stage.run(stage.runbook(step("one", "a", ", retries: {times: 2, pause: 0s}")))
    assert stage.done == ["a"]


def test_a_step_that_hangs_is_ended_and_undone(stage: Stage) -> None:
    ended = []

    def hang(_site, _params):
        yield Outcome("inside", Status.STARTED)
        try:
            time.sleep(3600)
        finally:
            ended.append(True)

    stage.put("hang", Action(NoParams, hang))
    with pytest.raises(NotReadyError, match="Do one"):
        stage.run(stage.runbook(step("one", "hang", ", timeout: 50ms, undo: {action: x}")))
    assert ended == [True]
    assert stage.done == ["x"]


def test_what_a_step_hands_on_is_used_by_its_check_undo_and_later_steps(stage: Stage) -> None:
    stage.action("a", results={"size": 7})
    stage.seen = [7]
    check = "{title: {en: Seen, de: Gesehen}, probe: seen, tolerance: {equals: '${one.size}'}}"
    stage.run(stage.runbook(step("one", "a", f", check: {check}") + step("two", "b", f", precondition: {check}")))
    assert stage.record.steps[0].result == {"size": 7}
    assert stage.record.verdict is Verdict.PASSED


@pytest.mark.parametrize(("key", "done"), [("check", ["a", "x"]), ("precondition", [])])
def test_a_check_that_is_not_met_fails_its_step(stage: Stage, key: str, done: list[str]) -> None:
    stage.seen = [2]
    with pytest.raises(CheckError, match="Seen: 2, not = 1"):
        stage.run(stage.runbook(step("one", "a", f", {key}: {CHECK}, undo: {{action: x}}")))
    assert stage.done == done
    assert stage.record.steps[0].state is (StepState.UNDONE if done else StepState.FAILED)


def test_a_flapping_check_has_to_hold_as_often_as_it_says(stage: Stage) -> None:
    stage.seen = [1, 2, 1, 1, 2, 1, 1, 1]
    check = "{title: {en: Seen, de: Gesehen}, probe: seen, tolerance: {equals: 1}, times: 3, within: 1m, every: 1ms}"
    stage.run(stage.runbook(step("one", "a", f", check: {check}")))
    assert stage.seen == [1]


def test_what_is_missing_before_the_first_step_is_told_at_once_and_nothing_is_begun(stage: Stage) -> None:
    stage.seen = [2]
    with pytest.raises(CheckError, match="cannot begin") as caught:
        stage.run(stage.runbook(step("one", "a"), f"preconditions:\n  - {CHECK}\n  - {CHECK}\n"))
    assert len(caught.value.details) == 1
    assert stage.done == []
    assert stage.record.state is State.FAILED


def test_the_steady_state_afterwards_is_the_verdict(stage: Stage) -> None:
    stage.seen = [1, 2]
    stage.run(stage.runbook(step("one", "a"), f"steady_state: {{before: [{CHECK}], after: [{CHECK}]}}\n"))
    assert (stage.record.verdict, stage.record.reason) == (Verdict.MISSED, "Seen: 2, not = 1")


def measuring(stage: Stage, **figures: float) -> None:
    def act(_site, _params):
        yield Outcome("inside", Status.DONE, data={"measured": figures})

    stage.put("a", Action(NoParams, act))


@pytest.mark.parametrize(
    ("figures", "verdict", "reason"),
    [
        ({"rto": 30.0, "lost_requests": 0}, Verdict.PASSED, ""),
        ({"rto": 60.0, "lost_requests": 0}, Verdict.PASSED, ""),
        ({"rto": 90.0, "lost_requests": 2}, Verdict.MISSED, "RTO 1m30s instead of at most 1m; lost requests 2 instead of at most 0"),
        ({"rto": 30.0}, Verdict.MISSED, "lost requests was not measured"),
    ],
)
def test_objectives_are_held_against_figures(stage: Stage, figures, verdict, reason) -> None:
    measuring(stage, **figures)
    stage.run(stage.runbook(step("one", "a"), "objectives: {rto: 60s, lost_requests: 0}\n"))
    assert (stage.record.verdict, stage.record.reason, stage.record.measured) == (verdict, reason, figures)


class Observation:
    def __init__(self, doubt: str | None = None) -> None:
        self.doubt, self.told = doubt, []

    def mark(self, kind, at_s):
        self.told.append(kind)

    def healthy(self):
        self.told.append("healthy")
        return self.doubt

    def changes(self):
        return []

    def end(self):
        self.told.append("ended")
        return {"outage": 1.0}

    def abandon(self):
        self.told.append("abandoned")


def watched(stage: Stage) -> tuple:
    def fault(_site, _params):
        yield Outcome("inside", Status.DONE, data={"mark": "fault", "at_s": 1.0})

    stage.put("fault", Action(NoParams, fault))
    return stage.runbook(step("one", "fault") + step("two", "b"), f"steady_state: {{during: [{CHECK}]}}\nobjectives: {{outage: 5s}}\n")


@pytest.mark.parametrize(("doubt", "verdict"), [(None, Verdict.PASSED), ("the generator was late", Verdict.INVALID)])
def test_an_observation_lasts_over_all_steps_and_its_doubt_counts_more_than_its_figures(stage: Stage, doubt, verdict) -> None:
    seen = Observation(doubt)
    stage.run(watched(stage), rooms=Rooms(begin=lambda *_: seen))
    assert seen.told == ["steps", "fault", "end", "ended", "healthy"]
    assert (stage.record.verdict, stage.record.reason, stage.record.measured) == (verdict, doubt or "", {"outage": 1.0})


def test_an_observation_is_abandoned_when_a_step_fails(stage: Stage) -> None:
    path, seen = watched(stage), Observation()
    stage.action("b", CheckError("no good"))
    with pytest.raises(CheckError):
        stage.run(path, rooms=Rooms(begin=lambda *_: seen))
    assert seen.told == ["steps", "fault", "abandoned"]


def test_evidence_is_written_of_every_run_that_ended(stage: Stage) -> None:
    written = []
    rooms = Rooms(write=lambda folder, record, bound, deployment: written.append((folder, record.verdict)))
    stage.run(stage.runbook(step("one", "a")), rooms=rooms)
    stage.action("a", CheckError("no good"))
    with pytest.raises(CheckError):
        stage.run(stage.runbook(step("one", "a")), rooms=rooms)
    assert [verdict for _, verdict in written] == [Verdict.PASSED, Verdict.FAILED]


def test_evidence_that_a_kill_cut_off_is_written_by_resume(stage: Stage) -> None:
    path, written = stage.runbook(step("one", "a")), []
    stage.run(path)
    rooms = Rooms(write=lambda folder, *_: written.append(folder), written=lambda folder: folder in written)
    stage.run(path, resume=stage.last, rooms=rooms)
    assert (written, stage.done) == ([stage.last], ["a"])
    with pytest.raises(PreconditionError, match="is done"):
        stage.run(path, resume=stage.last, rooms=rooms)


ASK = "  - {name: sure, title: {en: Ask, de: Fragen}, ask: {en: Sure?, de: Sicher?}}\n"


def test_without_a_terminal_a_question_stops_the_run_and_resume_answers_it(stage: Stage) -> None:
    path = stage.runbook(step("one", "a", ", undo: {action: x}") + ASK + step("two", "b"))
    with pytest.raises(PreconditionError, match=r"waits for an answer: Sure\?"):
        stage.run(path)
    assert stage.record.state is State.ASKING
    assert stage.done == ["a"]
    with pytest.raises(PreconditionError, match="waits for an answer"):
        stage.run(path, resume=stage.last)
    stage.run(path, resume=stage.last, answers={"sure": "yes"})
    assert stage.done == ["a", "b"]
    assert stage.record.steps[1].answer == ("yes", ADA)


def test_no_fails_the_step_and_undoes_what_was_done(stage: Stage) -> None:
    with pytest.raises(CheckError, match="answered with no"):
        stage.run(stage.runbook(step("one", "a", ", undo: {action: x}") + ASK), ask=lambda title, question: question != "Sure?")
    assert stage.done == ["a", "x"]


APPROVAL = "approval: {by: [platform-lead, security-officer], within: 1ms}\n"


def test_a_run_waits_for_a_second_person(stage: Stage) -> None:
    path = stage.runbook(step("one", "a"), APPROVAL)
    with pytest.raises(PreconditionError, match="was not approved"):
        stage.run(path)
    assert (stage.done, stage.record.state) == ([], State.WAITING)
    with pytest.raises(PreconditionError, match="four eyes"):
        approve(stage.last, Person(" aDa ", "other", "elsewhere"), "platform-lead")
    with pytest.raises(UsageError, match="several roles"):
        approve(stage.last, BOB)
    with pytest.raises(UsageError, match="may not approve"):
        approve(stage.last, BOB, "operator")
    approve(stage.last, BOB, "platform-lead")
    stage.run(path, resume=stage.last)
    assert stage.done == ["a"]
    assert [(one.by, one.role) for one in stage.record.approvals] == [(BOB, "platform-lead")]
    with pytest.raises(PreconditionError, match="does not wait"):
        approve(stage.last, BOB, "platform-lead")


def test_an_approval_from_another_terminal_lets_the_waiting_run_go_on(stage: Stage) -> None:
    path = stage.runbook(step("one", "a"), APPROVAL.replace("1ms", "1m"))

    def second_person():
        while not (stage.layout.state / "runs").exists() or not runs.history(stage.layout):
            time.sleep(0.01)
        approve(stage.last, BOB, "security-officer")

    thread = threading.Thread(target=second_person)
    thread.start()
    stage.run(path)
    thread.join()
    assert stage.record.verdict is Verdict.PASSED


def stopped(stage: Stage, *, repeatable: bool = True):
    """A run whose process was killed within its second step."""

    class Killed(BaseException):
        pass

    stage.action("b", Killed(), times=1, repeatable=repeatable)
    path = stage.runbook(step("one", "a") + step("two", "b") + step("three", "c"))
    with pytest.raises(Killed):
        stage.run(path)
    return path


def test_a_killed_run_goes_on_where_it_stopped(stage: Stage) -> None:
    path = stopped(stage)
    assert stage.record.state is State.INTERRUPTED
    stage.run(path, resume=stage.last)
    assert stage.done == ["a", "b", "b", "c"]
    assert (stage.record.verdict, stage.record.resumed) == (Verdict.PASSED, 1)


@pytest.mark.parametrize(("said", "done"), [("done", ["a", "b", "c"]), ("again", ["a", "b", "b", "c"])])
def test_what_must_not_be_done_twice_is_a_persons_to_settle(stage: Stage, said: str, done: list[str]) -> None:
    path = stopped(stage, repeatable=False)
    with pytest.raises(PreconditionError, match="'two' was cut off") as caught:
        stage.run(path, resume=stage.last)
    assert "--done two" in caught.value.hint
    stage.run(path, resume=stage.last, **{said: frozenset({"two"})})
    assert stage.done == done


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"done": frozenset({"nix"})}, "has no step 'nix'"),
        ({"again": frozenset({"one"})}, "'one' is done already"),
        ({"done": frozenset({"two"}), "again": frozenset({"two"})}, "cannot be both"),
    ],
)
def test_what_a_person_says_has_to_fit(stage: Stage, order, message: str) -> None:
    path = stopped(stage)
    with pytest.raises(UsageError, match=message):
        stage.run(path, resume=stage.last, **order)


def test_a_run_that_is_done_is_not_resumed(stage: Stage) -> None:
    path = stage.runbook(step("one", "a"))
    stage.run(path)
    with pytest.raises(PreconditionError, match="is done"):
        stage.run(path, resume=stage.last)


def test_an_edited_runbook_is_refused(stage: Stage) -> None:
    path = stopped(stage)
    path.write_text(path.read_text() + "# edited\n")
    with pytest.raises(PreconditionError, match="was edited since"):
        stage.run(path, resume=stage.last)


def test_a_changed_spec_is_refused(stage: Stage) -> None:
    from dataclasses import replace

    path = stopped(stage)
    spec = stage.folder / "kiva.yaml"
    spec.write_text(spec.read_text() + "gateway: {port: 9443}\n")
    stage.deployment = replace(stage.deployment, loaded=stage.deployment.reload())
    with pytest.raises(PreconditionError, match="the spec was changed"):
        stage.run(path, resume=stage.last)


def test_a_spec_that_changes_while_the_run_goes_on_is_noticed_before_the_next_step(stage: Stage) -> None:
    spec = stage.folder / "kiva.yaml"

    def act(_site, _params):
        spec.write_text(spec.read_text() + "gateway: {port: 9443}\n")
        yield Outcome("inside", Status.DONE)

    stage.put("a", Action(NoParams, act))
    with pytest.raises(PreconditionError, match="the spec changed while"):
        stage.run(stage.runbook(step("one", "a") + step("two", "b")))
    assert stage.done == []


def test_a_spec_that_the_run_itself_changes_is_followed(stage: Stage) -> None:
    from kivactl.spec.edit import edit_for

    seen = []

    def change(site, _params):
        edit = edit_for(site.deployment.loaded.files, {("gateway", "port"): 9443})
        yield Outcome("inside", Status.DONE, data={"spec": edit.digest})
        edit.write()

    def look(site, _params):
        seen.append(site.deployment.platform.gateway.port)
        yield Outcome("inside", Status.DONE)

    (stage.folder / "kiva.yaml").write_text((stage.folder / "kiva.yaml").read_text() + "gateway: {port: 8443}\n")
    from dataclasses import replace

    stage.deployment = replace(stage.deployment, loaded=stage.deployment.reload())
    stage.put("change", Action(NoParams, change))
    stage.put("look", Action(NoParams, look))
    stage.run(stage.runbook(step("one", "change") + step("two", "look")))
    assert seen == [9443]


def test_another_command_that_changed_the_platform_is_named(stage: Stage) -> None:
    path = stopped(stage)
    journal.note(stage.layout.journal, "deploy-20260101T000000Z-1", "opened")
    with pytest.raises(PreconditionError, match="changed by deploy-20260101T000000Z-1"):
        stage.run(path, resume=stage.last)


def test_a_run_that_only_looked_does_not_count_as_a_change(stage: Stage) -> None:
    path = stopped(stage)
    folder = stage.last
    stage.run(stage.runbook(step("one", "a"), "confirm: never\n", "looking"))
    stage.run(path, resume=folder)
    assert runs.record_of(folder).verdict is Verdict.PASSED


def test_two_at_once_are_refused(stage: Stage) -> None:
    path = stage.runbook(step("one", "a"))
    with held(stage.layout.lock, "deploy"), pytest.raises(PreconditionError, match="locked by 'deploy'"):
        stage.run(path)
    assert stage.done == []


def test_a_step_may_take_the_lock_that_the_run_holds(stage: Stage) -> None:
    def act(site, _params):
        with held(site.deployment.layout.lock, "deploy"):
            yield Outcome("inside", Status.DONE)

    stage.put("a", Action(NoParams, act))
    stage.run(stage.runbook(step("one", "a")))
    assert stage.record.verdict is Verdict.PASSED


def test_from_a_step_skips_those_before_it(stage: Stage) -> None:
    stage.run(stage.runbook(step("one", "a") + step("two", "b")), start="two")
    assert stage.done == ["b"]
    assert [one.state for one in stage.record.steps] == [StepState.SKIPPED, StepState.DONE]


def test_on_a_full_disk_room_is_made_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = runs.create, []

    def full_at_first(*words):
        if not asked:
            raise OSError(errno.ENOSPC, "full", "/state")
        return create(*words)

    monkeypatch.setattr(runs, "create", full_at_first)
    monkeypatch.setattr("kivactl.runbooks.engine.make_room", lambda layout, wanted: asked.append(wanted) or 1)
    stage.run(stage.runbook(step("one", "a")))
    assert asked == [1024 * 1024]


def test_on_a_disk_that_stays_full_nothing_is_begun(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_words):
        raise OSError(errno.ENOSPC, "full", "/state")

    monkeypatch.setattr(runs, "create", full)
    with pytest.raises(OSError, match="full"):
        stage.run(stage.runbook(step("one", "a")))
    assert stage.done == []

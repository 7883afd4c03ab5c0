"""Running a runbook: in order, in the journal, undone on failure and on interrupt."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kivactl import journal
from kivactl.errors import CheckError, NotReadyError, PreconditionError
from kivactl.plan import Outcome, Status, Verb
from kivactl.runbooks.actions import ACTIONS
from kivactl.runbooks.actions.action import Action, NoParams
from kivactl.runbooks.binding import bind_file
from kivactl.runbooks.engine import plan_runbook, run_runbook
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held
from kivactl.tools.clock import Clock


@dataclass
class Site:
    layout: Layout
    clock: Clock = field(default_factory=lambda: Clock(now_s=lambda: 0.0))
    done: list = field(default_factory=list)


def act(name, error=None):
    def run(site, params):
        site.deployment.done.append(name)
        yield Outcome(f"inside {name}", Status.DONE, "doing")
        if error:
            raise error

    return Action(NoParams, run, destructive=name == "wreck")


@pytest.fixture
def site(tmp_path):
    return Site(Layout(tmp_path / "state", tmp_path / "cache"))


def runbook(tmp_path: Path, monkeypatch, *actions, undo=(), errors=None):
    lines = ["title: {en: T, de: T}", "purpose: {en: P, de: P}", "steps:"]
    for name in (*actions, *undo):
        monkeypatch.setitem(ACTIONS, name, act(name, (errors or {}).get(name)))
    for index, name in enumerate(actions):
        lines += [f"  - name: s{index}", f"    title: {{en: {name}, de: {name}}}", f"    action: {name}"]
        if f"un{name}" in undo:
            lines.append(f"    undo: {{action: un{name}}}")
    path = tmp_path / "book.yaml"
    path.write_text("\n".join(lines))
    return bind_file(path)


def test_steps_run_in_order_and_are_journalled(tmp_path, monkeypatch, site):
    outcomes = list(run_runbook(runbook(tmp_path, monkeypatch, "a", "b"), site))
    assert site.done == ["a", "b"]
    assert [(o.step, o.status) for o in outcomes if o.status is not Status.PROGRESS] == [
        ("a", Status.STARTED),
        ("inside a", Status.DONE),
        ("a", Status.DONE),
        ("b", Status.STARTED),
        ("inside b", Status.DONE),
        ("b", Status.DONE),
    ]
    entries = journal.read(site.layout.journal)
    assert [entry.get("step") for entry in entries] == [None, "a", "inside a", "a", "b", "inside b", "b", None]
    assert entries[-1]["verdict"] == "done"


def test_a_failure_undoes_what_was_begun_last_first(tmp_path, monkeypatch, site):
    bound = runbook(tmp_path, monkeypatch, "a", "b", "c", undo=("una", "unb"), errors={"b": CheckError("b is broken")})
    with pytest.raises(CheckError):
        list(run_runbook(bound, site))
    assert site.done == ["a", "b", "unb", "una"]
    assert journal.read(site.layout.journal)[-1]["verdict"] == "failed"


def test_an_interrupt_undoes_too(tmp_path, monkeypatch, site):
    bound = runbook(tmp_path, monkeypatch, "a", "b", undo=("una",), errors={"b": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        list(run_runbook(bound, site))
    assert site.done == ["a", "b", "una"]
    assert journal.read(site.layout.journal)[-1]["verdict"] == "interrupted"


def test_an_undo_that_fails_does_not_keep_the_others_from_running(tmp_path, monkeypatch, site):
    bound = runbook(tmp_path, monkeypatch, "a", "b", undo=("una", "unb"), errors={"b": CheckError("x"), "unb": CheckError("y")})
    with pytest.raises(CheckError, match="x"):
        list(run_runbook(bound, site))
    assert site.done == ["a", "b", "unb", "una"]


def test_a_step_out_of_time_is_ended(tmp_path, monkeypatch, site):
    times = iter(range(0, 100_000, 1000))
    site.clock = Clock(now_s=lambda: float(next(times)))
    with pytest.raises(NotReadyError, match="did not end within 600 s"):
        list(run_runbook(runbook(tmp_path, monkeypatch, "a"), site))


def test_the_plan_points_out_what_takes_something_away(tmp_path, monkeypatch):
    plan = plan_runbook(runbook(tmp_path, monkeypatch, "a", "wreck"))
    assert [change.verb for change in plan.changes] == [Verb.START, Verb.STOP]


def test_a_locked_platform_is_left_alone(tmp_path, monkeypatch, site):
    site.layout.state.mkdir(parents=True)
    with held(site.layout.lock, "deploy"), pytest.raises(PreconditionError, match="'deploy' of"):
        list(run_runbook(runbook(tmp_path, monkeypatch, "a"), site))
    assert site.done == []

"""A runbook of simple steps, on a platform that is only a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.runbooks import engine, runs
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Action, Kind, NoParams, Probe
from kivactl.runbooks.binding import bind_file
from kivactl.runbooks.record import Person, Record
from kivactl.runbooks.steps import Order
from kivactl.spec.load import load
from kivactl.stack.layout import Layout

SPEC = 'name: test\nmodels:\n  - {name: tiny, source: "path:/nowhere"}\n'
ADA = Person("Ada", "ada", "host")
HEAD = """\
title: {en: A runbook, de: Ein Runbook}
purpose: {en: For tests., de: Für Tests.}
roles: {responsible: [operator], accountable: platform-lead}
"""


@dataclass
class Stage:
    """Where runbooks are played.

    Attributes:
        deployment: The platform.
        done: The names of the actions that were done, in order.
        seen: What the probe `seen` returns, one after the other; the last one stays.
    """

    deployment: Deployment
    folder: Path
    put: Callable[[str, Action], None]
    done: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=lambda: [1])

    @property
    def layout(self) -> Layout:
        return self.deployment.layout

    def action(self, name: str, error: BaseException | None = None, *, times: int = 99, repeatable: bool = True, results: dict[str, Any] | None = None) -> None:
        """Make an action that notes its name, and fails the first `times` times."""
        left = [times]

        def act(_site: object, _params: object) -> Iterator[Outcome]:
            self.done.append(name)
            yield Outcome(f"inside {name}", Status.DONE, "doing", data={"result": results} if results else {})
            if error is not None and left[0] > 0:
                left[0] -= 1
                raise error

        self.put(name, Action(NoParams, act, repeatable=repeatable, results=results or {}))

    def runbook(self, steps: str, head: str = "", name: str = "book") -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(HEAD + head + "steps:\n" + steps)
        return path

    def run(self, path: Path, *, resume: Path | None = None, rooms: engine.Rooms | None = None, operator: Person = ADA, **order: Any) -> list[Outcome]:
        """Run or resume; outcomes that were yielded before an error are in `outcomes`."""
        chosen = runs.record_of(resume).parameters if resume else {}
        bound = bind_file(path, self.deployment.loaded, chosen)
        told = Order(operator, **order)
        self.outcomes: list[Outcome] = []
        beside = rooms or engine.Rooms()
        start, resumed = engine.run_runbook, engine.resume_runbook
        work = resumed(resume, bound, self.deployment, told, beside) if resume else start(bound, self.deployment, told, beside)
        for outcome in work:
            self.outcomes.append(outcome)
        return self.outcomes

    @property
    def last(self) -> Path:
        return runs.runs_folder(self.layout) / runs.history(self.layout)[0].run

    @property
    def record(self) -> Record:
        return runs.record_of(self.last)


def step(name: str, action: str, more: str = "") -> str:
    return f"  - {{name: {name}, title: {{en: Do {name}, de: Tu {name}}}, action: {action}{more}}}\n"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    spec = tmp_path / "kiva.yaml"
    spec.write_text(SPEC)
    deployment = Deployment(load(spec), Layout(tmp_path / "state", tmp_path / "cache"), lambda: load(spec))
    made = Stage(deployment, tmp_path, lambda name, action: monkeypatch.setitem(ACTIONS, name, action))
    made.layout.state.mkdir()
    monkeypatch.setitem(PROBES, "seen", Probe(NoParams, lambda *_: made.seen.pop(0) if len(made.seen) > 1 else made.seen[0], Kind.NUMBER))
    for name in "abcxyz":
        made.action(name)
    return made

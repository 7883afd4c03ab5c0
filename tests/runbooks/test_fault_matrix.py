"""Every shipped procedure, cut off at every place where its journal grows and in the middle of every action, then resumed.

Here the actions are played: each has two effects on a world of files, one before and one after it may be cut off, and the process is
truly killed. What the true actions leave behind when they are killed is the subject of the tests on a real platform.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import pytest

from kivactl import root
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.runbooks import engine, runs
from kivactl.runbooks.actions import ACTIONS
from kivactl.runbooks.actions.action import Action
from kivactl.runbooks.binding import bind
from kivactl.runbooks.chain import Chain, entries_of, faults_of
from kivactl.runbooks.checks import Seen
from kivactl.runbooks.record import Person, Verdict
from kivactl.runbooks.steps import Order
from kivactl.spec.load import load
from kivactl.stack.layout import Layout

SPEC = """\
name: test
models:
  - {name: tiny, source: "path:/nowhere", replicas: 2}
  - {name: tiny2, source: "path:/elsewhere"}
aliases:
  - {name: chat, models: {tiny: 1, tiny2: 0}}
"""
ADA = Person("Ada", "ada", "host")
RUNBOOKS = sorted(path.stem for path in root.content("runbooks").glob("*.yaml"))


class World:
    """What actions did: a file for each effect, so that a killed process leaves what it had done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def have(self, effect: str, *, twice: bool) -> None:
        path = self.folder / effect.replace("/", "_")
        if path.exists() and not twice:
            (self.folder / "DONE TWICE").write_text(effect)
        path.touch()

    @property
    def state(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


class Playing:
    """One runbook with played actions.

    Attributes:
        places: How often the journal grew in an uninterrupted run.
    """

    def __init__(self, folder: Path, name: str, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        spec = folder / "kiva.yaml"
        spec.write_text(SPEC)
        self.name = name
        self.deployment = Deployment(load(spec), Layout(folder / "state", folder / "cache"), lambda: load(spec))
        self.world = World(folder / "world")
        for action_name, action in list(ACTIONS.items()):
            patch.setitem(ACTIONS, action_name, replace(action, act=self._played(action_name, action)))
        for module in ("engine", "steps"):
            patch.setattr(f"kivactl.runbooks.{module}.look", lambda *_: Seen(1, met=True, message="1"))
        patch.setattr("kivactl.runbooks.engine.missed", lambda *_: [])

    def _played(self, name: str, action: Action):
        def act(_site: object, params) -> Iterator[Outcome]:
            effect = f"{name} {params.model_dump_json()}"
            self.world.have(f"{effect} half", twice=action.repeatable)
            yield Outcome("inside", Status.DONE, "half")
            self.world.have(f"{effect} whole", twice=action.repeatable)
            yield Outcome("inside", Status.DONE, "whole", data={"result": dict(action.results)})

        return act

    def order(self, **more: frozenset[str]) -> Order:
        bound = self.bound
        return Order(ADA, answers={step.name: "yes" for step in bound.steps if step.step.ask is not None}, **more)

    @cached_property
    def bound(self):
        return bind(self.name, self.deployment.loaded, values_for(self.name))

    def run(self) -> None:
        for _ in engine.run_runbook(self.bound, self.deployment, self.order(), engine.Rooms()):
            pass

    def resume(self, **more: frozenset[str]) -> None:
        for _ in engine.resume_runbook(self.folder, self.bound, self.deployment, self.order(**more), engine.Rooms()):
            pass

    @property
    def folder(self) -> Path:
        return next(path for path in runs.runs_folder(self.deployment.layout).iterdir() if path.is_dir())


@cache
def values_for(name: str) -> dict[str, str]:
    """A value for every parameter without a default."""
    bound = bind(name, None)
    examples = {"model": "tiny2", "alias": "chat", "tenant": "default", "replica": "tiny-0", "text": "word", "integer": "1", "duration": "1h", "size": "1GiB"}
    return {
        key: (parameter.choices[0] if parameter.choices else examples[parameter.type])
        for key, parameter in bound.runbook.parameters.items()
        if parameter.default is None and not parameter.optional and parameter.only_on in {None, "local"}
    }


def cut(playing: Playing, place: int, sign: signal.Signals) -> int:
    """Run in a child that is struck when its journal grows for the `place`-th time; its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    append, count = Chain.append, [0]

    def counted(self: Chain, event: str, **fields: object) -> None:
        append(self, event, **fields)
        count[0] += 1
        if count[0] == place:
            os.kill(os.getpid(), sign)

    Chain.append = counted  # type: ignore[method-assign]
    code = 1
    try:
        playing.run()
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


KILLED, INTERRUPTED = signal.SIGKILL, signal.SIGINT
IN_TURN, BOTH = ((KILLED,), (INTERRUPTED,)), ((KILLED, INTERRUPTED),)
"""What a place is struck by; the next place by the next of them."""


@pytest.mark.parametrize("struck_by", [pytest.param(IN_TURN, marks=pytest.mark.real, id="in-turn"), pytest.param(BOTH, marks=pytest.mark.drills, id="both")])
@pytest.mark.parametrize("name", RUNBOOKS)
def test_cut_off_anywhere_and_resumed_it_ends_as_if_nothing_had_been(
    name: str, struck_by: tuple[tuple[signal.Signals, ...], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("kivactl.runbooks.engine.until_approved", lambda *_: iter(()))
    with monkeypatch.context() as patch:
        whole = Playing(tmp_path / "whole", name, patch)
        whole.run()
        wanted = whole.world.state
        places = len(entries_of((whole.folder / runs.JOURNAL).read_bytes()))
    undone = {f"{step.undo.name} {step.undo.params.model_dump_json()} {part}" for step in whole.bound.steps if step.undo for part in ("half", "whole")}
    count = 0
    for place in range(1, places):
        for sign in struck_by[place % len(struck_by)]:
            with monkeypatch.context() as patch:
                one = Playing(tmp_path / f"{sign.name}-{place}", name, patch)
                status = cut(one, place, sign)
                if sign is signal.SIGKILL:
                    assert os.WIFSIGNALED(status)
                else:
                    assert os.waitstatus_to_exitcode(status) == 130
                record = runs.record_of(one.folder)
                doubtful = frozenset(
                    step.name
                    for step, state in zip(one.bound.steps, record.steps, strict=True)
                    if step.do and not step.do.action.repeatable and state.attempts and state.state.value in {"begun", "failed"}
                )
                before = (one.world.folder / "DONE TWICE").exists()
                half = {path.name for path in one.world.folder.iterdir()}
                done = frozenset(step for step in doubtful if any(name.endswith("whole") for name in half))
                one.resume(done=done, again=doubtful - done)
                record = runs.record_of(one.folder)
                assert record.verdict is Verdict.PASSED, (place, sign, record.reason)
                assert not before
                left = set(one.world.state) - undone - {"DONE TWICE"}
                assert left == set(wanted) - undone, (place, sign)
                if not doubtful:
                    assert not (one.world.folder / "DONE TWICE").exists(), (place, sign)
                assert faults_of((one.folder / runs.JOURNAL).read_bytes()) == []
                count += 1
    with capsys.disabled():
        print(f"\n{name}: cut off at {count} places and resumed", json.dumps({"steps": len(whole.bound.steps)}), end="")

"""Reads a runbook and binds every action and parameter before anything runs; all faults are reported at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.runbooks.actions import ACTIONS
from kivactl.runbooks.actions.action import Action
from kivactl.spec import document
from kivactl.spec.document import Fault, Node
from kivactl.spec.faults import validated
from kivactl.spec.quantities import Duration


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(_Strict):
    """The same sentence in two languages."""

    en: str
    de: str

    def in_language(self, language: str) -> str:
        """The sentence in `en` or `de`."""
        return self.de if language == "de" else self.en


class Act(_Strict):
    """An action with its parameters, as written."""

    action: str
    params: dict[str, Any] = Field(default_factory=dict)


class Step(Act):
    """One step, as written."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: Text
    disruption: Text | None = None
    timeout: Duration = 600.0
    undo: Act | None = None


class Runbook(_Strict):
    """A written procedure."""

    title: Text
    purpose: Text
    steps: tuple[Step, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class BoundAction:
    """An action with checked parameters."""

    action: Action
    params: BaseModel


@dataclass(frozen=True, slots=True)
class BoundStep:
    """A step whose actions exist and whose parameters fit."""

    step: Step
    do: BoundAction
    undo: BoundAction | None

    @property
    def timeout_s(self) -> float:
        return self.step.timeout

    def title(self, language: str) -> str:
        """What it does, in `en` or `de`."""
        return self.step.title.in_language(language)

    def disruption(self, language: str) -> str:
        """What users notice; empty when nothing."""
        return self.step.disruption.in_language(language) if self.step.disruption else ""


@dataclass(frozen=True, slots=True)
class Bound:
    """A runbook ready to run.

    Attributes:
        name: Its file's name without the ending.
        path: Its file.
        runbook: As written.
        steps: In order.
    """

    name: str
    path: Path
    runbook: Runbook
    steps: tuple[BoundStep, ...]


def folders(spec_folder: Path | None) -> list[Path]:
    """Where runbooks are looked for: beside the spec first, then those that come with kivactl."""
    own = [spec_folder / "runbooks"] if spec_folder and (spec_folder / "runbooks").is_dir() else []
    shipped = root.content("runbooks")
    return [*own, *([shipped] if shipped not in own else [])]


def available(spec_folder: Path | None) -> dict[str, Path]:
    """Every runbook's file by its name; one's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in folders(spec_folder):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def listing(spec_folder: Path | None, language: str) -> list[dict[str, str]]:
    """Name and purpose of every runbook, as rows.

    Raises:
        SpecError: One of them has faults.
    """
    return [{"name": name, "purpose": bind_file(path).runbook.purpose.in_language(language)} for name, path in available(spec_folder).items()]


def bind(name: str, spec_folder: Path | None) -> Bound:
    """Read a runbook by its name.

    Raises:
        UsageError: There is none of that name.
        SpecError: It has faults; all are told.
    """
    found = available(spec_folder)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        raise UsageError(f"there is no runbook named '{name}'", f"kivactl runbook {near[0]}" if near else "kivactl runbook list")
    return bind_file(found[name])


def bind_file(path: Path) -> Bound:
    """Read a runbook from its file.

    Raises:
        SpecError: It has faults; all are told.
    """
    tree, faults = document.read(path)
    runbook: Runbook | None = None
    steps: list[BoundStep] = []
    if tree is not None:
        runbook, more = validated(Runbook, tree)
        faults += more
        nodes = tree.child("steps")
        for index, step in enumerate(runbook.steps if runbook else ()):
            node = nodes.child(index) if nodes else None
            assert node is not None
            do = _bound(step, node, f"steps[{index}]", faults)
            undo = _bound(step.undo, node.child("undo") or node, f"steps[{index}].undo", faults) if step.undo else None
            if do is not None:
                steps.append(BoundStep(step, do, undo))
    if faults or runbook is None:
        count = "a fault" if len(faults) == 1 else f"{len(faults) or 'no content and so'} faults"
        raise SpecError(f"the runbook {path} has {count}", f"correct it, then: kivactl runbook {path.stem} --plan", tuple(map(str, faults)))
    return Bound(path.stem, path, runbook, tuple(steps))


def _bound(act: Act, node: Node, where: str, faults: list[Fault]) -> BoundAction | None:
    action = ACTIONS.get(act.action)
    if action is None:
        near = difflib.get_close_matches(act.action, ACTIONS, n=1)
        valid = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(ACTIONS)}"
        place = node.child("action")
        faults.append(Fault(place.place if place else node.place, f"{where}.action", f"there is no action '{act.action}'; {valid}"))
        return None
    params = node.child("params") or Node({}, node.place)
    value, found = validated(action.params, params)
    faults += [Fault(fault.place, f"{where}.params{'.' if fault.path else ''}{fault.path}", fault.message) for fault in found]
    return BoundAction(action, value) if value is not None else None

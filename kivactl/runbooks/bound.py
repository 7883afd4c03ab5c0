"""A runbook ready to run: every action, probe, parameter and placeholder of it is bound. Types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import UsageError
from kivactl.runbooks.actions.action import Action, Params, Probe
from kivactl.runbooks.format import Check, Runbook, Step

Results = Mapping[str, Mapping[str, Any]]
"""What steps handed on, by step and name."""


@dataclass(frozen=True, slots=True)
class BoundAction:
    """An action with checked parameters.

    Attributes:
        name: As runbooks call it.
        action: What it is.
        params: Its parameters, of the type `action.params`.
    """

    name: str
    action: Action
    params: Params


@dataclass(frozen=True, slots=True)
class BoundCheck:
    """A check whose probe exists, whose parameters fit, and whose tolerance goes with what the probe returns."""

    check: Check
    probe: Probe
    params: Params


@dataclass(frozen=True, slots=True)
class BoundStep:
    """A step all of whose parts exist and fit.

    Attributes:
        step: As written, with the values of parameters in its sentences and limits.
        do: What it does; None for a question.
        undo: What takes it back.
        precondition: What has to hold before it.
        check: What has to hold after it.
        rebind: Binds it again with the true results of earlier steps; `with_results` calls it.
    """

    step: Step
    do: BoundAction | None
    undo: BoundAction | None
    precondition: BoundCheck | None
    check: BoundCheck | None
    rebind: Callable[[Results], BoundStep] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def timeout_s(self) -> float:
        return self.step.timeout

    @property
    def destructive(self) -> bool:
        """Whether a plan must point it out."""
        return self.do is not None and self.do.action.destructive

    def title(self, language: str) -> str:
        """What it does, in `en` or `de`."""
        return self.step.title.in_language(language)

    def disruption(self, language: str) -> str:
        """What users notice; empty when nothing."""
        return self.step.disruption.in_language(language) if self.step.disruption else ""

    def with_results(self, results: Results) -> BoundStep:
        """The step with what earlier steps handed on, and `{"run": {"name": ...}}`; what is absent keeps its example.

        For `check` and `undo` the step's own result may be among them.

        Raises:
            SpecError: A value does not fit where it is used.
        """
        return self.rebind(results)


@dataclass(frozen=True, slots=True)
class Bound:
    """A runbook ready to run.

    Attributes:
        name: Its file's name without the ending.
        path: Its file.
        text: The file's content as it was read.
        text_sha256: Of that content.
        runbook: As written, with the values of parameters in its sentences and limits.
        parameters: Every parameter's value (seconds, bytes), None for optional ones that were not given; empty when nothing was chosen yet.
        steps: In order.
        preconditions: What has to hold before anything.
        before: The steady state's gate.
        during: What is looked at all the time.
        after: The verdict; `after_with` binds it with the results of the steps.
        rebind_after: Binds `after` again.
        needs: The results of earlier steps that each step uses.
    """

    name: str
    path: Path
    text: bytes
    text_sha256: str
    runbook: Runbook
    parameters: dict[str, Any]
    steps: tuple[BoundStep, ...]
    preconditions: tuple[BoundCheck, ...]
    before: tuple[BoundCheck, ...]
    during: tuple[BoundCheck, ...]
    after: tuple[BoundCheck, ...]
    rebind_after: Callable[[Results], tuple[BoundCheck, ...]] = field(repr=False, compare=False)
    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def destructive(self) -> bool:
        """Whether a step takes something away."""
        return any(step.destructive for step in self.steps)

    def after_with(self, results: Results) -> tuple[BoundCheck, ...]:
        """The verdict's checks with what the steps handed on.

        Raises:
            SpecError: A value does not fit where it is used.
        """
        return self.rebind_after(results)

    def starting_from(self, name: str) -> tuple[BoundStep, ...]:
        """The steps from one on (`--from`).

        Raises:
            UsageError: There is no such step, or a later one needs what an earlier one hands on.
        """
        from difflib import get_close_matches

        names = [step.name for step in self.steps]
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise UsageError(f"the runbook '{self.name}' has no step '{name}'", f"did you mean --from {near[0]}?" if near else f"it has: {', '.join(names)}")
        at = names.index(name)
        for step in self.steps[at:]:
            for other in sorted(self.needs.get(step.name, frozenset()) & set(names[:at])):
                raise UsageError(f"the step '{step.name}' needs what the step '{other}' hands on", f"kivactl runbook {self.name} --from {other}")
        return self.steps[at:]

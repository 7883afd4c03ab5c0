"""What a runbook file may say, and nothing else. Sentences stand in English and German."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kivactl.spec.fields import Name, PositiveDuration
from kivactl.spec.quantities import Duration

Target = Literal["local", "kubernetes"]
StepName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Text(_Strict):
    """The same sentence in two languages."""

    en: str = Field(min_length=1)
    de: str = Field(min_length=1)

    def in_language(self, language: str) -> str:
        """The sentence in `en` or `de`."""
        return self.de if language == "de" else self.en


class Act(_Strict):
    """An action with its parameters; `${name}` in a parameter stands for a parameter of the runbook, `${step.name}` for a step's result."""

    action: str
    params: dict[str, Any] = Field(default_factory=dict)


class Tolerance(_Strict):
    """What a probe's value has to be; exactly one key. Sizes and durations have units (`10GiB`, `30d`)."""

    equals: str | bool | int | float | None = None
    at_least: str | int | float | None = None
    at_most: str | int | float | None = None
    between: tuple[str | int | float, str | int | float] | None = None
    one_of: tuple[str | int | float, ...] | None = None
    matches: str | None = None
    empty: bool | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            msg = f"needs exactly one of: {', '.join(type(self).model_fields)}"
            raise ValueError(msg)
        return self


class Check(_Strict):
    """A probe whose value is held against a tolerance.

    It is met when the value was within the tolerance `times` times in a row, `every` apart, before `within` was over.
    """

    title: Text
    probe: str
    params: dict[str, Any] = Field(default_factory=dict)
    tolerance: Tolerance
    within: Duration = 0.0
    every: PositiveDuration = 1.0
    times: int = Field(default=1, strict=True, ge=1, le=1000)
    only_on: Target | None = None
    """The target on which it counts; on another one it is as if it were not written. Every target when absent."""


class Retries(_Strict):
    """How often a failed action is tried again, and after which pause."""

    times: int = Field(strict=True, ge=1, le=100)
    pause: Duration = 1.0


class Step(Act):
    """One step: an action, or with `ask` a question that a person answers with yes."""

    name: StepName
    title: Text
    action: str = "ask"
    ask: Text | None = None
    disruption: Text | None = None
    precondition: Check | None = None
    check: Check | None = None
    timeout: PositiveDuration = 600.0
    retries: Retries | None = None
    undo: Act | None = None
    only_on: Target | None = None
    """As of a check: a step for one target."""

    @model_validator(mode="after")
    def _asks_or_acts(self) -> Self:
        if (self.action == "ask") != (self.ask is not None):
            msg = "needs either `action`, or `ask` with the question"
            raise ValueError(msg)
        return self


class ParameterType(StrEnum):
    """What a parameter of a runbook can be; names of the spec are checked against it."""

    TEXT = "text"
    FLAG = "flag"
    INTEGER = "integer"
    NUMBER = "number"
    DURATION = "duration"
    SIZE = "size"
    MODEL = "model"
    ALIAS = "alias"
    TENANT = "tenant"
    REPLICA = "replica"


class Parameter(_Strict):
    """Something the operator chooses: `--set NAME=VALUE`. Without a default it must be given."""

    type: ParameterType = ParameterType.TEXT
    description: Text
    default: str | bool | int | float | None = None
    optional: bool = False
    choices: tuple[str, ...] | None = None
    minimum: str | int | float | None = None
    """The least that is allowed; with a unit for durations and sizes."""
    maximum: str | int | float | None = None
    only_on: Target | None = None
    """The target on which it can be chosen. Every target when absent."""


ROLES: dict[str, Text] = {
    "operator": Text(en="Operator", de="Betrieb"),
    "platform-lead": Text(en="Platform lead", de="Plattformleitung"),
    "security-officer": Text(en="Security officer", de="Informationssicherheit"),
    "data-protection-officer": Text(en="Data protection officer", de="Datenschutz"),
    "service-desk": Text(en="Service desk", de="Servicedesk"),
    "controller": Text(en="Controller", de="Controlling"),
}
"""The roles that runbooks may name; further ones need an entry in `runbooks.contacts` of the spec."""


class Roles(_Strict):
    """Who does what (RACI), by names of roles; `runbooks.contacts` of the spec says who fills them."""

    responsible: tuple[Name, ...] = Field(min_length=1)
    accountable: Name
    consulted: tuple[Name, ...] = ()
    informed: tuple[Name, ...] = ()


class Approval(_Strict):
    """A second person has to agree before the first step."""

    by: tuple[Name, ...] = Field(min_length=1, description="Roles that may.")
    within: PositiveDuration = 3600.0


class SteadyState(_Strict):
    """What has to hold before the first step (a gate), all the time (recorded), and after the last step (the verdict)."""

    before: tuple[Check, ...] = ()
    during: tuple[Check, ...] = ()
    after: tuple[Check, ...] = ()


class Load(_Strict):
    """Background load from before the first step until after the last one: users in a closed loop."""

    scenario: str = "smoke"
    users: int | str = Field(default=8, description="How many; or a parameter, `${users}`.")
    max_tokens: int | str | None = None
    before: Duration = 10.0
    """Time under load before the first step, for comparison."""
    after: Duration = 10.0
    """Time under load after the last step."""


class Objectives(_Strict):
    """What the run is held against: each is the most that is allowed. The names are those of the measurements."""

    rto: PositiveDuration | None = Field(default=None, description="Time until the platform answers again.")
    rpo: PositiveDuration | None = Field(default=None, description="Age of what was restored: the time whose changes are lost.")
    detection: PositiveDuration | None = Field(default=None, description="From the fault until it was noticed.")
    degraded: PositiveDuration | None = Field(default=None, description="Time with less than full capacity.")
    recovery: PositiveDuration | None = Field(default=None, description="From the fault until full capacity.")
    outage: Duration | None = Field(default=None, description="Longest time without any finished answer under load.")
    lost_requests: int | None = Field(default=None, strict=True, ge=0, description="Requests that failed before anything of their answer came.")
    cut_streams: int | None = Field(default=None, strict=True, ge=0, description="Answers that had begun and did not come to their end.")
    error_ratio: float | None = Field(default=None, ge=0, le=1, description="Failed requests over all.")

    @property
    def limits(self) -> dict[str, float]:
        """What is set, by name: times in seconds, counts, ratios."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class Escalation(_Strict):
    """Whom to call when the run takes longer than it should, or fails."""

    after: Duration = 0.0
    to: Name
    text: Text


class Runbook(_Strict):
    """A written procedure."""

    title: Text
    purpose: Text
    roles: Roles
    approval: Approval | None = None
    confirm: Literal["auto", "never"] = "auto"
    """`auto`: a run with destructive steps is confirmed by typing the platform's name, others with yes. `never`: it only looks."""
    spec: Literal["present", "recovered"] = "present"
    """`recovered`: where there is no kiva.yaml it is taken out of the backup."""
    preconditions: tuple[Check, ...] = ()
    parameters: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Parameter] = Field(default_factory=dict)
    steady_state: SteadyState = SteadyState()
    load: Load | None = None
    objectives: Objectives = Objectives()
    steps: tuple[Step, ...] = Field(min_length=1)
    escalation: tuple[Escalation, ...] = ()

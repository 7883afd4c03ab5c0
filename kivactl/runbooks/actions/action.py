"""What an action and a probe are. An action changes the world, a probe only looks; both have typed parameters.

By its outcomes' `data` an action tells the engine more than a person reads:

- `result`: values for later steps, as `${STEP.NAME}`; the names are declared in `Action.results`.
- `measured`: figures for the run's record, by the names of `format.Objectives`; times in seconds.
- `mark`: what the moment means to an observation: `fault` (something was broken), `recovered` (repaired by hand).
- `spec`: digest that the spec will have after a change that the action is about to make, told before the change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome

MACHINE: frozenset[str] = frozenset({"local"})
"""The target on which everything lies on this machine: its processes, sockets, ports and disks."""

CLUSTER: frozenset[str] = frozenset({"kubernetes"})
"""The target that only the API server knows."""

ANYWHERE: frozenset[str] = MACHINE | CLUSTER
"""Every target: what is asked or changed leads over the target itself, the gateway, or files of the operator."""


class Params(BaseModel):
    """Parameters of an action or a probe; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParams(Params):
    """For those that take none."""


@dataclass(frozen=True, slots=True)
class Site:
    """What an action works on.

    Attributes:
        deployment: The platform, by the spec as it is when the step begins.
        folder: The run's folder; an action may write below `measurements/`, never elsewhere in it.
        run: The run's name.
    """

    deployment: Deployment
    folder: Path
    run: str


@dataclass(frozen=True, slots=True)
class Action:
    """Something a step can do.

    Attributes:
        params: Type of its parameters.
        act: Does it, and yields what happens.
        summary: What it does, in one sentence.
        destructive: Whether it takes something away that a plan must point out.
        repeatable: Whether doing it again, after it was cut off anywhere, leads to the same end; if not, a person decides on resuming.
        results: Names of the values it hands to later steps, each with an example of its type.
        targets: On which targets it works; a runbook with it is refused on others before anything runs.
    """

    params: type[Params]
    act: Callable[[Site, Any], Iterator[Outcome]]
    summary: str = ""
    destructive: bool = False
    repeatable: bool = True
    results: Mapping[str, Any] = field(default_factory=dict)
    targets: frozenset[str] = MACHINE


class Kind(StrEnum):
    """What a probe's value is; a tolerance is read accordingly."""

    TEXT = "text"
    FLAG = "flag"
    NUMBER = "number"
    BYTES = "bytes"
    SECONDS = "seconds"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Probe:
    """Something that can be looked at.

    Attributes:
        params: Type of its parameters.
        read: Looks; returns a value of the kind, or None when there is nothing to see (then every tolerance is missed).
            A `KivaError` counts as a miss with its message.
        kind: What it returns.
        summary: What it tells, in one sentence.
        targets: As of an action.
    """

    params: type[Params]
    read: Callable[[Site, Any], Any]
    kind: Kind
    summary: str = ""
    targets: frozenset[str] = MACHINE

"""What people write to describe a load test, and how it is read: every fault at once, with file and line."""

from __future__ import annotations

import secrets
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.loadtest.assignment import Assignment
from kivactl.spec.document import Fault, Node, Place, read
from kivactl.spec.faults import validated
from kivactl.spec.fields import Name
from kivactl.spec.quantities import Duration
from kivactl.stack.endpoint import Endpoint

_SUFFIXES = {".yaml", ".yml"}


class Scenario(BaseModel):
    """A closed loop: each of `concurrency` users asks, reads the whole answer and asks again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    description: str = Field(default="", description="What it is for, in one sentence.")
    concurrency: int = Field(default=1, ge=1, le=10_000, description="Users at the same time, each with one request under way.")
    duration: Duration = Field(default=30.0, gt=0, description="Length of the measured phase.")
    warm_up: Duration = Field(default=5.0, ge=0, description="Load before the measured phase, left out of all figures.")
    timeout: Duration = Field(default=120.0, gt=0, description="Longest time for a whole answer; longer is a failure.")
    max_tokens: int = Field(default=64, ge=1, le=1_000_000, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, ge=0, le=2)
    prompts: tuple[str, ...] | None = Field(default=None, min_length=1, description="Texts to ask, in turn.")
    prompt_words: int | None = Field(default=None, ge=1, le=1_000_000, description="Instead of `prompts`: a random text of that many words for each request.")
    seed: int | None = Field(default=None, ge=0, description="Of the random texts; drawn anew for each run when absent, so that no engine knows them already.")

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> Self:
        if (self.prompts is None) == (self.prompt_words is None):
            msg = "give either prompts or prompt_words"
            raise ValueError(msg)
        return self


def load_scenario(name: str, *, duration: str | None = None, concurrency: int | None = None, max_tokens: int | None = None) -> Scenario:
    """Read a scenario.

    Args:
        name: Of one that comes along, or the path of a YAML file.
        duration: Instead of the file's, with unit (`90s`), as are the others.
        concurrency: Users.
        max_tokens: Tokens per answer.

    Raises:
        SpecError: The file has faults; one line each in the details.
        UsageError: There is no such scenario, or one of the other arguments is out of range.
    """
    path = _path_of(name)
    tree, faults = read(path)
    if tree is None and not faults:
        faults = [Fault(Place(path, 1), "", "the file is empty")]
    scenario = None
    if tree is not None:
        scenario, found = validated(Scenario, tree)
        faults += found
    if tree is None or scenario is None or faults:
        number = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        in_order = sorted(faults, key=lambda fault: fault.place.line)
        raise SpecError(f"the load test in {path} has {number}", details=tuple(str(fault) for fault in in_order))
    return _changed(scenario, tree, {"duration": duration, "concurrency": concurrency, "max_tokens": max_tokens})


def assignment_for(scenario: Scenario, endpoint: Endpoint) -> Assignment:
    """What the load generator is told; a seed is drawn where the scenario has none."""
    return Assignment(
        name=scenario.name,
        url=endpoint.url,
        ca=str(endpoint.ca) if endpoint.ca else None,
        model=endpoint.model,
        concurrency=scenario.concurrency,
        warm_up_s=scenario.warm_up,
        duration_s=scenario.duration,
        timeout_s=scenario.timeout,
        max_tokens=scenario.max_tokens,
        temperature=scenario.temperature,
        seed=secrets.randbelow(2**31) if scenario.seed is None else scenario.seed,
        prompts=scenario.prompts or (),
        prompt_words=scenario.prompt_words,
    )


def _path_of(name: str) -> Path:
    if "/" in name or Path(name).suffix in _SUFFIXES:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"there is no load test in {path}", "kivactl loadtest smoke")
        return path
    known = {path.stem: path for path in sorted(root.content("loadtests").glob("*.yaml"))}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
        raise UsageError(f"there is no load test named '{name}'", hint)
    return known[name]


def _changed(scenario: Scenario, tree: Node, given: dict[str, str | int | None]) -> Scenario:
    """The scenario with what the command line says instead; checked as if the file had said it."""
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return scenario
    command_line = Place(Path("command line"), 1)
    changed = Node({**tree.value, **{key: Node(value, command_line) for key, value in changes.items()}}, tree.place, tree.keys)
    result, faults = validated(Scenario, changed)
    if result is None:
        details = tuple(f"--{fault.path.replace('_', '-')}: {fault.message}" for fault in faults)
        raise UsageError(f"the load test '{scenario.name}' cannot run like that", details=details)
    return result

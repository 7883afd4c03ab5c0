"""What people write to describe a load test, and how it is read: every fault at once, with file and line."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.loadtest.assignment import Assignment
from kivactl.spec.platform import Name
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
    raw = _read(path)
    scenario = _checked(path, raw)
    given = {"duration": duration, "concurrency": concurrency, "max_tokens": max_tokens}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return scenario
    try:
        return Scenario.model_validate({**raw, **changes})
    except ValidationError as error:
        faults = tuple(f"--{_key(fault['loc']).replace('_', '-')}: {_sentence(fault)}" for fault in error.errors())
        raise UsageError(f"the load test '{scenario.name}' cannot run like that", details=faults) from None


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


def _read(path: Path) -> Mapping[str, Any]:
    reader = YAML(typ="rt", pure=True)
    try:
        raw = reader.load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path} is not valid YAML", details=(f"{path}:{line}: {(error.problem or 'broken').splitlines()[0]}",)) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid YAML", details=(f"{path}: {str(error).splitlines()[0]}",)) from None
    if not isinstance(raw, Mapping):
        raise SpecError(f"{path} describes no load test", details=(f"{path}:1: expected keys such as name, concurrency and prompts",))
    return raw


def _checked(path: Path, raw: Mapping[str, Any]) -> Scenario:
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        faults = sorted((_line_of(raw, fault["loc"]), _key(fault["loc"]), _sentence(fault)) for fault in error.errors())
        lines = tuple(f"{path}:{line}: {f'{key}: ' if key else ''}{sentence}" for line, key, sentence in faults)
        number = "a fault" if len(lines) == 1 else f"{len(lines)} faults"
        raise SpecError(f"the load test {path} has {number}", details=lines) from None


def _sentence(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(str(fault["loc"][-1]), Scenario.model_fields, n=1)
        return f"unknown key{f', did you mean {near[0]}?' if near else ''}"
    if fault["type"] == "missing":
        return "is missing"
    message: str = fault["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _line_of(raw: Any, location: tuple[int | str, ...]) -> int:
    """The line of a key or item; of the nearest one around it when it is missing."""
    line = 1
    for part in location:
        if not isinstance(raw, CommentedBase):
            break
        try:
            line = (raw.lc.key(part) if isinstance(raw, Mapping) else raw.lc.item(part))[0] + 1  # type: ignore[no-untyped-call]
            raw = raw[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            break
    return line

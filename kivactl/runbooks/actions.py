"""What a step can do: a name, typed parameters, a function. A new procedure needs no new code, a new action does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kivactl.flows import operate
from kivactl.flows.deploy import Deployment
from kivactl.plan import Outcome


class Params(BaseModel):
    """Parameters of an action; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParams(Params):
    """For actions that take none."""


class AnswerParams(Params):
    """A question to the platform."""

    prompt: str = "Hello"
    max_tokens: int = Field(default=1, ge=1, le=4096)


@dataclass(frozen=True, slots=True)
class Action:
    """Something a step can do.

    Attributes:
        params: Type of its parameters.
        act: Does it, and yields what happens.
        destructive: Whether it takes something away that a plan must point out.
    """

    params: type[Params]
    act: Callable[[Deployment, Any], Iterator[Outcome]]
    destructive: bool = False


def _answer(deployment: Deployment, params: AnswerParams) -> Iterator[Outcome]:
    return operate.answer(deployment, params.prompt, params.max_tokens)


ACTIONS: Mapping[str, Action] = {
    "platform.start": Action(NoParams, lambda deployment, _: operate.start(deployment)),
    "platform.stop": Action(NoParams, lambda deployment, _: operate.stop(deployment), destructive=True),
    "platform.answer": Action(AnswerParams, _answer),
    "platform.nothing-left": Action(NoParams, lambda deployment, _: operate.nothing_left(deployment)),
}
"""Every action by the name that runbooks use."""

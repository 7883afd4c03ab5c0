"""The platform as a whole: start, stop, ask, look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from kivactl.flows import operate
from kivactl.plan import Outcome
from kivactl.runbooks.actions.action import ANYWHERE, Action, NoParams, Params, Probe, Site


class AnswerParams(Params):
    """A question to the platform."""

    prompt: str = "Hello"
    max_tokens: int = Field(default=1, ge=1, le=4096)


def _answer(site: Site, params: AnswerParams) -> Iterator[Outcome]:
    return operate.answer(site.deployment, params.prompt, params.max_tokens)


ACTIONS: Mapping[str, Action] = {
    "platform.start": Action(NoParams, lambda site, _: operate.start(site.deployment), "Starts what was deployed, as it was deployed.", targets=ANYWHERE),
    "platform.stop": Action(
        NoParams, lambda site, _: operate.stop(site.deployment), "Finishes the requests in work and stops every process.", destructive=True, targets=ANYWHERE
    ),
    "platform.answer": Action(AnswerParams, _answer, "Asks the platform as a client does: TLS, a token, the gateway.", targets=ANYWHERE),
    "platform.nothing-left": Action(
        NoParams, lambda site, _: operate.nothing_left(site.deployment), "Checks that no process and no port is left.", targets=ANYWHERE
    ),
}
PROBES: Mapping[str, Probe] = {}

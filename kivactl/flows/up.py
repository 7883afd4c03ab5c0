"""`up`: provision, deploy, a first answer and a short load test, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

from kivactl.flows import tokens
from kivactl.flows.chat import ask
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.flows.measure import measure
from kivactl.flows.provision import apply_provision, plan_provision, provisioned
from kivactl.loadtest.catalogue import Changes
from kivactl.plan import Outcome, Plan
from kivactl.stack.endpoint import Endpoint

Apply = Callable[[Plan], Iterator[Outcome]]


def stages(deployment: Deployment) -> Iterator[tuple[Plan, Apply]]:
    """The plans in order, each made when the one before is done, and what applies it."""
    where = (deployment.platform, deployment.loaded.folder, deployment.layout)
    # Ansible needs seconds even to find nothing to do; files that are there and whole need none.
    if not provisioned(deployment.layout, deployment.platform):
        yield plan_provision(*where), lambda _: apply_provision(*where)
    yield plan_deploy(deployment), lambda plan: apply_deploy(deployment, plan)


def first_answer(deployment: Deployment, question: str) -> str:
    """The platform's answer to a question."""
    return "".join(ask(deployment, question, max_tokens=64)).strip()


def short_load(deployment: Deployment) -> Iterator[Outcome]:
    """A few seconds of load, for a first look."""
    return measure(deployment, "smoke", Changes(duration="8s"))


def client_for(deployment: Deployment) -> Endpoint:
    """The endpoint with a token for the first tenant's clients."""
    token, _ = tokens.issue(deployment, deployment.platform.gateway.tenants[0].name, name="up", lifetime=timedelta(days=90))
    return replace(endpoint_for(deployment), token=token)

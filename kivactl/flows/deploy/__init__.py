"""`deploy`: from the spec to a running platform, verified by a token generated through the gateway.

What every target has in common is here: the plan's basis, the lock, the refusal when the world moved meanwhile, the journal. The rest is in a
module for each target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kivactl.errors import PreconditionError
from kivactl.flows.deploy import local
from kivactl.flows.deployment import Deployment
from kivactl.journal import Journal, run_name
from kivactl.plan import Outcome, Plan, digest
from kivactl.targets.lock import held


def plan_deploy(deployment: Deployment) -> Plan:
    """What a deploy would change; reads only.

    Raises:
        PreconditionError: Something is missing first, or what is wanted cannot fit.
    """
    platform = deployment.platform
    plan = local.plan(deployment, f"deploy {platform.name} on {platform.target}")
    return replace(plan, basis=digest([plan.basis, deployment.loaded.digest]))


def apply_deploy(deployment: Deployment, plan: Plan) -> Iterator[Outcome]:
    """Do what the plan says.

    Raises:
        PreconditionError: Another command holds the lock, or spec or platform changed since the plan was made.
        ToolError: A process dies at its start.
        NotReadyError: Something did not become ready in time.
    """
    layout = deployment.layout
    with held(layout.lock, "deploy"):
        if deployment.reload().digest != deployment.loaded.digest:
            raise PreconditionError("the spec changed since the plan was made", "kivactl deploy")
        if plan_deploy(deployment).basis != plan.basis:
            raise PreconditionError("the platform changed since the plan was made", "kivactl deploy")
        journal = Journal(layout.journal, run_name("deploy"), {"plan": plan.as_dict(), "spec": deployment.loaded.digest})
        with journal:
            yield from journal.record(local.steps(deployment))

"""What the modes of `kivactl provision` share out: plan, ask, do, say what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from kivactl.errors import UsageError

if TYPE_CHECKING:
    from kivactl.cli.output import Sink
    from kivactl.flows.deployment import Deployment
    from kivactl.plan import Outcome, Plan


def provision_this_machine(sink: Sink, deployment: Deployment, *, plan_only: bool, yes: bool) -> None:
    """Make this machine ready."""
    from kivactl.flows.provision import apply_provision, plan_provision

    where = (deployment.platform, deployment.loaded.folder, deployment.layout)
    _apply(sink, plan_provision(*where), lambda: apply_provision(*where), lambda: sink.confirm("Provision this machine?", yes), plan_only=plan_only)
    sink.note("next: kivactl deploy")


def provision_machines(sink: Sink, deployment: Deployment, limit: list[str], *, plan_only: bool, yes: bool) -> None:
    """Make the machines and set them up."""
    from kivactl.flows.provision import apply_infrastructure, plan_infrastructure

    where = (deployment.platform, deployment.loaded.folder, deployment.layout)
    planned = plan_infrastructure(*where, limit=limit, progress=_told(sink))
    question = f"Provision the machines of '{deployment.platform.name}'?"
    _apply(sink, planned.plan, lambda: apply_infrastructure(*where, planned, limit=limit), lambda: sink.confirm(question, yes), plan_only=plan_only)
    sink.note("next: kivactl deploy")


def verify(sink: Sink, deployment: Deployment, limit: list[str]) -> None:
    """Look whether the machines are fit."""
    from kivactl.flows.provision import verify_infrastructure

    outcomes = sink.outcomes(verify_infrastructure(deployment.platform, deployment.loaded.folder, deployment.layout, limit=limit))
    sink.result({"fit": True, "steps": [outcome.as_dict() for outcome in outcomes]}, "every machine is fit")


def destroy(sink: Sink, deployment: Deployment, *, plan_only: bool, confirmed: str | None) -> None:
    """Take the machines away, or what was put on them; only who names the platform does.

    Raises:
        UsageError: The name is another platform's.
    """
    from kivactl.flows.provision import apply_removal, plan_removal

    where = (deployment.platform, deployment.loaded.folder, deployment.layout)
    name = deployment.platform.name
    if confirmed is not None and confirmed != name:
        raise UsageError(f"--confirm {confirmed} is not the name of this platform, which is '{name}'", "kivactl provision --destroy --plan")
    plan = plan_removal(*where, _told(sink))
    _apply(
        sink,
        plan,
        lambda: apply_removal(*where, plan),
        lambda: sink.confirm_by_name(name, "Takes away the machines of", confirmed is not None, way="--confirm NAME"),
        plan_only=plan_only,
    )


def _told(sink: Sink) -> Callable[[Outcome], None]:
    """Tells what is looked at while a plan is made, each thing once."""
    seen: set[str] = set()

    def tell(outcome: Outcome) -> None:
        if outcome.step not in seen:
            seen.add(outcome.step)
            sink.note(outcome.step)

    return tell


def _apply(sink: Sink, plan: Plan, apply: Callable[[], Iterator[Outcome]], confirmed: Callable[[], bool], *, plan_only: bool) -> None:
    sink.plan(plan, result=plan_only)
    if plan_only:
        raise typer.Exit(0 if plan.empty else 2)
    if plan.empty:
        sink.result({"changed": False})
        raise typer.Exit
    if not confirmed():
        raise typer.Exit(130)
    outcomes = sink.outcomes(apply())
    sink.result({"changed": True, "steps": [outcome.as_dict() for outcome in outcomes]})

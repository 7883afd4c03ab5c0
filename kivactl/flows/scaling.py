"""More or fewer replicas: the spec says so, and then it is made so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kivactl.errors import PreconditionError
from kivactl.flows.chat import known
from kivactl.flows.deploy import apply_deploy, plan_deploy
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.spec.edit import edit_for
from kivactl.spec.platform import Platform


def scale(deployment: Deployment, model: str, count: int) -> Iterator[Outcome]:
    """Let a model have so many replicas.

    Args:
        deployment: The platform.
        model: Of the spec.
        count: 1..64.

    Raises:
        UsageError: The spec has no such model.
        SpecError: The spec cannot be changed by a machine.
        PreconditionError: The machine or the cluster has no room for it, or its replicas come and go by load; nothing is changed then.
        KivaError: As `apply_deploy`.
    """
    platform = deployment.platform
    known("model", model, [one.name for one in platform.models])
    if refusal := scaled_by_load(platform, model):
        raise PreconditionError(refusal, "change `kubernetes.autoscale` of the model in kiva.yaml, then: kivactl deploy")
    edit = edit_for(deployment.loaded.files, {("models", model, "replicas"): count})
    if not edit.empty:
        models = tuple(one.model_copy(update={"replicas": count}) if one.name == model else one for one in platform.models)
        coming = replace(deployment.loaded, platform=platform.model_copy(update={"models": models}), digest=edit.digest)
        plan_deploy(replace(deployment, loaded=coming))
        yield Outcome("spec", Status.STARTED, f"writing {count} as the replicas of '{model}'", data={"spec": edit.digest})
        edit.write()
        yield Outcome("spec", Status.DONE, f"{' and '.join(path.name for path in edit.texts)} says {count} replicas of '{model}'")
    yield from deploy(replace(deployment, loaded=deployment.reload()))


def scaled_by_load(platform: Platform, model: str) -> str:
    """Why nobody but the cluster's autoscaler sets a model's replicas; empty when somebody does."""
    scale = next((one.kubernetes.autoscale for one in platform.models if one.name == model), None) if platform.target == "kubernetes" else None
    return "" if scale is None else f"the replicas of '{model}' come and go by load, {scale.min} to {scale.max} of them"


def deploy(deployment: Deployment) -> Iterator[Outcome]:
    """Make the platform what its spec says.

    Raises:
        KivaError: As `plan_deploy` and `apply_deploy`.
    """
    plan = plan_deploy(deployment)
    if plan.empty:
        yield Outcome("deploy", Status.SKIPPED, "nothing to change")
    else:
        yield from apply_deploy(deployment, plan)

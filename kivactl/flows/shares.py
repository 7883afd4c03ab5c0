"""Which version of a model answers what share of an alias' requests: changed while the platform runs, written into the spec at the end.

None of these takes the platform's lock; who composes them (a runbook) holds it over the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.chat import known
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.spec.edit import edit_for
from kivactl.spec.platform import Alias, Platform
from kivactl.targets.routing import counts, in_order, routes_with
from kivactl.targets.steering import Shares

WHOLE = 100


def current(deployment: Deployment, alias: str) -> dict[str, int]:
    """The weights of an alias' models now: as a rollout under way holds them, else the spec's.

    Raises:
        UsageError: The spec has no such alias.
        PreconditionError: What a rollout holds is unreadable.
    """
    spec = _alias(deployment, alias).models
    held = deployment.target.gateway.held_shares().get(alias)
    return in_order(spec, held) if held and counts(held, _models(deployment)) else dict(spec)


def percentages(shares: Mapping[str, int]) -> dict[str, int]:
    """Weights as whole percentages that add up to 100."""
    return _split(shares, WHOLE)


def shares_for(spec: Mapping[str, int], model: str, percent: int) -> dict[str, int]:
    """The shares when one model gets so much: the others keep their proportions.

    Args:
        spec: Weights to begin with.
        model: Who gets it; need not have been among them.
        percent: 0..100.

    Raises:
        UsageError: There is no other model for the rest.
    """
    others = {name: weight for name, weight in spec.items() if name != model}
    if percent < WHOLE and not others:
        raise UsageError(f"'{model}' is the only model: nothing can take the other {WHOLE - percent} percent", "add a version to `aliases` in kiva.yaml")
    if not any(others.values()):
        others = dict.fromkeys(others, 1)
    split = _split(others, WHOLE - percent) if others else {}
    return in_order(spec, {**split, model: percent})


def set_shares(deployment: Deployment, alias: str, shares: Mapping[str, int]) -> Iterator[Outcome]:
    """Hold shares for an alias against the spec, and give the requests out accordingly; the spec's own shares end the holding.

    Args:
        deployment: The platform.
        alias: Of the spec.
        shares: Weights by model; models left out get none.

    Raises:
        UsageError: The spec has no such alias or model, or no model would get anything.
        PreconditionError: A model that is to get requests is not deployed, or all its replicas are in maintenance.
        ToolError: The gateway refuses the change.
        NotReadyError: It does not take the change over in time.
    """
    gateway = deployment.target.gateway
    spec = _alias(deployment, alias).models
    wanted = in_order(spec, {known("model", model, [one.name for one in deployment.platform.models]): weight for model, weight in shares.items()})
    if not any(wanted.values()):
        raise UsageError(f"no model would answer for '{alias}'", "give at least one of them a share")
    gateway.refuse_unserved([model for model, weight in wanted.items() if weight])
    step = f"shares {alias}"
    yield Outcome(step, Status.STARTED, shown(wanted))
    held = gateway.held_shares()
    before = dict(held)
    if wanted == dict(spec):
        held.pop(alias, None)
    else:
        held[alias] = wanted
    deployed = gateway.routes()
    if deployed is None:
        raise PreconditionError("nothing is deployed here", "kivactl deploy")
    routes = routes_with(deployed, deployment.platform, held, alias)
    if routes is None:
        raise PreconditionError(f"the alias '{alias}' is not deployed", "kivactl deploy")
    if held != before:
        gateway.hold_shares(held)
    told = gateway.route(routes)
    note = told.sentence("the gateway goes by them") if told.note else ""
    yield Outcome(step, Status.DONE, (shown(wanted) if told.changed else f"{shown(wanted)} as before") + note)


def settle(deployment: Deployment, alias: str, shares: Mapping[str, int] | None = None) -> Iterator[Outcome]:
    """End a rollout: the shares stand in the spec, and nothing is held against it any more.

    Args:
        deployment: The platform.
        alias: Of the spec.
        shares: Weights by model; those of now when absent.

    Raises:
        SpecError: The spec cannot be changed by a machine.
        KivaError: As `set_shares`.
    """
    gateway, files = deployment.target.gateway, deployment.loaded.files
    wanted = in_order(_alias(deployment, alias).models, shares if shares is not None else current(deployment, alias))
    edit = edit_for(files, {("aliases", alias, "models", model): weight for model, weight in wanted.items()})
    if not edit.empty:
        yield Outcome("spec", Status.STARTED, f"writing the shares of '{alias}'", data={"spec": edit.digest})
    yield from set_shares(deployment, alias, wanted)
    edit.write()
    held = gateway.held_shares()
    if held.pop(alias, None) is not None:
        gateway.hold_shares(held)
    if not edit.empty:
        # What runs is what the changed spec says.
        gateway.follow_spec(deployment.loaded.digest, edit.digest)
    changed = replace(deployment, loaded=deployment.reload())
    routes = routes_with(gateway.routes() or {}, changed.platform, held, alias)
    if routes is not None:
        gateway.route(routes)
    if not edit.empty:
        yield Outcome("spec", Status.DONE, f"{' and '.join(path.name for path in edit.texts)} says {shown(wanted)} for '{alias}'")


def shown(shares: Mapping[str, int]) -> str:
    """Shares as people read them: `v1 90, v2 10`."""
    return ", ".join(f"{model} {weight}" for model, weight in shares.items())


def still_held(held: Shares, platform: Platform) -> Shares:
    """Of the shares that rollouts hold those that mean anything for the spec."""
    aliases, models = {alias.name for alias in platform.aliases}, {model.name for model in platform.models}
    return {alias: shares for alias, shares in held.items() if alias in aliases and counts(shares, models)}


def notes_on(held: Shares, platform: Platform) -> Iterator[str]:
    """What a deploy does with the shares that rollouts hold against the spec."""
    kept = still_held(held, platform)
    for alias, shares in held.items():
        if alias in kept:
            yield f"a rollout holds the shares of '{alias}': {shown(shares)}"
        else:
            yield f"the shares that a rollout holds of '{alias}' are dropped: the spec no longer has the alias or one of its models"


def _alias(deployment: Deployment, name: str) -> Alias:
    aliases = {alias.name: alias for alias in deployment.platform.aliases}
    return aliases[known("alias", name, list(aliases))]


def _models(deployment: Deployment) -> set[str]:
    return {model.name for model in deployment.platform.models}


def _split(weights: Mapping[str, int], whole: int) -> dict[str, int]:
    """Whole numbers in the proportion of weights that add up to a whole; what rounding leaves goes to the largest remainders."""
    total = sum(weights.values())
    exact = {name: whole * weight / total for name, weight in weights.items()}
    parts = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[: whole - sum(parts.values())]:
        parts[name] += 1
    return parts

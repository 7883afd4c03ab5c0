"""What the shell offers for a word: names of the spec and ids of the register. Says nothing when it cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kivactl.errors import KivaError

if TYPE_CHECKING:
    from kivactl.flows.deployment import Deployment
    from kivactl.runbooks.bound import Bound
    from kivactl.spec.load import Loaded

MEANT = "kivactl.runbook"
"""Where a context keeps the runbook that its line names: a line that is not finished yet has no arguments."""


def tenants(incomplete: str) -> list[str]:
    """Tenants of the spec."""
    deployment = _deployment()
    names = [] if deployment is None else [tenant.name for tenant in deployment.platform.gateway.tenants]
    return [name for name in names if name.startswith(incomplete)]


def token_ids(incomplete: str) -> list[tuple[str, str]]:
    """Ids of valid tokens, each with whose it is."""
    from kivactl.flows.tokens import State, listing

    deployment = _deployment()
    try:
        listed = [] if deployment is None else listing(deployment)
    except (KivaError, OSError):
        return []
    valid = [token.entry for token in listed if token.state in {State.VALID, State.UNKNOWN_TENANT}]
    return [(entry.id, f"{entry.tenant}: {entry.name}") for entry in valid if entry.id.startswith(incomplete)]


def runbooks(incomplete: str) -> list[tuple[str, str]]:
    """Runbooks, each with its title."""
    from kivactl.runbooks.listing import listing

    return [(row.name, row.title) for row in listing(_loaded(), "en") if row.name.startswith(incomplete)]


def scenario_names(incomplete: str) -> list[tuple[str, str]]:
    """Load tests of one's own and those that come along, each with what it is for."""
    from kivactl.cli.options import Common
    from kivactl.cli.site import own_scenarios
    from kivactl.loadtest.catalogue import described

    return [(name, about) for name, about in described(own_scenarios(Common())).items() if name.startswith(incomplete)]


def loadtest_runs(incomplete: str) -> list[str]:
    """Load tests there were, the newest first, and `latest`."""
    from kivactl.cli.options import Common
    from kivactl.cli.site import loadtests_of
    from kivactl.flows.loadtest_runs import LATEST, runs_in

    names = [run.name for run in runs_in(loadtests_of(Common()))]
    return [name for name in (LATEST, *names) if names and name.startswith(incomplete)]


def run_names(incomplete: str) -> list[str]:
    """Runs, the newest first, and `latest`."""
    from kivactl.cli.options import Common
    from kivactl.cli.site import layout_of
    from kivactl.runbooks.runs import history

    try:
        _, layout = layout_of(Common())
        names = [record.run for record in history(layout)]
    except (KivaError, OSError):
        return []
    return [name for name in ("latest", *names) if names and name.startswith(incomplete)]


def backup_ids(incomplete: str) -> list[tuple[str, str]]:
    """`latest`, and the backups that were tried on this machine, the newest first: nobody waits for a repository while typing."""
    from kivactl.cli.options import Common
    from kivactl.cli.site import layout_of
    from kivactl.flows.backup.showing import SHORT, tried_of

    try:
        _, layout = layout_of(Common())
    except (KivaError, OSError):
        return []
    tried = [(name, one) for name, one in reversed(tried_of(layout).items()) if name.startswith(incomplete)]
    ids = [(name[: max(SHORT, len(incomplete))], f"tried {one.at:%Y-%m-%d %H:%M}" if one.at else "tried") for name, one in tried]
    return [(name, said) for name, said in (("latest", "the newest"), *ids) if name.startswith(incomplete)]


def steps(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Steps of the runbook that the line names, each with its title."""
    bound = _bound(ctx)
    listed = () if bound is None else bound.steps
    return [(step.name, step.title("en")) for step in listed if step.name.startswith(incomplete)]


def assignments(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """`PARAMETER=` of the runbook that the line names; behind the sign its values, where they are known."""
    from kivactl.runbooks.format import ParameterType
    from kivactl.runbooks.parameters import NAMED, valid_names

    bound = _bound(ctx)
    declared = {} if bound is None else bound.runbook.parameters
    name, sign, _ = incomplete.partition("=")
    if not sign:
        return [(f"{key}=", parameter.description.en) for key, parameter in declared.items() if key.startswith(incomplete)]
    parameter = declared.get(name)
    if parameter is None:
        return []
    loaded, values = _loaded(), list(parameter.choices or ())
    if parameter.type is ParameterType.FLAG:
        values = ["true", "false"]
    elif parameter.type in NAMED and loaded is not None:
        values = valid_names(parameter.type, loaded.platform)
    return [(f"{name}={value}", "") for value in values if f"{name}={value}".startswith(incomplete)]


def _bound(ctx: typer.Context) -> Bound | None:
    from kivactl.runbooks.binding import bind

    try:
        return bind(str(ctx.params.get("name") or ctx.meta.get(MEANT) or ""), _loaded())
    except (KivaError, OSError):
        return None


def _loaded() -> Loaded | None:
    from kivactl.cli.options import Common

    try:
        return Common().load()
    except (KivaError, OSError):
        return None


def _deployment() -> Deployment | None:
    from kivactl.cli.options import Common
    from kivactl.cli.site import deployment_of

    try:
        return deployment_of(Common())
    except (KivaError, OSError):
        return None

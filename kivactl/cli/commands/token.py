"""`kivactl token issue`, `list`, `revoke` and `rotate-keys`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kivactl.cli.completion import tenants, token_ids
from kivactl.cli.durations import NEVER, duration_of, lifetime_of
from kivactl.cli.group import group
from kivactl.cli.options import common
from kivactl.cli.site import deployment_of

if TYPE_CHECKING:
    from kivactl.flows.tokens import Listed

app = group("Issue, list and revoke the tokens of tenants.")

_STYLES = {"valid": "green", "expired": "dim", "revoked": "dim", "unknown tenant": "yellow"}


@app.command()
def issue(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="A tenant of the spec.", autocompletion=tenants)],
    name: Annotated[str, typer.Option("--name", help="What the token is for.")] = "client",
    expires: Annotated[str, typer.Option("--expires", help="When it ends, such as 12h or 90d, or never.")] = "90d",
) -> None:
    """Print a new token. The platform keeps no copy: it is shown this once."""
    from kivactl.flows import tokens

    options = common(context)
    lifetime = lifetime_of("--expires", expires)
    deployment = deployment_of(options)
    token, entry = tokens.issue(deployment, tenant, name=name, lifetime=lifetime)
    facts = {"id": entry.id, "tenant": tenant, "name": name, "expires_at": _iso(entry.expires_at), "endpoint": deployment.endpoint}
    options.sink.result({**facts, "token": token.reveal()}, token.reveal())
    options.sink.note(f"token {entry.id} of '{tenant}', {_until(entry.expires_at)}: it is shown this once; end it with: kivactl token revoke {entry.id}")


@app.command(name="list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.", autocompletion=tenants)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that ended or were revoked.")] = False,
) -> None:
    """Show which tokens there are: whose, what for, until when; never the tokens themselves."""
    from kivactl.flows.tokens import State, listing

    options = common(context)
    listed = [token for token in listing(deployment_of(options), tenant=tenant) if everything or token.state in {State.VALID, State.UNKNOWN_TENANT}]
    rows = [(token.entry.id, token.entry.tenant, token.entry.name, token.state, f"{token.entry.issued_at:%Y-%m-%d}", _day(token.ends_at)) for token in listed]
    options.sink.result(
        {"tokens": [_facts(token) for token in listed]},
        lambda: options.sink.table(("ID", "TENANT", "NAME", "STATE", "ISSUED", "ENDS"), rows, _STYLES),
    )


@app.command()
def revoke(
    context: typer.Context,
    token_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A token's id, or its beginning.", autocompletion=token_ids)] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="All tokens of this tenant.", autocompletion=tenants)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the tenant's tokens only those with this name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End tokens before their time: the running gateway refuses them within a moment."""
    from kivactl.flows.tokens import Chosen, apply_revoke, plan_revoke
    from kivactl.flows.trust import renew_announcement

    options = common(context)
    deployment = deployment_of(options)
    plan, ids = plan_revoke(deployment, Chosen(token_id, tenant, name))
    options.sink.plan(plan)
    if plan.empty:
        # A command that was cut off may have written them down without the gateway knowing.
        options.sink.outcomes(renew_announcement(deployment))
        options.sink.result({"revoked": []})
        return
    if not options.sink.confirm("Revoke? Who uses them gets 401 from now on.", yes):
        raise typer.Exit(130)
    options.sink.outcomes(apply_revoke(deployment, ids))
    options.sink.result({"revoked": sorted(ids)})


@app.command(name="rotate-keys")
def rotate_keys(
    context: typer.Context,
    overlap: Annotated[str | None, typer.Option("--overlap", metavar="DURATION", help="Accept tokens of the old key for this long only.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Accept no token of an old key any more: the key may be known to others.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Sign tokens with a new key. Tokens of the old one stay good until they end, unless told otherwise."""
    from kivactl.flows.rotation import apply_rotation, plan_rotation

    options = common(context)
    patience = None if overlap is None else duration_of("--overlap", overlap)
    deployment = deployment_of(options)
    options.sink.plan(plan_rotation(deployment, overlap=patience, at_once=now))
    if not options.sink.confirm("Rotate the signing key?", yes):
        raise typer.Exit(130)
    outcomes = options.sink.outcomes(apply_rotation(deployment, overlap=patience, at_once=now))
    options.sink.result(outcomes[-1].data)


def _facts(token: Listed) -> dict[str, Any]:
    entry = token.entry
    return {
        "id": entry.id,
        "tenant": entry.tenant,
        "name": entry.name,
        "state": token.state.value,
        "issued_at": _iso(entry.issued_at),
        "expires_at": _iso(entry.expires_at),
        "ends_at": _iso(token.ends_at),
        "revoked_at": _iso(entry.revoked_at),
        "key": entry.key,
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")


def _day(time: datetime | None) -> str:
    return NEVER if time is None else f"{time:%Y-%m-%d}"


def _until(time: datetime | None) -> str:
    return "without end" if time is None else f"valid until {time:%Y-%m-%d %H:%M} UTC"

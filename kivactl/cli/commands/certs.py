"""`kivactl certs show`, `issue` and `renew`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kivactl.cli.group import group
from kivactl.cli.options import Common, common
from kivactl.cli.site import deployment_of
from kivactl.stack.certificates import SERVER_DAYS

if TYPE_CHECKING:
    from kivactl.flows.certs import Shown

app = group("Show and renew the certificates.")

_STYLES = {"ok": "green", "soon": "yellow", "expired": "red", "not yet valid": "red"}


@app.command()
def show(context: typer.Context) -> None:
    """Show every certificate: names, end, days left. Exit code 6 when one is expired or does not work."""
    from kivactl.flows.certs import shown

    options = common(context)
    found = shown(deployment_of(options))
    now = datetime.now(UTC)
    rows = [(entry.role, _state(entry), _left(entry, now), _end(entry), _remark(entry)) for entry in found]
    options.sink.result(
        {"certificates": [_facts(entry, now) for entry in found]},
        lambda: options.sink.table(("CERTIFICATE", "STATE", "DAYS", "ENDS", ""), rows, _STYLES),
    )
    raise typer.Exit(0 if all(entry.good for entry in found) else 6)


@app.command()
def issue(
    context: typer.Context,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is valid.")] = SERVER_DAYS,
    new_authority: Annotated[bool, typer.Option("--new-authority", help="Begin anew with another authority; clients have to trust it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give the gateway a new certificate, for the names that the spec has now; a running one shows it at once."""
    _replace(common(context), only_if_due=False, days=days, new_authority=new_authority, yes=yes)


@app.command()
def renew(
    context: typer.Context,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long the new one is valid.")] = SERVER_DAYS,
    force: Annotated[bool, typer.Option("--force", help="Also when the present one is still good.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give the gateway a new certificate when the present one ends within 30 days or no longer fits."""
    _replace(common(context), only_if_due=not force, days=days, new_authority=False, yes=yes)


def _replace(options: Common, *, only_if_due: bool, days: int, new_authority: bool, yes: bool) -> None:
    from kivactl.flows.certs import apply_certificate, plan_certificate

    deployment = deployment_of(options)
    plan = plan_certificate(deployment, only_if_due=only_if_due, days=days, new_authority=new_authority)
    options.sink.plan(plan)
    if plan.empty:
        options.sink.result({"changed": False})
        return
    if not options.sink.confirm("Replace the certificate?", yes):
        raise typer.Exit(130)
    outcomes = options.sink.outcomes(apply_certificate(deployment, days=days, new_authority=new_authority))
    options.sink.result({"changed": True, **outcomes[-1].data})


def _state(entry: Shown) -> str:
    return entry.fault or str(entry.validity)


def _left(entry: Shown, now: datetime) -> int | None:
    return None if entry.certificate is None else (entry.certificate.not_after - now).days


def _end(entry: Shown) -> str:
    return "" if entry.certificate is None else f"{entry.certificate.not_after:%Y-%m-%d}"


def _remark(entry: Shown) -> str:
    names = ", ".join(entry.certificate.names or (entry.certificate.subject,)) if entry.certificate else str(entry.path)
    return f"{names} (the gateway still shows another)" if entry.served is False else names


def _facts(entry: Shown, now: datetime) -> dict[str, Any]:
    facts: dict[str, Any] = {"role": entry.role, "file": str(entry.path), "state": _state(entry), "served": entry.served}
    if entry.certificate is None:
        return facts
    certificate = entry.certificate
    return {
        **facts,
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": list(certificate.names),
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "days_left": _left(entry, now),
        "serial": f"{certificate.serial:x}",
        "fingerprint": certificate.fingerprint,
    }

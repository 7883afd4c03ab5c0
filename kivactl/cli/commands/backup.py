"""`kivactl backup list`, `show` and `verify`; backups are made by `kivactl runbook backup`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kivactl.cli.completion import backup_ids
from kivactl.cli.group import group
from kivactl.cli.options import Common, common
from kivactl.cli.runbook_options import As, Lang, Language, Yes, spec_if_any
from kivactl.cli.site import deployment_of

if TYPE_CHECKING:
    from kivactl.flows.backup.showing import Listed, Listing, Shown
    from kivactl.flows.deployment import Deployment
    from kivactl.flows.restore.manifest import Manifest

app = group("List, show and verify the backups. A new one: kivactl runbook backup")

_VERIFICATION = "backup-verification"
_COLUMNS = ("ID", "MADE (UTC)", "AGE", "VERIFIED", "FORMAT")
_NO = "no"


class Engines(StrEnum):
    """Whether engines are started too; the values are those of `flows.restore.trial.Engines`, which loads only for a trial."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


Repository = Annotated[
    str | None,
    typer.Option("--repository", metavar="WHERE", help="Another repository than the spec's: a folder, s3:https://HOST/BUCKET/PATH or sftp:USER@HOST:/PATH."),
]
PasswordFile = Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="File with its passphrase.")]
Credentials = Annotated[Path | None, typer.Option("--credentials", metavar="FILE", help="File of NAME=VALUE lines for its storage.")]


@app.command(name="list")
def list_(context: typer.Context, repository: Repository = None, password_file: PasswordFile = None, credentials: Credentials = None) -> None:
    """Show the platform's backups, the newest first; without a kiva.yaml all that a repository holds."""
    from kivactl.flows.backup.showing import Where, listing

    options, now = common(context), datetime.now(UTC)
    found = listing(_deployment_if_any(options), Where.from_here(repository, password_file, credentials))
    options.sink.result(found.as_dict(now), lambda: _draw_list(options, found, now))
    for warning in found.warnings(now):
        options.sink.warn(warning)


@app.command()
def show(
    context: typer.Context,
    backup: Annotated[str, typer.Argument(metavar="ID", help="A backup's id, its beginning, or `latest`.", autocompletion=backup_ids)] = "latest",
    repository: Repository = None,
    password_file: PasswordFile = None,
    credentials: Credentials = None,
) -> None:
    """Show what is in a backup: spec, files, ledger, keys, tokens, models. Only its list of contents is read."""
    from kivactl.flows.backup.showing import Where, shown

    options, now = common(context), datetime.now(UTC)
    found = shown(_deployment_if_any(options), Where.from_here(repository, password_file, credentials), backup)
    options.sink.result(found.as_dict(now), lambda: _draw(options, found, now))


@app.command()
def verify(
    context: typer.Context,
    backup: Annotated[str | None, typer.Argument(metavar="[ID]", help="A backup's id, its beginning, or `latest`.", autocompletion=backup_ids)] = None,
    engines: Annotated[Engines, typer.Option("--engines", help="Start engines too; auto: where they fit beside what runs.")] = Engines.AUTO,
    repository: Repository = None,
    password_file: PasswordFile = None,
    credentials: Credentials = None,
    yes: Yes = False,
    operator: As = None,
    language: Lang = Language.EN,
) -> None:
    """Try a backup: fetch it, check every hash, start a platform from it in an empty place, ask it; in a cluster, try it out on the API server.

    The running platform is not touched.
    """
    from kivactl.cli.runbook_running import begin
    from kivactl.flows.backup.showing import Where
    from kivactl.runbooks.approvals import person_named
    from kivactl.runbooks.engine import Order

    options = common(context)
    given = {"engines": engines.value, **Where.from_here(repository, password_file, credentials).as_parameters()}
    if backup is not None:
        given["snapshot"] = backup
    order = Order(person_named(operator), language=language.value, ask=options.sink.ask if options.sink.asks else None)
    begin(options, _VERIFICATION, given, lambda _: order, plan_only=False, yes=yes)


def _deployment_if_any(options: Common) -> Deployment | None:
    """At a disaster there is no spec: it lies in the backup."""
    return None if spec_if_any(options) is None else deployment_of(options)


def _draw_list(options: Common, found: Listing, now: datetime) -> None:
    if not found.backups:
        whose = f"of '{found.platform}'" if found.platform else "of kivactl"
        others = f", but of: {', '.join(found.others)}" if found.others else ""
        options.sink.text(f"{found.repository} holds no backup {whose}{others}. Make one: kivactl runbook backup")
        return
    columns = _COLUMNS if found.platform else (*_COLUMNS, "PLATFORM")
    options.sink.table(columns, [_row(one, now)[: len(columns)] for one in found.backups], {_NO: "yellow"})


def _row(one: Listed, now: datetime) -> tuple[Any, ...]:
    from kivactl.flows.backup.showing import SHORT, age_text

    return (one.id[:SHORT], f"{one.made_at:%Y-%m-%d %H:%M:%S}", age_text(one.age_s(now)), _verified(one), one.format, one.platform)


def _verified(one: Listed) -> str:
    if one.tried is None:
        return "yes" if one.verified else _NO
    when = f"tried {one.tried.at:%Y-%m-%d %H:%M}" if one.tried.at else "tried"
    return f"{when}: {one.tried.started}" if one.tried.started else when


def _draw(options: Common, found: Shown, now: datetime) -> None:
    from kivactl.flows.backup.showing import SHORT, age_text
    from kivactl.spec.quantities import format_bytes

    backup, told = found.backup, found.manifest
    facts = [
        ("backup", f"{backup.id[:SHORT]}, {told.made_at:%Y-%m-%d %H:%M:%S} UTC, {age_text(backup.age_s(now))} ago"),
        ("verified", _verified(backup) if backup.verified else f"no; try it: kivactl backup verify {backup.id[:SHORT]}"),
        ("platform", told.platform),
        ("made by", f"kivactl {told.kivactl}, of {told.state}"),
        ("spec", ", ".join(told.spec_files) + (f" (--env {told.environment})" if told.environment else "")),
        ("files", f"{len(told.files)}, {format_bytes(found.size_bytes)}"),
        ("ledger", _ledger(told)),
        ("keys", f"{told.keys.signing} signs; retired: {', '.join(told.keys.retired) or 'none'}"),
        ("tokens", f"{told.tokens.live} live, {told.tokens.revoked} revoked"),
        ("external", ", ".join(one.path for one in told.external) or "none"),
    ]
    for label, text in facts:
        options.sink.text(f"{label:<9} {text}")
    options.sink.text("")
    rows = [(model.name, "files" if model.with_content else "source and hash", model.identity or "not prepared", model.source) for model in told.models]
    options.sink.table(("MODEL", "IN IT", "HASH", "SOURCE"), rows)


def _ledger(told: Manifest) -> str:
    if told.ledger is None:
        return "none"
    prompt, cached, answer = (told.ledger.sums.get(f"{name}_tokens", 0) for name in ("prompt", "cached", "completion"))
    return f"{told.ledger.requests} requests; {prompt} prompt tokens ({cached} of them cached), {answer} answer tokens"

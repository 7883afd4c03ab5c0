"""What a spec says of the platform's care: where backups go and how long they are kept, and what runbooks may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kivactl.spec.fields import Name, PositiveDuration, Strict

Count = Annotated[int, Field(strict=True, ge=0, le=10_000)]


def _repository(text: str) -> str:
    kind, colon, rest = text.partition(":")
    if colon and kind in {"s3", "sftp"} and not rest:
        msg = f"'{text}' lacks what follows the colon, such as s3:https://s3.example.com/bucket or sftp:backup@host:/srv/kiva"
        raise ValueError(msg)
    if "@" in rest.partition("@")[0] or (kind == "s3" and "@" in rest):
        msg = "must not hold credentials: they belong into the file that `backup.credentials` names"
        raise ValueError(msg)
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        msg = f"must be an absolute path, not '{text}'"
        raise ValueError(msg)
    return text


class Keep(Strict):
    """Which backups stay when old ones are removed; each rule keeps the newest of its periods."""

    last: Count = Field(default=3, description="This many, however old.")
    daily: Count = Field(default=14, description="The newest of each of this many days.")
    weekly: Count = Field(default=8, description="The newest of each of this many weeks.")
    monthly: Count = Field(default=12, description="The newest of each of this many months.")


class Backup(Strict):
    """Backups of all state: encrypted, incremental, good only after a restore into an empty place."""

    repository: Annotated[str, AfterValidator(_repository)] = Field(
        default=".kiva-backup", min_length=1, description="A folder, `s3:https://HOST/BUCKET/PATH`, or `sftp:USER@HOST:/PATH`."
    )
    password_file: str | None = Field(
        default=None,
        description="File with the passphrase; ~/.config/kivactl/NAME.backup-password when absent, made by the first backup. Keep a copy elsewhere.",
    )
    credentials: str | None = Field(default=None, description="File of NAME=VALUE lines (mode 0600) for the storage, such as AWS_ACCESS_KEY_ID.")
    models: Literal["manifest", "content"] = Field(
        default="manifest", description="Models: only source and hash, or also their files (for machines that cannot fetch them again)."
    )
    every: PositiveDuration = Field(default=86400.0, description="How often a backup is made at least: the most that may be lost (RPO).")
    keep: Keep = Keep()


class Runbooks(Strict):
    """What runbooks may use besides what comes with kivactl."""

    folders: tuple[str, ...] = Field(default=(), description="Folders with runbooks of your own, besides `runbooks` beside this file.")
    commands: tuple[Annotated[str, AfterValidator(_absolute)], ...] = Field(
        default=(), description="Executables that the action `command` may run; absolute paths."
    )
    contacts: dict[Name, str] = Field(default_factory=dict, description="Who fills a role of the runbooks, and how they are reached: `{operator: ...}`.")

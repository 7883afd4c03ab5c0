"""What restic prints, and what it means: backups, figures, and why it failed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kivactl.errors import CheckError, PreconditionError
from kivactl.spec.quantities import format_bytes


class NoRepository(PreconditionError):
    """The storage answers, and there is no repository in it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What restic says when something is wrong, and what it means; in message and hint `{repository}` and groups of the pattern are filled in."""

    pattern: re.Pattern[str]
    kind: type[PreconditionError | CheckError]
    message: str
    hint: str


def _reason(pattern: str, kind: type[PreconditionError | CheckError], message: str, hint: str) -> Reason:
    return Reason(re.compile(pattern, re.IGNORECASE), kind, message, hint)


REASONS = (
    # restic up to 0.16 asks "Is there a repository at the following location?" whatever keeps it from reading the configuration.
    _reason(
        r"unable to open config file: .*(?:no such file or directory|file does not exist|specified (?:key|bucket) does not exist|NoSuchKey|NoSuchBucket)"
        r"|Fatal: repository does not exist",
        NoRepository,
        "there is no backup repository at {repository}",
        "kivactl runbook backup; or name another repository",
    ),
    _reason(
        r"access denied|access key id you provided does not exist|InvalidAccessKeyId|signature we calculated does not match|SignatureDoesNotMatch"
        r"|provided token (?:has expired|is malformed)|ExpiredToken|InvalidToken|403 forbidden",
        PreconditionError,
        "the storage of the repository {repository} refuses the credentials",
        "look into the file that `backup.credentials` in kiva.yaml names, or choose another: --set credentials=FILE",
    ),
    _reason(
        r"permission denied \((?:\w|[-,])*\)|too many authentication failures",
        PreconditionError,
        "the SSH server of the repository {repository} refuses the key of this user",
        "see why: {ssh}",
    ),
    _reason(
        r"host key verification failed|remote host identification has changed",
        PreconditionError,
        "the SSH server of the repository {repository} has a key that is unknown here, or not the one that is known",
        "compare its key with the one that its owner names, then: {ssh}",
    ),
    _reason(
        r"(?P<why>connection refused|no such host|could not resolve hostname|name or service not known|temporary failure in name resolution|no route to host"
        r"|network is unreachable|connection timed out|i/o timeout|tls handshake timeout|connection reset by peer|context deadline exceeded"
        r"|server gave HTTP response to HTTPS client|x509: [^\n]*|reduce your request rate|SlowDown|service unavailable|ServiceUnavailable"
        r"|we encountered an internal error)",
        PreconditionError,
        "the storage of the repository {repository} cannot be reached: {why}",
        "is it up, and its address right? Then run the same command again",
    ),
    _reason(
        r"unable to start the sftp session",
        PreconditionError,
        "the SSH server of the repository {repository} does not begin an SFTP session",
        "see why: {ssh}",
    ),
    _reason(
        r"wrong password or no key found",
        PreconditionError,
        "the passphrase of the repository {repository} is wrong",
        "KIVA_BACKUP_PASSWORD_FILE=FILE, or `backup.password_file` in kiva.yaml",
    ),
    _reason(
        r"(?:no space left on device|disk quota exceeded)",
        PreconditionError,
        "no space left on the disk that holds {place}",
        "free some space, then run the same command again",
    ),
    _reason(
        r"permission denied", PreconditionError, "no permission for {place}", "check the owner of its folder, or let the user that owns it run the same command"
    ),
    _reason(
        r"already locked(?: exclusively)?(?: by (?P<who>[^\n]*))?",
        PreconditionError,
        "the repository {repository} is locked by another restic{who}",
        "wait until it has finished, then run the same command again",
    ),
    _reason(
        r"unsupported repository version",
        PreconditionError,
        "the repository {repository} was made by a newer restic",
        "install a newer restic: apt install restic",
    ),
    _reason(
        r"no matching ID found(?: for prefix \"(?P<what>\w+)\")?",
        PreconditionError,
        "the repository {repository} holds no backup {what}",
        "kivactl backup list",
    ),
    _reason(
        r"not found in snapshot",
        CheckError,
        "a backup in {repository} has not got the files of one: kivactl did not make it, or it is damaged",
        "choose another: kivactl backup list",
    ),
)
"""The first that fits counts."""

DAMAGE = re.compile(
    r"ciphertext verification failed|is damaged|invalid data returned|hash mismatch|does not match id|LoadIndex returned errors|Unmarshal: "
    r"|unable to load index|repository contains errors|zero size, invalid repository|file has been truncated|not found in (?:repository|index)",
    re.IGNORECASE,
)
"""What restic says of a repository that is not as it was written, whatever it was asked to do."""

PLACE = re.compile(
    r"(?:write|mkdir|open|create|sync|fsync|close|rename|truncate|chmod|remove|stat|lstat) (?P<path>/[^\n:]*): (?:no space|disk quota|permission)",
    re.IGNORECASE,
)
_TRACE = re.compile(r"\t|main\.|runtime\.|github\.com/")
"""Begins a line of where in restic's source something was."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A backup in a repository.

    Attributes:
        id: Its name, 64 hexadecimal characters; marking changes it.
        original: The name that it had before it was marked; empty when it never was.
        made_at: When, aware.
        tags: Its marks.
        host: Where it was made.
    """

    id: str
    original: str
    made_at: datetime
    tags: tuple[str, ...]
    host: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup came to.

    Attributes:
        snapshot: Its id; its first 8 characters with restic up to 0.14.
        files: How many files it has.
        total_bytes: Their size.
        added_bytes: What was new to the repository, before compression.
    """

    snapshot: str
    files: int
    total_bytes: int
    added_bytes: int


def sftp_host(repository: str) -> tuple[str, str]:
    """User and host of `sftp:USER@HOST:/PATH` or `sftp://USER@HOST:PORT/PATH`, and the port; empty when it does not say."""
    rest = repository.removeprefix("sftp:")
    if not rest.startswith("//"):
        return rest.partition(":")[0], ""
    match = re.fullmatch(r"(?P<host>(?:[^@/]*@)?(?:\[[^]]*\]|[^:/]*))(?::(?P<port>\d+))?(?:/.*)?", rest[2:])
    return (match["host"].replace("[", "").replace("]", ""), match["port"] or "") if match else (rest, "")


def parse_snapshots(text: str) -> list[Snapshot]:
    """What `restic snapshots --json` prints, the oldest first."""
    return sorted((parse_snapshot(one) for one in json.loads(text or "[]") or []), key=lambda one: (one.made_at, one.id))


def parse_forgotten(text: str) -> int:
    """How many backups `restic forget --json` removed; nothing is printed when none has the tags, and pruning prints text after it."""
    groups: list[dict[str, Any]] = next((json.loads(line) for line in text.splitlines() if line.startswith("[{")), [])
    return sum(len(group.get("remove") or ()) for group in groups)


def said_in(line: str) -> str:
    """A line of `restic backup --json` as a person reads it."""
    data = read_line(line)
    match data.get("message_type"):
        case "error":  # up to 0.14 the system's error as an object, later a message
            error = data.get("error") or {}
            return f"{data.get('item', '')}: {error.get('message') or error.get('Op', 'error')}"
        case "exit_error":
            return str(data.get("message", ""))
        case _:
            return line


def parse_snapshot(data: Mapping[str, Any]) -> Snapshot:
    """One entry of `restic snapshots --json`."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", str(data["time"]))  # nanoseconds are more than Python reads
    return Snapshot(
        str(data["id"]),
        str(data.get("original") or ""),
        datetime.fromisoformat(text).astimezone(UTC),
        tuple(data.get("tags") or ()),
        str(data.get("hostname", "")),
    )


def parse_summary(data: Mapping[str, Any]) -> Made:
    """The last line of `restic backup --json`."""
    return Made(str(data["snapshot_id"]), int(data["total_files_processed"]), int(data["total_bytes_processed"]), int(data["data_added"]))


def progress(data: Mapping[str, Any]) -> str:
    """A line of progress of `restic backup --json` as a person reads it."""
    done, total = int(data.get("bytes_done") or 0), int(data.get("total_bytes") or 0)
    return f"{format_bytes(done)} of {format_bytes(total)} read" if total else "looking at the files"


def last_lines(said: str) -> tuple[str, ...]:
    """The end of what restic said, without where in its source something was."""
    return tuple(line for line in said.strip().splitlines() if line.strip() and not _TRACE.match(line))[-12:]


def read_line(line: str) -> dict[str, Any]:
    """A line of restic's JSON; empty when it is none."""
    try:
        data = json.loads(line)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}

"""The backup program restic: encrypted, deduplicated, incremental, into a folder, S3 or SFTP. Secrets go by its environment only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl.errors import CheckError, PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_bytes
from kivactl.stack.secret import Secret
from kivactl.tools import process

PROGRAM = "restic"

_REASONS: tuple[tuple[str, type[PreconditionError | CheckError], str, str], ...] = (
    (
        "wrong password or no key found",
        PreconditionError,
        "the passphrase of the repository {repository} is wrong",
        "KIVA_BACKUP_PASSWORD_FILE=FILE, or `backup.password_file` in kiva.yaml",
    ),
    (
        "is there a repository at the following location",
        PreconditionError,
        "there is no backup repository at {repository}",
        "kivactl runbook backup; or name another repository",
    ),
    (
        "no space left on device",
        PreconditionError,
        "no space left where the repository {repository} or the fetched backup lies",
        "free some space, then run the same command again",
    ),
    ("permission denied", PreconditionError, "no permission for the repository {repository}", "check the owner of its folder, or the credentials"),
    (
        "already locked",
        PreconditionError,
        "the repository {repository} is locked by another backup",
        "wait until it has finished, then run the same command again",
    ),
    (
        "not found in snapshot",
        CheckError,
        "a backup in {repository} has not got the files of one: kivactl did not make it, or it is damaged",
        "choose another: kivactl backup list",
    ),
    ("unsupported repository version", PreconditionError, "the repository {repository} was made by a newer restic", "install a newer restic"),
)
"""What restic says, and what it means; the first that fits counts."""

_DAMAGE = re.compile(r"error|damaged|invalid|mismatch|not found|does not match|ciphertext|unexpected|truncated", re.IGNORECASE)


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
        snapshot: Its id.
        files: How many files it has.
        total_bytes: Their size.
        added_bytes: What was new to the repository, before compression.
    """

    snapshot: str
    files: int
    total_bytes: int
    added_bytes: int


class Restic:
    """One repository.

    Args:
        repository: A folder, `s3:...` or `sftp:...`.
        password: The passphrase, or the file that holds it.
        cache: Folder for copies of what lies in the repository.
        credentials: Variables for the storage, such as `AWS_ACCESS_KEY_ID`.
    """

    def __init__(self, repository: str, password: Secret | Path, cache: Path, credentials: Mapping[str, str] | None = None) -> None:
        self.repository = repository
        secret = {"RESTIC_PASSWORD_FILE": str(password)} if isinstance(password, Path) else {"RESTIC_PASSWORD": password.reveal()}
        self._environment = {**(credentials or {}), **secret, "RESTIC_REPOSITORY": repository, "RESTIC_CACHE_DIR": str(cache), "RESTIC_PROGRESS_FPS": "2"}

    @property
    def exists(self) -> bool:
        """Whether there is a repository.

        Raises:
            KivaError: It cannot be reached, or the passphrase is wrong.
        """
        try:
            self._run("cat", "config")
        except PreconditionError as error:
            if "there is no backup repository" in error.message:
                return False
            raise
        return True

    def make(self) -> None:
        """Make the repository."""
        self._run("init")

    def snapshots(self) -> list[Snapshot]:
        """Every backup, the oldest first."""
        found = json.loads(self._run("snapshots", "--json") or "[]") or []
        return sorted((parse_snapshot(one) for one in found), key=lambda one: (one.made_at, one.id))

    def backup(self, folder: Path, tags: Iterable[str]) -> Iterator[Outcome]:
        """Back up what lies in a folder; the last outcome has the figures of `Made` as data.

        Raises:
            ToolError: A file could not be read, or restic failed: then there is no backup.
        """
        words = ["backup", ".", "--json", "--ignore-inode", "--ignore-ctime", "--host", "kivactl", *(word for tag in tags for word in ("--tag", tag))]
        yield Outcome("backup", Status.STARTED, self.repository)
        made: Made | None = None
        lines: list[str] = []
        for line in self._stream(words, folder, lines):
            data = _json(line)
            if data.get("message_type") == "status":
                yield Outcome("backup", Status.PROGRESS, _progress(data))
            elif data.get("message_type") == "summary":
                made = parse_summary(data)
        if made is None:
            raise self._failure("\n".join(lines))
        said = f"{made.snapshot[:8]}: {made.files} files, {format_bytes(made.total_bytes)}, {format_bytes(made.added_bytes)} of it new"
        facts = {"snapshot": made.snapshot, "files": made.files, "total_bytes": made.total_bytes, "added_bytes": made.added_bytes}
        yield Outcome("backup", Status.DONE, said, data=facts)

    def restore(self, snapshot: str, into: Path, only: Sequence[str] = ()) -> None:
        """Write a backup's tree into a folder.

        Args:
            snapshot: Its id.
            into: The folder.
            only: Entries at the top of the tree; all of them when empty.
        """
        self._run("restore", snapshot, "--target", str(into), *(word for name in only for word in ("--include", f"/{name}")))

    def dump(self, snapshot: str, path: str) -> bytes:
        """A text file of a backup, such as `/manifest.json`, without fetching the others.

        Raises:
            CheckError: It is not in the backup.
            KivaError: The repository cannot be read.
        """
        return self._run("dump", snapshot, path).encode()

    def check(self, *, read_data: bool = False) -> None:
        """Look whether everything that belongs to the backups is there and sound.

        Args:
            read_data: Also read and compare every byte.

        Raises:
            CheckError: Something is damaged or missing.
            KivaError: The repository cannot be read.
        """
        faults = self._key_faults()
        if faults:
            raise CheckError(f"the backup repository {self.repository} is damaged", "restore from another copy of the repository", faults)
        self._run("check", *(("--read-data",) if read_data else ()), damage=True)

    def tag(self, snapshot: str, tag: str) -> str:
        """Mark a backup; returns its new id."""
        self._run("tag", "--add", tag, snapshot)
        found = [one.id for one in self.snapshots() if snapshot in (one.id, one.original) or (tag in one.tags and one.original == snapshot)]
        return found[-1] if found else snapshot

    def forget(self, keep: Mapping[str, int], tags: Iterable[str]) -> int:
        """Remove old backups and what only they hold.

        Args:
            keep: How many of each period stay: `last`, `daily`, `weekly`, `monthly`.
            tags: Only backups with all of these are looked at.

        Returns:
            How many were removed.
        """
        rules = [word for name, count in keep.items() if count for word in (f"--keep-{name}", str(count))]
        before = len(self.snapshots())
        self._run("forget", "--prune", "--group-by", "", "--tag", ",".join(tags), *rules)
        return before - len(self.snapshots())

    def _key_faults(self) -> tuple[str, ...]:
        """Keys whose name is not the hash of their content: restic itself reads past a change in what is not encrypted of them."""
        folder = Path(self.repository) / "keys"
        keys = sorted(folder.iterdir()) if folder.is_dir() else []
        return tuple(f"the key {key.name} was changed" for key in keys if hashlib.sha256(key.read_bytes()).hexdigest() != key.name)

    def _run(self, *words: str, damage: bool = False) -> str:
        """Run restic; a lock that a killed restic left behind is removed once."""
        for attempt in (1, 2):
            completed = process.run([self._program(), *words], env=self._environment, check=False)
            if completed.code == 0:
                return completed.stdout
            said = completed.stderr + "\n" + completed.stdout
            if attempt == 1 and "already locked" in said:
                process.run([self._program(), "unlock"], env=self._environment, check=False)
                continue
            break
        raise self._failure(said, damage=damage)

    def _stream(self, words: list[str], folder: Path, lines: list[str]) -> Iterator[str]:
        for attempt in (1, 2):
            lines.clear()
            try:
                for line in process.stream([self._program(), *words], cwd=folder, env=self._environment):
                    if _json(line).get("message_type") not in {"status", "summary"}:
                        lines.append(line)
                    yield line
            except ToolError:
                if attempt == 1 and any("already locked" in line for line in lines):
                    process.run([self._program(), "unlock"], env=self._environment, check=False)
                    continue
                raise self._failure("\n".join(lines)) from None
            return

    def _failure(self, said: str, *, damage: bool = False) -> PreconditionError | CheckError | ToolError:
        low = said.lower()
        for mark, kind, message, hint in _REASONS:
            if mark in low:
                return kind(message.format(repository=self.repository), hint)
        details = tuple(line for line in said.strip().splitlines() if line.strip())[-12:]
        if damage or _DAMAGE.search(said):
            return CheckError(f"the backup repository {self.repository} is damaged", "restore from another copy of the repository", details)
        return ToolError(f"restic failed with the repository {self.repository}", "kivactl doctor", details)

    @staticmethod
    def _program() -> Path:
        return process.find(PROGRAM, "apt install restic")


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


def _progress(data: Mapping[str, Any]) -> str:
    done, total = int(data.get("bytes_done") or 0), int(data.get("total_bytes") or 0)
    return f"{format_bytes(done)} of {format_bytes(total)} read" if total else "looking at the files"


def _json(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}

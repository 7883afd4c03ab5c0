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

from kivactl.errors import CheckError, KivaError, PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_bytes
from kivactl.stack.secret import Secret
from kivactl.tools import process

PROGRAM = "restic"


class NoRepository(PreconditionError):
    """The storage answers, and there is no repository in it."""


@dataclass(frozen=True, slots=True)
class _Reason:
    """What restic says when something is wrong, and what it means; in message and hint `{repository}` and groups of the pattern are filled in."""

    pattern: re.Pattern[str]
    kind: type[PreconditionError | CheckError]
    message: str
    hint: str


def _reason(pattern: str, kind: type[PreconditionError | CheckError], message: str, hint: str) -> _Reason:
    return _Reason(re.compile(pattern, re.IGNORECASE), kind, message, hint)


_REASONS = (
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

_DAMAGE = re.compile(
    r"ciphertext verification failed|is damaged|invalid data returned|hash mismatch|does not match id|LoadIndex returned errors|Unmarshal: "
    r"|unable to load index|repository contains errors|zero size, invalid repository|file has been truncated|not found in (?:repository|index)",
    re.IGNORECASE,
)
"""What restic says of a repository that is not as it was written, whatever it was asked to do."""

_PLACE = re.compile(
    r"(?:write|mkdir|open|create|sync|fsync|close|rename|truncate|chmod|remove|stat|lstat) (?P<path>/[^\n:]*): (?:no space|disk quota|permission)",
    re.IGNORECASE,
)
_TRACE = re.compile(r"\t|main\.|runtime\.|github\.com/")
"""Begins a line of where in restic's source something was."""

_NAME = re.compile(r"[0-9a-f]{64}")
"""Of a file in a repository: the SHA-256 of its content."""

_MISLEADING = ("RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND", "RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE", "RESTIC_KEY_HINT")
"""Variables of whoever calls that would lead restic to another repository or passphrase."""


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
        self._folder = None if repository.startswith(("s3:", "sftp:")) else Path(repository)
        secret = {"RESTIC_PASSWORD_FILE": str(password)} if isinstance(password, Path) else {"RESTIC_PASSWORD": password.reveal()}
        ours = {**secret, "RESTIC_REPOSITORY": repository, "RESTIC_CACHE_DIR": str(cache), "RESTIC_PROGRESS_FPS": "2"}
        self._environment = {**(credentials or {}), **dict.fromkeys(_MISLEADING, ""), **ours}

    @property
    def exists(self) -> bool:
        """Whether there is a repository; of one in a folder its file is looked at, without starting restic.

        Raises:
            KivaError: It cannot be reached, the credentials are refused, or (of one elsewhere) the passphrase is wrong.
        """
        if self._folder is not None:
            try:
                (self._folder / "config").stat()
            except FileNotFoundError:
                return False
            except OSError as error:
                if not isinstance(error, PermissionError | NotADirectoryError):
                    raise
                raise PreconditionError(f"{self._folder} cannot be a repository: {error.strerror}", "check `backup.repository` in kiva.yaml") from None
            return True
        try:
            self._run("cat", "config")
        except NoRepository:
            return False
        return True

    def make(self) -> None:
        """Make the repository."""
        self._run("init")

    def snapshots(self) -> list[Snapshot]:
        """Every backup, the oldest first.

        Raises:
            NoRepository: There is no repository.
            KivaError: It cannot be read.
        """
        return parse_snapshots(self._run("snapshots", "--json"))

    def backup(self, folder: Path, tags: Iterable[str]) -> Iterator[Outcome]:
        """Back up what lies in a folder; the last outcome has the figures of `Made` as data, with the snapshot's full id.

        Raises:
            ToolError: A file could not be read, or restic failed: then there is no backup.
        """
        words = ["backup", ".", "--json", "--ignore-inode", "--ignore-ctime", "--host", "kivactl", *(word for tag in tags for word in ("--tag", tag))]
        yield Outcome("backup", Status.STARTED, self.repository)
        made: Made | None = None
        lines: list[str] = []
        try:
            for line in self._stream(words, folder, lines):
                data = _json(line)
                if data.get("message_type") == "status":
                    yield Outcome("backup", Status.PROGRESS, _progress(data))
                elif data.get("message_type") == "summary":
                    made = parse_summary(data)
        except KivaError:
            if made is not None:  # some files are missing in it: nobody must take it for the newest backup
                self._run("forget", made.snapshot)
            raise
        if made is None:
            raise self._failure("\n".join(lines))
        snapshot = self._full(made.snapshot)
        said = f"{snapshot[:8]}: {made.files} files, {format_bytes(made.total_bytes)}, {format_bytes(made.added_bytes)} of it new"
        facts = {"snapshot": snapshot, "files": made.files, "total_bytes": made.total_bytes, "added_bytes": made.added_bytes}
        yield Outcome("backup", Status.DONE, said, data=facts)

    def restore(self, snapshot: str, into: Path, only: Sequence[str] = ()) -> None:
        """Write a backup's tree into a folder.

        Args:
            snapshot: Its id.
            into: The folder.
            only: Entries at the top of the tree; all of them when empty.

        Raises:
            CheckError: Something of it is damaged or missing.
            KivaError: There is no such backup, or the repository cannot be read.
        """
        self._run("restore", snapshot, "--target", str(into), *(word for name in only for word in ("--include", f"/{name}")), damage=True)

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
        if damaged := self._damaged_keys():
            raise self._damaged(damaged)
        self._run("check", *(("--read-data",) if read_data else ()), damage=True)

    def tag(self, snapshot: str, tag: str) -> str:
        """Mark a backup; returns its new id.

        Raises:
            PreconditionError: There is no such backup.
        """
        marked = self._named(snapshot)
        if tag in marked.tags:
            return marked.id
        self._run("tag", "--add", tag, marked.id)
        origin = marked.original or marked.id
        return next((one.id for one in self.snapshots() if origin in (one.original, one.id) and tag in one.tags), marked.id)

    def forget(self, keep: Mapping[str, int], tags: Iterable[str]) -> int:
        """Remove old backups and what only they hold.

        Args:
            keep: How many of each period stay: `last`, `daily`, `weekly`, `monthly`.
            tags: Only backups with all of these are looked at.

        Returns:
            How many were removed.
        """
        rules = [word for name, count in keep.items() if count for word in (f"--keep-{name}", str(count))]
        return parse_forgotten(self._run("forget", "--prune", "--json", "--group-by", "", "--tag", ",".join(tags), *rules))

    def _named(self, snapshot: str) -> Snapshot:
        """The one of this id, or that had it before it was marked."""
        found = [one for one in self.snapshots() if one.id.startswith(snapshot) or (one.original and one.original.startswith(snapshot))]
        if not found:
            raise self._failure(f'no matching ID found for prefix "{snapshot}"')
        return found[-1]

    def _full(self, snapshot: str) -> str:
        """The id that a short one stands for: a repository in a folder has it as a file's name, so restic need not be asked."""
        if _NAME.fullmatch(snapshot):
            return snapshot
        if self._folder is not None:
            found = [path.name for path in (self._folder / "snapshots").glob(f"{snapshot}*") if _NAME.fullmatch(path.name)]
            if len(found) == 1:
                return found[0]
        return self._named(snapshot).id

    def _damaged_keys(self) -> list[Path]:
        """Files of passphrases that are not what their name says. restic reads of them only what it needs to open the repository."""
        folder = self._folder / "keys" if self._folder is not None else None
        if folder is None or not folder.is_dir():
            return []
        try:
            files = [path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name)]
            return [path for path in files if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
        except PermissionError as error:
            raise self._failure(f"open {error.filename}: permission denied") from None

    def _damaged(self, files: Iterable[Path]) -> CheckError:
        details = tuple(f"{path}: its content is not what its name says" for path in files)
        return CheckError(f"the backup repository {self.repository} is damaged", "restore from another copy of the repository", details)

    def _run(self, *words: str, damage: bool = False) -> str:
        """Run restic; a lock that a killed restic left behind is removed once."""
        for attempt in (1, 2):
            completed = process.run([self._program(), *words], env=self._environment, check=False)
            if completed.code == 0:
                return completed.stdout
            if completed.code < 0:
                raise process.failure(completed)
            said = completed.stderr + "\n" + completed.stdout
            if attempt == 1 and "already locked" in said:
                self._unlock()
                continue
            break
        raise self._failure(said, damage=damage)

    def _stream(self, words: list[str], folder: Path, lines: list[str]) -> Iterator[str]:
        for attempt in (1, 2):
            lines.clear()
            try:
                for line in process.stream([self._program(), *words], cwd=folder, env=self._environment):
                    if _json(line).get("message_type") not in {"status", "summary"}:
                        lines.append(said_in(line))
                    yield line
            except ToolError as error:
                if attempt == 1 and any("already locked" in line for line in lines):
                    self._unlock()
                    continue
                raise self._failure("\n".join(lines or (error.message,))) from None
            return

    def _unlock(self) -> None:
        """Remove the locks of processes that are no more; restic leaves those of living ones, and of other machines for half an hour."""
        process.run([self._program(), "unlock"], env=self._environment, check=False)

    def _failure(self, said: str, *, damage: bool = False) -> PreconditionError | CheckError | ToolError:
        """The error for what restic said."""
        if "unable to start the sftp session" in said:
            said += "\n" + self._ssh_says()
        if "wrong password or no key found" in said and (damaged := self._damaged_keys()):
            return self._damaged(damaged)
        for reason in _REASONS:
            if match := reason.pattern.search(said):
                facts = {name: value or "" for name, value in match.groupdict().items()}
                if who := facts.get("who"):
                    facts["who"] = f" ({who})"
                place = _PLACE.search(said)
                facts |= {"repository": self.repository, "place": self._place(place["path"]) if place else self.repository, "ssh": self._ssh_command()}
                return reason.kind(
                    reason.message.format(**facts).strip(), reason.hint.format(**facts), () if reason.kind is NoRepository else _last_lines(said)
                )
        if damage or _DAMAGE.search(said):
            return CheckError(f"the backup repository {self.repository} is damaged", "restore from another copy of the repository", _last_lines(said))
        return ToolError(f"restic failed with the repository {self.repository}", "kivactl doctor", _last_lines(said))

    def _place(self, path: str) -> str:
        """What a file on a disk belongs to, as a person knows it."""
        for known in (self.repository, self._environment["RESTIC_CACHE_DIR"]):
            if Path(path).is_relative_to(known):
                return known
        return str(Path(path).parent)

    def _ssh_says(self) -> str:
        """Why there is no SFTP session: restic ends before it has read what ssh says."""
        try:
            return process.run([*self._ssh_words(), "-s", "sftp"], check=False, timeout_s=30).stderr
        except KivaError as error:
            return error.message

    def _ssh_command(self) -> str:
        return " ".join(word for word in self._ssh_words() if word not in {"-o", "BatchMode=yes"})

    def _ssh_words(self) -> list[str]:
        """How to reach the server of an SFTP repository.

        Source: https://restic.readthedocs.io/en/stable/030_preparing_a_new_repo.html#sftp
        """
        host, port = sftp_host(self.repository)
        return ["ssh", "-o", "BatchMode=yes", *(("-p", port) if port else ()), host]

    @staticmethod
    def _program() -> Path:
        return process.find(PROGRAM, "apt install restic")


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
    data = _json(line)
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


def _progress(data: Mapping[str, Any]) -> str:
    done, total = int(data.get("bytes_done") or 0), int(data.get("total_bytes") or 0)
    return f"{format_bytes(done)} of {format_bytes(total)} read" if total else "looking at the files"


def _last_lines(said: str) -> tuple[str, ...]:
    return tuple(line for line in said.strip().splitlines() if line.strip() and not _TRACE.match(line))[-12:]


def _json(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}

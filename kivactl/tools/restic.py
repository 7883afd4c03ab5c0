"""The backup program restic: encrypted, deduplicated, incremental, into a folder, S3 or SFTP. Secrets go by its environment only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kivactl.errors import CheckError, KivaError, PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.spec.quantities import format_bytes
from kivactl.stack.secret import Secret
from kivactl.tools import process
from kivactl.tools.restic_output import (
    DAMAGE,
    PLACE,
    REASONS,
    Made,
    NoRepository,
    Snapshot,
    last_lines,
    parse_forgotten,
    parse_snapshots,
    parse_summary,
    progress,
    read_line,
    said_in,
    sftp_host,
)

__all__ = ["Made", "NoRepository", "Restic", "Snapshot"]

PROGRAM = "restic"

_NAME = re.compile(r"[0-9a-f]{64}")
"""Of a file in a repository: the SHA-256 of its content."""

_MISLEADING = ("RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND", "RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE", "RESTIC_KEY_HINT")
"""Variables of whoever calls that would lead restic to another repository or passphrase."""


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
                data = read_line(line)
                if data.get("message_type") == "status":
                    yield Outcome("backup", Status.PROGRESS, progress(data))
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
                    if read_line(line).get("message_type") not in {"status", "summary"}:
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
        for reason in REASONS:
            if match := reason.pattern.search(said):
                facts = {name: value or "" for name, value in match.groupdict().items()}
                if who := facts.get("who"):
                    facts["who"] = f" ({who})"
                place = PLACE.search(said)
                facts |= {"repository": self.repository, "place": self._place(place["path"]) if place else self.repository, "ssh": self._ssh_command()}
                return reason.kind(reason.message.format(**facts).strip(), reason.hint.format(**facts), () if reason.kind is NoRepository else last_lines(said))
        if damage or DAMAGE.search(said):
            return CheckError(f"the backup repository {self.repository} is damaged", "restore from another copy of the repository", last_lines(said))
        return ToolError(f"restic failed with the repository {self.repository}", "kivactl doctor", last_lines(said))

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

"""Opens the repository of a platform's backups: where it is, and who may read it."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.flows.reclaim import backup_cache_of
from kivactl.spec.load import resolved
from kivactl.stack.secret import Secret
from kivactl.tools.restic import Restic

REPOSITORY_VARIABLE = "KIVA_BACKUP_REPOSITORY"
PASSWORD_VARIABLE = "KIVA_BACKUP_PASSWORD"  # noqa: S105  # a name, not a password
FILE_VARIABLE = "KIVA_BACKUP_PASSWORD_FILE"


class NoPassphrase(PreconditionError):
    """Nothing gives the passphrase of the backups, or the file that should is not there."""


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_REMOTE = ("s3:", "sftp:")
_CREDENTIALS = "the credentials"
_WORDS = 32
"""Bytes of chance in a passphrase that kivactl makes."""


def open_store(deployment: Deployment, repository: str | None = None, password_file: str | None = None, credentials: str | None = None) -> Restic:
    """The repository of a platform.

    Args:
        deployment: The platform.
        repository: Another one than the environment or the spec names.
        password_file: Another file with the passphrase.
        credentials: Another file with the storage's credentials.

    Raises:
        PreconditionError: There is no passphrase, or a file with secrets can be read by others.
    """
    backup, folder = deployment.platform.backup, deployment.loaded.folder
    written = resolved(backup.password_file, folder) if backup.password_file else _default_file(deployment.platform.name)
    passphrase = _passphrase(resolved(password_file, folder) if password_file else None, written)
    return _opened(repository_of(deployment, repository), folder, backup_cache_of(deployment.layout), passphrase, credentials or backup.credentials)


def open_store_by_name(repository: str, folder: Path, cache: Path, password_file: str | None = None, credentials: str | None = None) -> Restic:
    """A repository where there is no spec.

    Args:
        repository: A folder, `s3:...` or `sftp:...`.
        folder: What relative paths count from.
        cache: Folder for copies of what lies in the repository.
        password_file: File with the passphrase; the environment's when absent.
        credentials: File with the storage's credentials.

    Raises:
        PreconditionError: There is no passphrase, or a file with secrets can be read by others.
    """
    return _opened(_located(repository, folder), folder, cache, _passphrase(resolved(password_file, folder) if password_file else None), credentials)


def repository_of(deployment: Deployment, repository: str | None = None) -> str:
    """Where a platform's backups are: an absolute folder, or an address."""
    return _located(repository or os.environ.get(REPOSITORY_VARIABLE) or deployment.platform.backup.repository, deployment.loaded.folder)


def folder_of(repository: str) -> Path | None:
    """The folder of a repository on this machine; None for one elsewhere."""
    return None if repository.startswith(_REMOTE) else Path(repository)


def made_passphrase(deployment: Deployment) -> Path | None:
    """Make a passphrase where none is to be found anywhere; the file that has it now, None when there was one.

    Raises:
        NoPassphrase: There is a repository already, which it could not open.
    """
    if os.environ.get(PASSWORD_VARIABLE) or os.environ.get(FILE_VARIABLE) or deployment.platform.backup.password_file:
        return None
    path = _default_file(deployment.platform.name)
    if path.exists():
        return None
    folder = folder_of(repository_of(deployment))
    if folder is not None and (folder / "config").exists():
        raise NoPassphrase(f"the passphrase of the repository {folder} is not there: {path}", f"put it back from its copy, or {FILE_VARIABLE}=FILE")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(_WORDS) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # half a passphrase is none
        raise
    return path


def _opened(repository: str, folder: Path, cache: Path, passphrase: Secret | Path, credentials: str | None) -> Restic:
    return Restic(repository, passphrase, cache, _credentials(resolved(credentials, folder)) if credentials else None)


def _passphrase(named: Path | None, written: Path | None = None) -> Secret | Path:
    """What a command names counts most, then the environment, then the spec: at a disaster it is what a person has at hand."""
    if named is not None:
        return _private(named, "the passphrase")
    if given := os.environ.get(FILE_VARIABLE):
        return _private(Path(given).absolute(), "the passphrase")
    if word := os.environ.get(PASSWORD_VARIABLE):
        return Secret(word)
    if written is None:
        raise NoPassphrase(
            "no passphrase for the backups is given", f"{FILE_VARIABLE}=FILE, or --set password_file=FILE (kivactl backup: --password-file FILE)"
        )
    return _private(written, "the passphrase")


def _private(path: Path, what: str) -> Path:
    try:
        status = path.stat()
    except FileNotFoundError:
        if what == _CREDENTIALS:
            raise PreconditionError(f"the file with {what} of the backups is not there: {path}", "check `backup.credentials` in kiva.yaml") from None
        raise NoPassphrase(f"the file with {what} of the backups is not there: {path}", f"{FILE_VARIABLE}=FILE; a first backup makes one") from None
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        fault = "is empty" if stat.S_ISREG(status.st_mode) else "is no file"
        raise PreconditionError(f"{path} is to hold {what} of the backups, but {fault}", "write it there, or name another file")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PreconditionError(f"others than you can read {path}, which holds {what} of the backups", f"chmod 600 {path}")
    return path


def _credentials(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(_private(path, _CREDENTIALS).read_text(errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, sign, value = (part.strip() for part in line.strip().removeprefix("export ").partition("="))
        if not sign or not _NAME.fullmatch(name):  # the line itself may be half a secret
            raise PreconditionError(f"line {number} of {path} is not NAME=VALUE", "one variable a line, such as AWS_ACCESS_KEY_ID=...")
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found


def _located(repository: str, folder: Path) -> str:
    return repository if repository.startswith(_REMOTE) else str(resolved(repository, folder))


def _default_file(platform: str) -> Path:
    return Path("~/.config/kivactl").expanduser() / f"{platform}.backup-password"

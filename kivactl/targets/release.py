"""The record of what is deployed on this machine: written after every step, so that a killed deploy can go on.

Strict in what it writes, lenient in what it reads: keys of a newer version are kept out of sight, not refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError


@dataclass(slots=True)
class Release:
    """What is deployed.

    Attributes:
        platform: Name from the spec.
        spec_digest: Of the spec that was deployed last; empty while a deploy is unfinished.
        endpoint: Base URL for clients.
        processes: Definition (argv, environment, ...) of every supervised process by name.
        replicas: Names of the replicas of every model.
        gateway: Hash of each gateway file by name.
        deployed_at: When the last deploy finished, ISO 8601 in UTC.
        maintenance: Replicas that were taken out and stay stopped, with the time since when, ISO 8601 in UTC.
    """

    platform: str = ""
    spec_digest: str = ""
    endpoint: str = ""
    processes: dict[str, dict[str, Any]] = field(default_factory=dict)
    replicas: dict[str, list[str]] = field(default_factory=dict)
    gateway: dict[str, str] = field(default_factory=dict)
    deployed_at: str = ""
    maintenance: dict[str, str] = field(default_factory=dict)


def read_release(path: Path) -> Release:
    """The record, or an empty one when nothing was deployed.

    Raises:
        PreconditionError: The file is there and cannot be read as a record.
    """
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict):
            raise TypeError
        return Release(**{name: data[name] for name in Release.__dataclass_fields__ if name in data})
    except FileNotFoundError:
        return Release()
    except (ValueError, TypeError, UnicodeDecodeError):
        raise PreconditionError(
            f"the record of what is deployed is unreadable: {path}", f"mv {path} {path}.broken && kivactl deploy    # replaces what runs by what the spec says"
        ) from None


def write_release(path: Path, release: Release) -> None:
    """Replace the record in one step."""
    write_json(path, asdict(release))


def write_json(path: Path, content: Any) -> bool:
    """Replace a JSON file in one step; says whether anything changed."""
    return write_file(path, _as_written(content))


def differs(path: Path, content: Any) -> bool:
    """Whether `write_json` would change anything."""
    try:
        return path.read_text() != _as_written(content)
    except (FileNotFoundError, UnicodeDecodeError):
        return True


def _as_written(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"


def write_file(path: Path, text: str, mode: int = 0o600) -> bool:
    """Replace a file in one step, on disk before it has its name; says whether anything changed."""
    try:
        if path.read_text() == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        error.filename = str(path)
        raise
    return True

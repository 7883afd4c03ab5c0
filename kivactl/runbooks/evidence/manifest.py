"""The list of a run's files with their hashes, and the journal's head: what is signed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kivactl.runbooks import chain
from kivactl.runbooks.record import Record
from kivactl.runbooks.replay import time_from

MANIFEST, SIGNATURE, SUMS, CERTIFICATE = "manifest.json", "manifest.sig", "SHA256SUMS", "certificate.pem"
JOURNAL, LOCK, RESERVE = "journal.jsonl", "lock", chain.RESERVE
UNSIGNED = frozenset({MANIFEST, SIGNATURE, LOCK, RESERVE})
"""Files of a run that the manifest does not list: itself, and two that are about the work on the run, not about the run."""

FORMAT = 1
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was signed.

    Attributes:
        run: Name of the run.
        runbook: Name of the runbook.
        platform: Name of the platform.
        verdict: How the run ended.
        made_at: When it was signed, by the platform's clock.
        journal_head: SHA-256 of the journal's last line.
        journal_bytes: The journal's size.
        journal_entries: How many lines it had.
        files: SHA-256 of each file by its path in the folder.
    """

    run: str
    runbook: str
    platform: str
    verdict: str
    made_at: datetime
    journal_head: str
    journal_bytes: int
    journal_entries: int
    files: Mapping[str, str]


def manifest_text(folder: Path, record: Record, made_at: datetime) -> str:
    """The manifest of a run's folder as it is now.

    Raises:
        OSError: A file cannot be read.
    """
    journal = (folder / JOURNAL).read_bytes()
    content = {
        "format": FORMAT,
        "run": record.run,
        "runbook": record.runbook,
        "platform": record.platform,
        "verdict": record.verdict.value if record.verdict else record.state.value,
        "made_at": made_at.isoformat(timespec="seconds"),
        "journal": {"head": chain.head_of(journal), "entries": len(journal.splitlines()), "bytes": len(journal)},
        "files": {name: {"sha256": hash_of(path), "bytes": path.stat().st_size} for name, path in files_in(folder)},
    }
    return json.dumps(content, indent=1) + "\n"


def sums_text(folder: Path) -> str:
    """What `sha256sum -c` reads: every file that the manifest lists, but this one."""
    return "".join(_sum_line(hash_of(path), name) for name, path in files_in(folder) if name != SUMS)


def manifest_from(text: bytes) -> Manifest | None:
    """A manifest as it was written; None when it is none."""
    try:
        data = json.loads(text)
        journal, files = data["journal"], data["files"]
        return Manifest(
            run=str(data["run"]),
            runbook=str(data["runbook"]),
            platform=str(data["platform"]),
            verdict=str(data["verdict"]),
            made_at=time_from(data["made_at"]),
            journal_head=str(journal["head"]),
            journal_bytes=int(journal["bytes"]),
            journal_entries=int(journal["entries"]),
            files={str(name): str(file["sha256"]) for name, file in files.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file that a manifest has to list, by its path in the folder, in order."""
    return ((name, path) for name, path in entries_in(folder) if name not in UNSIGNED and is_plain(path))


def entries_in(folder: Path) -> list[tuple[str, Path]]:
    """Everything in the folder that is not a folder itself; links are not followed."""
    found: list[tuple[str, Path]] = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        here = Path(place)
        found += [((here / name).relative_to(folder).as_posix(), here / name) for name in (*names, *(name for name in folders if (here / name).is_symlink()))]
    return sorted(found)


def is_plain(path: Path) -> bool:
    """Whether it is a file, and no link, pipe or device."""
    return stat.S_ISREG(path.lstat().st_mode)


def hash_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hashed.update(block)
    return hashed.hexdigest()


def _sum_line(sha256: str, name: str) -> str:
    """Names with a line feed or a backslash are written as GNU's sha256sum writes them."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{chr(92) if escaped != name else ''}{sha256}  {escaped}\n"


def _raise(error: OSError) -> Any:
    raise error

"""What remains of a run for those who were not there: reports in two languages, environment, hashes, and a signature over all of it.

`write` at the end of a run; `verify` needs the folder alone and whom to believe. Nothing here changes what a run did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.flows.surroundings import surroundings_of
from kivactl.runbooks import chain
from kivactl.runbooks.bound import Bound
from kivactl.runbooks.evidence import manifest as manifests
from kivactl.runbooks.evidence import pages, signing
from kivactl.runbooks.evidence.manifest import CERTIFICATE, JOURNAL, MANIFEST, SIGNATURE, SUMS, Manifest
from kivactl.runbooks.evidence.material import Material
from kivactl.runbooks.evidence.report import report_for
from kivactl.runbooks.evidence.signing import trusted
from kivactl.runbooks.evidence.verification import Finding, Kind, verify
from kivactl.runbooks.record import Record
from kivactl.stack.signature import fingerprint_of, sign
from kivactl.targets.release import write_file, write_json

__all__ = ["FORMS", "LANGUAGES", "Finding", "Kind", "Manifest", "manifest_of", "render", "report", "trusted", "verify", "write"]

LANGUAGES = ("en", "de")
FORMS = pages.FORMS
ENVIRONMENT = "environment.json"
_WRITERS = {"md": pages.markdown, "html": pages.html}
_OURS = (ENVIRONMENT, CERTIFICATE, SUMS, MANIFEST, SIGNATURE, *(f"report.{language}.{form}" for language in LANGUAGES for form in FORMS))


def write(folder: Path, record: Record, bound: Bound, deployment: Deployment) -> None:
    """Write reports and environment of a run that has ended, and sign everything in its folder.

    A second call, after the run was taken up again, replaces all of it; until it returns the folder has no valid signature.

    Args:
        folder: The run's.
        record: The run, as its journal tells it.
        bound: The runbook as it was run.
        deployment: The platform, in whatever state.

    Raises:
        PreconditionError: The key that signs is damaged.
        OSError: A file cannot be written.
    """
    now = datetime.now(UTC)
    _clear(folder)
    key, certificate = signing.signer_for(deployment.layout, record.platform, now)
    environment = surroundings_of(deployment, record.spec)
    write_json(folder / ENVIRONMENT, environment)
    write_file(folder / CERTIFICATE, certificate.decode())
    material = _material(folder, record, bound, deployment, environment, fingerprint_of(certificate))
    for language in LANGUAGES:
        made = report_for(material, language)
        for form, written in _WRITERS.items():
            write_file(folder / f"report.{language}.{form}", written(made))
    write_file(folder / SUMS, manifests.sums_text(folder))
    text = manifests.manifest_text(folder, record, now)
    write_file(folder / MANIFEST, text)
    signing.write_signature(folder / SIGNATURE, sign(key, text.encode()))


def report(folder: Path, language: str | None = None, form: str = "md") -> str:
    """The report as it was written when the run ended.

    Args:
        folder: The run's, or a copy of it.
        language: `en` or `de`; the one that the run was in when absent.
        form: `md` or `html`.

    Raises:
        PreconditionError: There is none.
    """
    name = f"report.{language or _language_of(folder)}.{form}"
    try:
        return (folder / name).read_text()
    except FileNotFoundError:
        raise PreconditionError(f"the run {folder.name} has no report: it has not ended", f"kivactl runbook resume {folder.name}") from None


def render(folder: Path, record: Record, bound: Bound, deployment: Deployment, language: str, form: str = "md") -> str:
    """The report of a run as it is now, ended or not; nothing is written, and nothing is signed."""
    material = _material(folder, record, bound, deployment, surroundings_of(deployment, record.spec), "")
    return _WRITERS[form](report_for(material, language))


def manifest_of(folder: Path) -> Manifest | None:
    """What was signed of a run, without checking it; None when nothing was."""
    if not (folder / SIGNATURE).is_file():
        return None
    try:
        return manifests.manifest_from((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None


def _material(folder: Path, record: Record, bound: Bound, deployment: Deployment, environment: Mapping[str, Any], signer: str) -> Material:
    journal = (folder / JOURNAL).read_bytes()
    files = dict(manifests.files_in(folder))
    return Material(
        record=record,
        bound=bound,
        entries=chain.entries_of(journal),
        environment=environment,
        contacts=deployment.platform.runbooks.contacts,
        summary=_summary(folder / "measurements" / "summary.json"),
        pictures={name: path.read_bytes() for name, path in files.items() if name.startswith("measurements/") and path.suffix == ".svg"},
        files={name: manifests.hash_of(path) for name, path in files.items() if name not in _OURS or name == ENVIRONMENT},
        journal_head=chain.head_of(journal),
        signer=signer,
    )


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _language_of(folder: Path) -> str:
    try:
        entries = chain.entries_of((folder / JOURNAL).read_bytes())
    except OSError:
        entries = []
    return next((str(entry["language"]) for entry in entries if entry.get("language") in LANGUAGES), "en")


def _clear(folder: Path) -> None:
    """Take away the signature, which will not hold any more, and what a killed predecessor left half-written."""
    (folder / SIGNATURE).unlink(missing_ok=True)
    for name in _OURS:
        for remains in folder.glob(f".{name}.*"):
            remains.unlink(missing_ok=True)

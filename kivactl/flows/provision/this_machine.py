"""`provision`: makes a machine ready for a platform, by Ansible. For the target `local` the machine is this one."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kivactl import root
from kivactl.errors import KivaError, PreconditionError, SpecError, ToolError, told
from kivactl.journal import Journal, run_name
from kivactl.plan import Change, Outcome, Plan, Verb, digest
from kivactl.spec.platform import Platform
from kivactl.stack.kubernetes.names import gateway_names
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held
from kivactl.tools import ansible
from kivactl.tools.ansible_output import Failure

_WITHIN_S = 120.0
_REFUSAL = "What cannot work"
"""Task of the role whose message is a sentence for the user and, after a tab, the next step."""

_DNS_NAME = re.compile(r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def plan_provision(platform: Platform, folder: Path, layout: Layout) -> Plan:
    """What provisioning would change on this machine; a check-mode run of the playbook, which changes nothing.

    Args:
        platform: The spec.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.

    Raises:
        PreconditionError: Something stands in the way: a permission, a missing program, an unusable certificate.
        SpecError: A name for the certificate is neither a DNS name nor an address.
        ToolError: Ansible failed.
    """
    with told(layout.state):
        run = _play(platform, folder, layout, check=True)
        outcomes = list(run)
    changes = changes_from(outcomes, layout)
    notes = dict.fromkeys(message for outcome in outcomes for message in outcome.data.get("messages", []))
    title = f"provision this machine for {platform.name}"
    return Plan(title, changes, tuple(notes), digest([[change.verb.value, change.subject] for change in changes]))


def apply_provision(platform: Platform, folder: Path, layout: Layout) -> Iterator[Outcome]:
    """Provision this machine; a second time changes nothing. Closing the generator ends Ansible.

    Args:
        platform: The spec.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.

    Raises:
        PreconditionError: Something stands in the way: a permission, a full disk, a lock, a missing program.
        SpecError: A name for the certificate is neither a DNS name nor an address.
        ToolError: Ansible failed.
    """
    with recorded(layout, "provision", {"names": names_for(platform)}) as journal:
        yield from journal.record(_play(platform, folder, layout, check=False))


@contextmanager
def recorded(layout: Layout, verb: str, facts: dict[str, Any]) -> Iterator[Journal]:
    """The platform's lock and its journal, for a verb that changes something; the state's folder is made for them.

    Raises:
        PreconditionError: The folder is another user's, or somebody else holds the lock.
    """
    with told(layout.state):
        _refuse_foreign(layout.state)
        layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # the lock and the journal come before the first task
        with held(layout.lock, verb), Journal(layout.journal, run_name(verb), facts) as journal:
            yield journal


def provisioned(layout: Layout, platform: Platform) -> bool:
    """Whether what a deploy needs is there and whole, by a look at the files alone (milliseconds)."""
    tls = platform.gateway.tls
    certificates = (layout.ca_certificate, layout.certificate, layout.certificate_key)
    files = certificates if tls.certificate is None or tls.key is None else (Path(tls.certificate), Path(tls.key))
    return all(folder.is_dir() for folder in (layout.gateway, layout.logs)) and all(_whole(path) for path in (layout.signing_key, *files))


def names_for(platform: Platform) -> list[str]:
    """What the gateway's certificate is for, in openssl's form: `DNS:localhost`, `IP:127.0.0.1`.

    In a cluster it is also asked for over a forwarded port, that is on the loopback.

    Raises:
        SpecError: A name is neither a DNS name nor an address.
    """
    gateway, loopback = platform.gateway, ["localhost", "127.0.0.1"]
    address = ipaddress.ip_address(gateway.address)
    if platform.kubernetes is not None:
        wanted = [*gateway_names(platform), *loopback]
    else:
        wanted = [*gateway.tls.names] if address.is_unspecified else [gateway.address, *gateway.tls.names]
        wanted += loopback if address.is_loopback or address.is_unspecified else []
    return list(dict.fromkeys(_typed_name(name) for name in wanted))


def variables_for(platform: Platform, folder: Path, layout: Layout) -> dict[str, Any]:
    """The role's variables."""
    tls = platform.gateway.tls
    return {
        "kiva_local_platform": platform.name,
        "kiva_local_state": str(layout.state),
        "kiva_local_folders": [str(path) for path in (layout.state, layout.gateway, layout.tls, layout.signing_key.parent, layout.logs, layout.usage)],
        "kiva_local_cache": str(layout.cache),
        "kiva_local_tls": str(layout.tls),
        "kiva_local_signing_key": str(layout.signing_key),
        "kiva_local_port": platform.gateway.port,
        "kiva_local_names": names_for(platform),
        "kiva_local_certificate": "" if tls.certificate is None else str(folder / tls.certificate),
        "kiva_local_certificate_key": "" if tls.key is None else str(folder / tls.key),
    }


def changes_from(outcomes: Iterable[Outcome], layout: Layout) -> tuple[Change, ...]:
    """The changes that a check-mode run foretells, in order."""
    changes: list[Change] = []
    files = {
        "Cache of prepared models": layout.cache,
        "Certificate authority": layout.ca_certificate,
        "Certificate of the gateway": layout.certificate,
        "Signing key of the tokens": layout.signing_key,
    }
    for outcome in outcomes:
        if not outcome.data.get("changed"):
            continue
        task = outcome.step.partition(": ")[2]
        items = outcome.data.get("items")
        if items is not None:
            changes += [Change(Verb.UPDATE if Path(item).exists() else Verb.CREATE, f"{task[0].lower()}{task[1:]} {item}") for item in items]
        else:
            there = task not in files or files[task].exists()
            changes.append(Change(Verb.REPLACE if there else Verb.CREATE, task[0].lower() + task[1:]))
    return tuple(changes)


def error_for(failure: Failure, layout: Layout) -> KivaError:
    """The error to show for a task that failed."""
    if failure.task == _REFUSAL:
        sentence, _, hint = failure.message.partition("\t")
        return PreconditionError(sentence, hint)
    refusals = {
        r"No space left on device|Errno 28|Disk quota exceeded": ("no space left on the disk that holds", "free some space, then: kivactl provision"),
        r"Permission denied|Operation not permitted|Errno 13": ("no permission for", "check its owner, or choose another with `storage.state` in kiva.yaml"),
        r"Read-only file system|Errno 30": ("a read-only file system holds", "choose another folder with `storage.state` in kiva.yaml"),
    }
    for pattern, (sentence, hint) in refusals.items():
        if re.search(pattern, failure.message):
            return PreconditionError(f"{sentence} {_path_in(failure.message) or layout.state}", hint, (failure.message,))
    return ToolError(f"provisioning failed at '{failure.task}' on {failure.host}", details=(failure.message,) if failure.message else ())


def _play(platform: Platform, folder: Path, layout: Layout, *, check: bool) -> Generator[Outcome, None, None]:
    summary = yield from ansible.run_playbook(
        root.content("playbooks") / "local.yml",
        ansible.local_inventory(),
        variables_for(platform, folder, layout),
        check=check,
        private_data=Path(tempfile.gettempdir()),
        timeout_s=_WITHIN_S,
    )
    for failure in summary.failures:
        raise error_for(failure, layout)


def _refuse_foreign(state: Path) -> None:
    """Before a lock is made there: root's lock in a user's folder would shut its owner out."""
    if state.exists() and state.stat().st_uid != os.geteuid():
        raise PreconditionError(
            f"the folder {state} belongs to another user (uid {state.stat().st_uid})",
            "run as that user, or choose another folder with `storage.state` in kiva.yaml",
        )


def _typed_name(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        pass
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise SpecError(f"'{name}' is neither a DNS name nor an address", "correct `gateway.tls.names` or `gateway.address` in kiva.yaml")
    return f"DNS:{name}"


def _path_in(message: str) -> str | None:
    match = re.search(r"b?'(/[^']+)'|(/[^\s:,']+)", message)
    return (match[1] or match[2]) if match else None


def _whole(path: Path) -> bool:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return False
    return "-----BEGIN " in text and re.search(r"-----END [A-Z ]+-----$", text) is not None

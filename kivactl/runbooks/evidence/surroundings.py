"""What a run stood on: roles, parameters, environment, hashes. Sections of the report; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kivactl.runbooks.evidence.material import Material, Section, Table, row
from kivactl.runbooks.evidence.wording import Voice
from kivactl.runbooks.format import ROLES, ParameterType
from kivactl.runbooks.replay import time_from

_MOST_FILES = 40

CHECKING = (
    "sha256sum -c SHA256SUMS",
    'grep "$(sha256sum SHA256SUMS | cut -c1-64)" manifest.json',
    "tail -n 1 journal.jsonl | tr -d '\\n' | sha256sum",
    "openssl x509 -in certificate.pem -pubkey -noout > ../evidence.pub",
    "openssl dgst -sha256 -verify ../evidence.pub -signature manifest.sig manifest.json",
)
"""How to check a folder without kivactl; docs/evidence.md explains them."""


def raci(material: Material, voice: Voice) -> Section:
    """Roles, who fills them, and what they have to do; then whom to call."""
    roles = material.bound.runbook.roles
    letters: dict[str, list[str]] = {}
    for letter, names in (("R", roles.responsible), ("A", (roles.accountable,)), ("C", roles.consulted), ("I", roles.informed)):
        for name in names:
            letters.setdefault(name, []).append(letter)
    rows = [row(_role(name, voice), material.contacts.get(name, voice.word("no_contact")), ", ".join(found)) for name, found in letters.items()]
    tables = [Table((voice.word("role"), voice.word("contact"), "RACI"), tuple(rows))]
    calls = [
        row(
            voice.word("escalation_after", time=voice.seconds(one.after)) if one.after else voice.word("escalation_at_once"),
            (_role(one.to, voice), material.contacts.get(one.to, voice.word("no_contact"))),
            one.text.in_language(voice.language),
        )
        for one in material.bound.runbook.escalation
    ]
    if calls:
        tables.append(Table((voice.word("escalation"), voice.word("role"), voice.word("what")), tuple(calls)))
    return Section(voice.word("raci"), (" · ".join(voice.word(f"raci_{letter}") for letter in "raci"),), tuple(tables))


def parameters(material: Material, voice: Voice) -> Section | None:
    """What was chosen; None when there was nothing to choose."""
    declared = material.bound.runbook.parameters
    rows = []
    for name, value in material.record.parameters.items():
        about = declared[name].description.in_language(voice.language) if name in declared else ""
        rows.append(row((name, about) if about else name, _value(value, declared[name].type if name in declared else None, voice)))
    return Section(voice.word("parameters"), (), (Table((voice.word("parameter"), voice.word("value")), tuple(rows)),)) if rows else None


def environment(material: Material, voice: Voice) -> Section:
    """Machine, versions, what was deployed, which models exactly."""
    told = material.environment
    rows = [
        row("kivactl", f"{told.get('kivactl', '–')} (Python {told.get('python', '–')})"),
        row(voice.word("system"), list(_system(told.get("system"), voice))),
        row(voice.word("machine"), list(_machine(told.get("machine"), voice))),
        row(voice.word("parts"), ", ".join(f"{name} {version}" for name, version in (told.get("parts") or {}).items()) or "–"),
        row(voice.word("deployed"), list(_deployed(told.get("deployed"), voice))),
        row(voice.word("models"), [_model(model, voice) for model in told.get("models") or ()]),
    ]
    return Section(voice.word("environment"), (), (Table((voice.word("what"), voice.word("value")), tuple(rows)),))


def hashes(material: Material, voice: Voice) -> Section:
    """What the run was, as hashes, and how to check them."""
    record = material.record
    rows = [
        row(voice.word("runbook_hash"), record.runbook_sha256 or "–"),
        row(voice.word("spec_hash"), record.spec or "–"),
        row(voice.word("plan_hash"), record.plan or "–"),
        row(voice.word("journal_head", count=len(material.entries)), material.journal_head or "–"),
    ]
    if material.signer:
        rows.append(row(voice.word("signer"), material.signer))
    listed = sorted(material.files.items())
    files = [row(name, sha256) for name, sha256 in listed[:_MOST_FILES]]
    tables = [Table((voice.word("what"), voice.word("hash")), tuple(rows), frozenset({1}))]
    if files:
        tables.append(Table((voice.word("file"), voice.word("hash")), tuple(files), frozenset({0, 1})))
    texts = [] if len(listed) <= _MOST_FILES else [voice.word("further_files", count=len(listed) - _MOST_FILES)]
    if not material.signer:
        return Section(voice.word("hashes"), (voice.word("unsigned"), *texts), tuple(tables))
    return Section(voice.word("hashes"), (*texts, voice.word("how_to_check")), tuple(tables), commands=CHECKING)


def _role(name: str, voice: Voice) -> str:
    return ROLES[name].in_language(voice.language) if name in ROLES else name


def _value(value: Any, kind: ParameterType | None, voice: Voice) -> str:
    if value is None:
        return voice.word("not_given")
    if isinstance(value, bool):
        return voice.truth(value)
    if isinstance(value, (int, float)) and kind is ParameterType.DURATION:
        return voice.seconds(float(value))
    if isinstance(value, (int, float)) and kind is ParameterType.SIZE:
        return voice.size(int(value))
    return voice.number(value) if isinstance(value, float) else str(value)


def _unknown(told: Any, voice: Voice) -> str | None:
    """Why a fact could not be had; None when it could."""
    if not told:
        return "–"
    return voice.word("unknown", reason=told["unknown"]) if isinstance(told, Mapping) and "unknown" in told else None


def _system(told: Any, voice: Voice) -> Iterator[str]:
    missing = _unknown(told, voice)
    if missing is not None:
        yield missing
        return
    name = told.get("name")
    yield f"{_unknown(name, voice) or name}, Linux {told.get('kernel')} ({told.get('architecture')})"
    yield str(told.get("host"))


def _machine(told: Any, voice: Voice) -> Iterator[str]:
    missing = _unknown(told, voice)
    if missing is not None:
        yield missing
        return
    yield voice.word("machine_text", processor=told.get("processor") or "–", cores=told.get("cores"), memory=voice.size(int(told.get("memory_bytes", 0))))
    gpus = told.get("gpus") or ()
    shown = ", ".join(f"{gpu['name']} ({voice.size(int(gpu['memory_bytes']))})" for gpu in gpus)
    yield f"{voice.word('gpus')}: {shown or voice.word('none')}"


def _deployed(told: Any, voice: Voice) -> Iterator[str]:
    missing = _unknown(told, voice)
    if missing is not None:
        yield missing
        return
    if not told.get("at"):
        yield voice.word("not_deployed")
        return
    yield voice.word("deployed_text", at=voice.moment(time_from(told["at"])), spec=told.get("spec") or "–")
    if told.get("maintenance"):
        yield f"{voice.word('maintenance')}: {', '.join(told['maintenance'])}"


def _model(model: Mapping[str, Any], voice: Voice) -> str:
    identity = model.get("identity")
    source = f"{model.get('source')}@{model['revision']}" if model.get("revision") else str(model.get("source"))
    shown = _unknown(identity, voice) or identity
    return voice.word("model_text", name=model.get("name"), source=source, replicas=model.get("replicas"), identity=shown)

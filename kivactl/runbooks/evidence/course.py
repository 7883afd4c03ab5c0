"""What happened in a run: steps, load, checks, people's decisions, undo. Sections of the report; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from kivactl.runbooks.evidence.material import Material, Picture, Row, Section, Table, row
from kivactl.runbooks.evidence.pictures import Span, harmless, steps_picture
from kivactl.runbooks.evidence.wording import STEP_STATES, Voice
from kivactl.runbooks.notes import text_from
from kivactl.runbooks.record import Person, StepRecord, StepState
from kivactl.runbooks.rendering import action_text, role_text
from kivactl.runbooks.replay import person_from, time_from

_MOST_LINES = 8
_TOLD = {"done", "failed", "skipped"}
_MARKS = {StepState.DONE: "good", StepState.FAILED: "bad", StepState.UNDONE: "warn", StepState.BEGUN: "bad"}
_BROKEN = ("interrupted", "resumed", "failed", "skipped", "undone", "undo failed", "torn")
_PHASES = {"precondition", "before", "during", "after"}


def steps(material: Material, voice: Voice) -> Section:
    """The steps over time, and what each did."""
    known = {step.name: step for step in material.bound.steps}
    titles = material.titles(voice.language)
    rows = []
    for number, record in enumerate(material.record.steps, 1):
        remarks = list(_remarks(record, voice))
        step = known.get(record.name)
        if step is not None and step.destructive:
            remarks.insert(0, f"{voice.word('destructive')}.")
        if step is not None and step.disruption(voice.language) and record.attempts:
            remarks.insert(0, voice.word("disruption", text=step.disruption(voice.language)))
        state = voice.of(STEP_STATES[record.state])
        took = voice.seconds(record.elapsed_s) if record.elapsed_s else "–"
        cells = (titles.get(record.title, record.title), f"[{record.name}]")
        rows.append(row(str(number), cells, voice.clock(record.began_at), took, str(record.attempts), state, remarks, mark=_MARKS.get(record.state, "")))
    head = tuple(voice.word(key) for key in ("number", "step", "began", "took", "attempts", "state", "remarks"))
    drawn = steps_picture(list(_spans(material, titles)), voice)
    pictures = (Picture(voice.word("steps_picture"), drawn, ""),) if drawn else ()
    return Section(voice.word("steps"), (voice.word("language_note"),), (Table(head, tuple(rows)),), pictures)


def load(material: Material, voice: Voice) -> Section | None:
    """Requests before, during and after the fault, with the pictures; None when nothing was observed under load."""
    told = material.summary.get("load")
    pictures = list(_pictures(material, voice))
    notes = [text_from(note, voice.language) for note in material.summary.get("notes") or ()]
    if not isinstance(told, Mapping):
        return Section(voice.word("load"), tuple(notes), pictures=tuple(pictures)) if pictures or notes else None
    texts = [voice.word("load_text", users=told.get("users"), model=told.get("model"), scenario=told.get("scenario"))]
    texts += notes
    phases = [phase for phase in material.summary.get("phases") or () if isinstance(phase, Mapping)]
    rows = [_phase_row(phase, voice, alone=len(phases) == 1) for phase in phases]
    head = tuple(voice.word(key) for key in ("phase", "took", "answered", "lost", "cut", "ttft", "e2e"))
    return Section(voice.word("load"), tuple(texts), (Table(head, tuple(rows)),) if rows else (), tuple(pictures))


def checks(material: Material, voice: Voice) -> Section:
    """Every look that was recorded."""
    titles, steps_ = material.titles(voice.language), {step.name: step.title for step in material.record.steps}
    rows = []
    for check in material.record.checks:
        phase = voice.word(check.phase) if check.phase in _PHASES else voice.word("of_step", step=titles.get(steps_.get(check.step, ""), check.step))
        cells = (titles.get(check.title, check.title), check.tolerance, check.message, voice.clock(check.at), voice.truth(check.met))
        rows.append(row(phase, *cells, mark="good" if check.met else "bad"))
    if not rows:
        return Section(voice.word("checks"), (voice.word("no_checks"),))
    head = (*(voice.word(key) for key in ("phase", "check", "expected", "seen")), "UTC", voice.word("met"))
    return Section(voice.word("checks"), (), (Table(head, tuple(rows)),))


def people(material: Material, voice: Voice) -> Section:
    """Who began, approved, answered, took up again: with role and time."""
    record, runbook = material.record, material.bound.runbook
    if runbook.approval is None:
        text = voice.word("approval_not_needed")
    else:
        roles = ", ".join(role_text(role, material.contacts, voice.language) for role in runbook.approval.by)
        text = voice.word("approval_needed", roles=roles, time=voice.seconds(runbook.approval.within), plan=record.plan)
    head = tuple(voice.word(key) for key in ("when", "who", "account", "role", "what"))
    return Section(voice.word("people"), (text,), (Table(head, tuple(_decisions(material, voice))),))


def undo(material: Material, voice: Voice) -> Section:
    """What was taken back, and every interruption."""
    titles = material.titles(voice.language)
    undone = {str(entry.get("step")): entry for entry in material.entries if entry.get("event") in {"undoing", "undone", "undo failed"}}
    records = {step.name: step for step in material.record.steps}
    rows = [
        row(step.title(voice.language), action_text(step.undo), *_undone(undone.get(step.name), records.get(step.name), voice))
        for step in material.bound.steps
        if step.undo is not None
    ]
    events = [_event_row(entry, titles, records, voice) for entry in material.entries if entry.get("event") in _BROKEN]
    tables = []
    if rows:
        tables.append(Table(tuple(voice.word(key) for key in ("step", "undo_of", "state")), tuple(rows)))
    if events:
        tables.append(Table(tuple(voice.word(key) for key in ("when", "event", "step", "reason")), tuple(events)))
    return Section(voice.word("undo"), () if tables else (voice.word("undo_none"),), tuple(tables))


def _remarks(step: StepRecord, voice: Voice) -> Iterator[str]:
    if step.answer is not None:
        answer, person = step.answer
        yield f"{voice.answer(answer)} ({person.name})"
    told = [line for line in step.lines if line.get("status") in _TOLD and line.get("message")]
    for line in told[:_MOST_LINES]:
        subject = str(line.get("step", ""))
        yield f"{subject}: {line['message']}" if subject and subject != step.title else str(line["message"])
    if len(told) > _MOST_LINES:
        yield voice.word("more_lines", count=len(told) - _MOST_LINES)
    if step.reason:
        yield step.reason


def _spans(material: Material, titles: Mapping[str, str]) -> Iterator[Span]:
    """Each attempt of each step, and each undo, as the journal has them."""
    began = material.record.opened_at
    records = {step.name: step for step in material.record.steps}
    open_: dict[str, tuple[float, str]] = {}
    ends = {"done": "done", "failed": "failed", "undone": "undone", "undo failed": "failed", "interrupted": "begun"}
    last_s = 0.0
    for entry in material.entries:
        at_s = last_s = max((time_from(entry.get("at")) - began).total_seconds(), 0.0)
        name, event = str(entry.get("step") or ""), entry.get("event")
        title = records[name].title if name in records else name
        label = titles.get(title, title)
        if event in {"begun", "undoing"} and name:
            if name in open_:
                yield Span(label, open_[name][0], at_s, "begun")
            open_[name] = (at_s, str(event))
        elif event in ends and name in open_:
            yield Span(label, open_.pop(name)[0], at_s, ends[str(event)])
    for name, (start_s, _) in open_.items():
        title = records[name].title if name in records else name
        yield Span(titles.get(title, title), start_s, last_s, "begun")


def _pictures(material: Material, voice: Voice) -> Iterator[Picture]:
    """Those in the language, and those that have none."""
    other = ".en.svg" if voice.language == "de" else ".de.svg"
    for path, content in sorted(material.pictures.items()):
        if path.endswith(other):
            continue
        title = voice.word("picture") if PurePosixPath(path).name.startswith("load") else PurePosixPath(path).stem
        svg = harmless(content, title)
        if svg:
            yield Picture(title, svg, path)


def _phase_row(phase: Mapping[str, Any], voice: Voice, *, alone: bool) -> Row:
    name = "phase_all" if alone else f"phase_{phase.get('name')}"
    took_s = float(phase.get("end_s") or 0) - float(phase.get("start_s") or 0)
    counts = [str(phase.get(key, "–")) for key in ("answered", "lost", "cut")]
    return row(voice.word(name), voice.seconds(took_s), *counts, *(_times(phase.get(key), voice) for key in ("ttft_s", "e2e_s")))


def _times(distribution: Any, voice: Voice) -> str:
    if not isinstance(distribution, Mapping):
        return "–"
    return " / ".join(voice.seconds(float(distribution[key])) for key in ("p50", "p95"))


def _decisions(material: Material, voice: Voice) -> Iterator[Row]:
    record, titles = material.record, material.titles(voice.language)
    yield _decision(record.opened_at, record.operator, "", [voice.word("began_run")], voice)
    question, by_name = "", {step.name: step for step in record.steps}
    for entry in material.entries:
        at = time_from(entry.get("at"))
        match entry.get("event"):
            case "approved":
                role = role_text(str(entry.get("role", "")), {}, voice.language)
                yield _decision(at, person_from(entry.get("by")), role, [voice.word("approved"), str(entry.get("plan", ""))[:16]], voice)
            case "resumed":
                said = [voice.word("resumed"), *_settled(entry, "done", "settled", voice), *_settled(entry, "again", "again", voice)]
                yield _decision(at, person_from(entry.get("operator")), "", said, voice)
            case "asked":
                question = str(entry.get("question", ""))
            case "answered":
                name = str(entry.get("step") or "")
                title = by_name[name].title if name in by_name else name
                asked = titles.get(question, question) or titles.get(title, title)
                answer = voice.answer(str(entry.get("answer", "")))
                yield _decision(at, person_from(entry.get("by")), "", [voice.word("answered_to", question=asked, answer=answer)], voice)


def _decision(at: Any, person: Person, role: str, what: Iterable[str], voice: Voice) -> Row:
    account = f"{person.user}@{person.host}" if person.user or person.host else "–"
    return row(voice.moment(at), person.name, account, role or "–", what)


def _settled(entry: Mapping[str, Any], key: str, word: str, voice: Voice) -> Iterator[str]:
    names = [str(name) for name in entry.get(key) or ()]
    if names:
        yield voice.word(word, steps=", ".join(names))


def _undone(entry: Mapping[str, Any] | None, record: StepRecord | None, voice: Voice) -> tuple[str]:
    if entry is None:
        if record is None or not record.attempts:
            return (voice.word("undo_not_begun"),)
        return (voice.word("undo_not_needed" if record.state in {StepState.DONE, StepState.SKIPPED} else "undo_unknown"),)
    match entry.get("event"):
        case "undone":
            return (f"{voice.word('undo_done')} ({voice.moment(time_from(entry.get('at')))})",)
        case "undo failed":
            return (voice.word("undo_failed", reason=entry.get("reason", "")),)
        case _:
            return (voice.word("undo_open"),)


def _event_row(entry: Mapping[str, Any], titles: Mapping[str, str], records: Mapping[str, StepRecord], voice: Voice) -> Row:
    name = str(entry.get("step") or "")
    title = records[name].title if name in records else name
    what = voice.word("event_attempt", attempt=entry["attempt"]) if "attempt" in entry else voice.word(f"event_{entry['event']}")
    mark = "bad" if entry["event"] in {"failed", "undo failed"} else ""
    return row(voice.moment(time_from(entry.get("at"))), what, titles.get(title, title) or "–", str(entry.get("reason", "")) or "–", mark=mark)

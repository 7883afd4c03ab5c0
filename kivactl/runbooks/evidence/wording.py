"""The words of a report in English and German, and how each language writes times and numbers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kivactl.runbooks.record import State, StepState, Verdict
from kivactl.spec.quantities import format_bytes

WORDS: Mapping[str, tuple[str, str]] = {
    "evidence": ("Evidence of a run", "Nachweis eines Durchlaufs"),
    "run": ("Run", "Durchlauf"),
    "runbook": ("Runbook", "Runbook"),
    "platform": ("Platform", "Plattform"),
    "operator": ("Carried out by", "Durchgeführt von"),
    "began": ("Began", "Beginn"),
    "ended": ("Ended", "Ende"),
    "took": ("Took", "Dauer"),
    "verdict": ("Verdict", "Ergebnis"),
    "reason": ("Reason", "Grund"),
    "purpose": ("Purpose", "Zweck"),
    "objectives": ("Objectives against measured values", "Ziele und Messwerte"),
    "objective": ("Objective", "Ziel"),
    "allowed": ("Allowed at most", "Höchstens erlaubt"),
    "measured": ("Measured", "Gemessen"),
    "met": ("Met", "Erfüllt"),
    "not_measured": ("not measured", "nicht gemessen"),
    "no_limit": ("no objective", "kein Ziel"),
    "no_objectives": ("This runbook sets no objectives, and nothing was measured.", "Dieses Runbook setzt keine Ziele, und gemessen wurde nichts."),
    "invalid": ("The measurement cannot be relied on: {reason}.", "Auf die Messung ist kein Verlass: {reason}."),
    "yes": ("yes", "ja"),
    "no": ("no", "nein"),
    "steps": ("Steps", "Schritte"),
    "step": ("Step", "Schritt"),
    "number": ("No.", "Nr."),
    "attempts": ("Attempts", "Versuche"),
    "state": ("State", "Zustand"),
    "remarks": ("What happened", "Verlauf"),
    "destructive": ("Takes something away", "Nimmt etwas weg"),
    "disruption": ("Users notice: {text}", "Nutzer merken: {text}"),
    "more_lines": ("{count} further entries in the journal", "{count} weitere Einträge im Journal"),
    "steps_picture": ("Course of the steps over time", "Zeitlicher Ablauf der Schritte"),
    "since_begin": ("Time since the run began", "Zeit seit Beginn des Durchlaufs"),
    "undoing": ("undone", "zurückgenommen"),
    "load": ("Under load", "Unter Last"),
    "load_text": (
        "{users} users at the same time asked the model “{model}” (scenario {scenario}).",
        "{users} gleichzeitige Nutzer fragten das Modell „{model}“ (Szenario {scenario}).",
    ),
    "phase": ("Phase", "Phase"),
    "answered": ("Answered", "Beantwortet"),
    "lost": ("Lost", "Verloren"),
    "cut": ("Cut off", "Abgebrochen"),
    "ttft": ("First token, p50 / p95", "Erstes Token, p50 / p95"),
    "e2e": ("Whole answer, p50 / p95", "Ganze Antwort, p50 / p95"),
    "phase_before": ("before the fault", "vor der Störung"),
    "phase_during": ("until full capacity", "bis zur vollen Leistung"),
    "phase_after": ("afterwards", "danach"),
    "phase_all": ("all the time", "durchgehend"),
    "picture": ("Requests, answer times and components over time", "Anfragen, Antwortzeiten und Komponenten im Zeitverlauf"),
    "checks": ("Checks", "Prüfungen"),
    "check": ("Check", "Prüfung"),
    "when": ("When", "Wann"),
    "expected": ("Expected", "Erwartet"),
    "seen": ("Seen", "Gesehen"),
    "no_checks": ("Nothing was checked.", "Es wurde nichts geprüft."),
    "precondition": ("precondition", "Voraussetzung"),
    "before": ("before the first step", "vor dem ersten Schritt"),
    "during": ("all the time", "fortlaufend"),
    "after": ("after the last step", "nach dem letzten Schritt"),
    "of_step": ("step {step}", "Schritt {step}"),
    "people": ("Approvals and decisions", "Freigaben und Entscheidungen"),
    "who": ("Who", "Wer"),
    "account": ("Account", "Benutzerkonto"),
    "role": ("Role", "Rolle"),
    "what": ("What", "Was"),
    "approval_needed": (
        "A second person had to approve: {roles}, within {time}. The approval holds for the plan {plan} alone.",
        "Die Freigabe durch eine zweite Person war nötig: {roles}, innerhalb von {time}. Sie gilt nur für den Plan {plan}.",
    ),
    "approval_not_needed": ("This runbook asks for no second person.", "Dieses Runbook verlangt keine zweite Person."),
    "began_run": ("began the run", "begann den Durchlauf"),
    "approved": ("approved the plan", "gab den Plan frei"),
    "resumed": ("took the run up again", "setzte den Durchlauf fort"),
    "settled": ("said that it was done: {steps}", "erklärte für erledigt: {steps}"),
    "again": ("had it done again: {steps}", "ließ wiederholen: {steps}"),
    "answered_to": ("“{question}”: {answer}", "„{question}“: {answer}"),
    "raci": ("Who does what (RACI)", "Wer tut was (RACI)"),
    "raci_r": ("R: carries it out", "R: führt durch"),
    "raci_a": ("A: answers for it", "A: trägt die Verantwortung"),
    "raci_c": ("C: is consulted", "C: wird einbezogen"),
    "raci_i": ("I: is informed", "I: wird informiert"),
    "contact": ("Filled by", "Besetzt durch"),
    "no_contact": ("not named", "nicht benannt"),
    "escalation": ("Escalation", "Eskalation"),
    "escalation_at_once": ("on failure", "bei Fehlschlag"),
    "escalation_after": ("after {time}", "nach {time}"),
    "undo": ("Undo and interruptions", "Rücknahme und Unterbrechungen"),
    "undo_of": ("Undo", "Rücknahme"),
    "undo_none": ("No step of this runbook has an undo, and the run was not interrupted.", "Kein Schritt hat eine Rücknahme, und nichts wurde unterbrochen."),
    "undo_not_needed": ("not needed", "war nicht nötig"),
    "undo_not_begun": ("step was not begun", "Schritt wurde nicht begonnen"),
    "undo_done": ("done", "ausgeführt"),
    "undo_open": ("not ended", "nicht beendet"),
    "undo_failed": ("failed: {reason}", "fehlgeschlagen: {reason}"),
    "undo_unknown": ("not carried out", "nicht ausgeführt"),
    "event": ("Event", "Ereignis"),
    "event_interrupted": ("interrupted", "unterbrochen"),
    "event_resumed": ("taken up again", "fortgesetzt"),
    "event_attempt": ("attempt {attempt} failed", "Versuch {attempt} schlug fehl"),
    "event_failed": ("failed", "fehlgeschlagen"),
    "event_undone": ("undone", "zurückgenommen"),
    "event_undo failed": ("undo failed", "Rücknahme schlug fehl"),
    "event_skipped": ("left out", "ausgelassen"),
    "event_torn": ("an entry of the journal was cut short by a crash", "ein Eintrag des Journals blieb durch einen Absturz unvollständig"),
    "parameters": ("Parameters", "Parameter"),
    "parameter": ("Parameter", "Parameter"),
    "value": ("Value", "Wert"),
    "not_given": ("not given", "nicht angegeben"),
    "environment": ("Environment", "Umgebung"),
    "machine": ("Machine", "Rechner"),
    "machine_text": ("{processor}, {cores} cores, {memory} memory", "{processor}, {cores} Kerne, {memory} Arbeitsspeicher"),
    "gpus": ("GPUs", "GPUs"),
    "none": ("none", "keine"),
    "system": ("Operating system", "Betriebssystem"),
    "parts": ("Versions", "Versionen"),
    "models": ("Models", "Modelle"),
    "model_text": ("{name}: {source}; replicas: {replicas}; weights: {identity}", "{name}: {source}; Replikate: {replicas}; Gewichte: {identity}"),
    "deployed": ("Deployed", "Ausgerollt"),
    "deployed_text": ("{at}, spec {spec}", "{at}, Spezifikation {spec}"),
    "not_deployed": ("nothing", "nichts"),
    "maintenance": ("In maintenance", "In Wartung"),
    "unknown": ("unknown ({reason})", "unbekannt ({reason})"),
    "hashes": ("Hashes and signature", "Prüfsummen und Signatur"),
    "hash": ("SHA-256", "SHA-256"),
    "file": ("File", "Datei"),
    "runbook_hash": ("Runbook as it was run", "Runbook, wie es ausgeführt wurde"),
    "spec_hash": ("Spec of the platform", "Spezifikation der Plattform"),
    "plan_hash": ("Plan as it was confirmed", "Plan, wie er bestätigt wurde"),
    "journal_head": ("Last line of the journal ({count} entries)", "Letzte Zeile des Journals ({count} Einträge)"),
    "signer": ("Certificate of the signature (fingerprint)", "Zertifikat der Signatur (Fingerabdruck)"),
    "unsigned": ("This report is not signed: the run has not ended.", "Dieser Bericht ist nicht signiert: Der Durchlauf ist nicht beendet."),
    "further_files": ("{count} further files are listed in SHA256SUMS.", "{count} weitere Dateien stehen in SHA256SUMS."),
    "how_to_check": (
        "This report is a file of the run's folder. Whether the folder is as it was signed is shown by kivactl runbook verify FOLDER --trust AUTHORITY, "
        "or by hand in the folder:",
        "Dieser Bericht ist eine Datei im Ordner des Durchlaufs. Ob der Ordner so ist, wie er signiert wurde, zeigt "
        "kivactl runbook verify ORDNER --trust ZERTIFIKATSSTELLE oder von Hand im Ordner:",
    ),
    "language_note": (
        "Messages of programs and values are given as they were recorded. All times are UTC.",
        "Meldungen der Programme und Werte stehen so da, wie sie aufgezeichnet wurden, meist auf Englisch. Alle Zeiten sind UTC.",
    ),
    "page": ("Page", "Seite"),
}

FIGURES: Mapping[str, tuple[str, str]] = {
    "rto": ("Until the platform answers again (RTO)", "Bis die Plattform wieder antwortet (RTO)"),
    "rpo": ("Time whose changes are lost (RPO)", "Zeitraum, dessen Änderungen verloren sind (RPO)"),
    "detection": ("From the fault until it was noticed", "Von der Störung bis zum Bemerken"),
    "degraded": ("Time with less than full capacity", "Zeit mit verminderter Leistung"),
    "recovery": ("From the fault until full capacity", "Von der Störung bis zur vollen Leistung"),
    "outage": ("Longest time without any answer", "Längste Zeit ganz ohne Antwort"),
    "lost_requests": ("Requests lost before their answer began", "Vor Beginn der Antwort verlorene Anfragen"),
    "cut_streams": ("Answers that broke off", "Abgebrochene Antworten"),
    "error_ratio": ("Failed requests over all", "Anteil fehlgeschlagener Anfragen"),
}
COUNTS = frozenset({"lost_requests", "cut_streams"})
RATIOS = frozenset({"error_ratio"})

VERDICTS: Mapping[Verdict, tuple[str, str]] = {
    Verdict.PASSED: ("Passed", "Bestanden"),
    Verdict.MISSED: ("Objectives missed", "Ziele verfehlt"),
    Verdict.INVALID: ("Measurement invalid", "Messung ungültig"),
    Verdict.FAILED: ("Failed", "Fehlgeschlagen"),
    Verdict.INTERRUPTED: ("Interrupted", "Unterbrochen"),
}
STATES: Mapping[State, tuple[str, str]] = {
    State.WAITING: ("Waiting for approval", "Wartet auf Freigabe"),
    State.ASKING: ("Waiting for an answer", "Wartet auf eine Antwort"),
    State.RUNNING: ("Running", "Läuft"),
    State.INTERRUPTED: ("Interrupted", "Unterbrochen"),
    State.FAILED: ("Failed", "Fehlgeschlagen"),
    State.DONE: ("Ended", "Beendet"),
}
STEP_STATES: Mapping[StepState, tuple[str, str]] = {
    StepState.OPEN: ("not begun", "nicht begonnen"),
    StepState.BEGUN: ("begun, not ended", "begonnen, nicht beendet"),
    StepState.DONE: ("done", "erledigt"),
    StepState.FAILED: ("failed", "fehlgeschlagen"),
    StepState.UNDONE: ("undone", "zurückgenommen"),
    StepState.SKIPPED: ("left out", "ausgelassen"),
}
_SIZE = re.compile(r"([\d.]+)(\D+)")
_ANSWERS = {"yes": ("yes", "ja"), "no": ("no", "nein")}
_LONGEST_IN_SECONDS_S = 120.0


@dataclass(frozen=True, slots=True)
class Voice:
    """A language: its words, its numbers, its times."""

    language: str

    def word(self, key: str, **values: Any) -> str:
        """A word or sentence."""
        text = self.of(WORDS[key])
        return text.format(**values) if values else text

    def of(self, pair: tuple[str, str]) -> str:
        """The one of two."""
        return pair[self.language == "de"]

    def number(self, value: float) -> str:
        """A number without needless digits."""
        return f"{value:.6g}".replace(".", self.of((".", ",")))

    def seconds(self, value_s: float) -> str:
        """A duration: `250 ms`, `12.3 s`, `5 min 3 s`, `3 h 20 min`."""
        if value_s < 0:
            return f"−{self.seconds(-value_s)}"
        if value_s == 0:
            return "0 s"
        if value_s < 0.9995:
            return f"{round(value_s * 1000)} ms"
        if value_s < _LONGEST_IN_SECONDS_S:
            return f"{value_s:.1f}".removesuffix(".0").replace(".", self.of((".", ","))) + " s"
        whole = round(value_s)
        parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
        first = next(index for index, (count, _) in enumerate(parts) if count)
        return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)

    def moment(self, at: datetime | None) -> str:
        """A point in time."""
        if at is None:
            return "–"
        return f"{at.astimezone(UTC):{self.of(('%Y-%m-%d %H:%M:%S', '%d.%m.%Y %H:%M:%S'))}} UTC"

    def clock(self, at: datetime | None) -> str:
        """A time of a day that is known from elsewhere."""
        return "–" if at is None else f"{at.astimezone(UTC):%H:%M:%S}"

    def figure(self, name: str, value: float) -> str:
        """A measured value or a limit, by its name among the objectives."""
        if name in RATIOS:
            return f"{value * 100:.2f} %".replace(".", self.of((".", ",")))
        if name in COUNTS or name not in FIGURES:
            return self.number(value)
        return self.seconds(value)

    def size(self, size_bytes: int) -> str:
        """A number of bytes."""
        number, unit = _SIZE.fullmatch(format_bytes(size_bytes)).groups()  # type: ignore[union-attr]  # it is of that form
        return f"{number.replace('.', self.of(('.', ',')))} {unit}"

    def answer(self, text: str) -> str:
        """What a person answered."""
        return self.of(_ANSWERS.get(text, (text, text)))

    def truth(self, value: bool) -> str:
        """Yes or no."""
        return self.word("yes" if value else "no")

"""Writes the lists of actions and probes into docs/runbooks.md and docs/runbooks.de.md: `python docs/reference.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Action, Params, Probe

FILES = {"en": Path(__file__).with_name("runbooks.md"), "de": Path(__file__).with_name("runbooks.de.md")}
HEADINGS = {
    "en": {"actions": ("action", "parameters", "results", "", "where", "what it does"), "probes": ("probe", "parameters", "value", "where", "what it tells")},
    "de": {"actions": ("Aktion", "Parameter", "Ergebnisse", "", "wo", "was sie tut"), "probes": ("Sonde", "Parameter", "Wert", "wo", "was sie sagt")},
}
WORDS = {
    "en": {"destructive": "destructive", "once": "not repeatable", "optional": "optional"},
    "de": {"destructive": "einschneidend", "once": "nicht wiederholbar", "optional": "optional"},
}
KINDS = {"text": "Text", "flag": "ja/nein", "number": "Zahl", "bytes": "Größe", "seconds": "Dauer", "list": "Liste"}


def tables(language: str) -> dict[str, str]:
    """The generated parts, by the name between their markers."""
    actions = (_action_row(name, action, WORDS[language]) for name, action in sorted(ACTIONS.items()))
    probes = (_probe_row(name, probe, language) for name, probe in sorted(PROBES.items()))
    return {"actions": _table(HEADINGS[language]["actions"], actions), "probes": _table(HEADINGS[language]["probes"], probes)}


def renewed(text: str, parts: Mapping[str, str]) -> str:
    """A document with the parts between its markers replaced."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            msg = f"no markers for {name}"
            raise ValueError(msg)
        text = pattern.sub(lambda match, part=part: match[1] + part + match[2], text)
    return text


def _action_row(name: str, action: Action, words: Mapping[str, str]) -> tuple[str, ...]:
    marks = [words["destructive"]] * action.destructive + [words["once"]] * (not action.repeatable)
    results = ", ".join(f"`{result}`" for result in action.results)
    return f"`{name}`", _parameters(action.params, words), results, ", ".join(marks), _where(action), action.summary


def _probe_row(name: str, probe: Probe, language: str) -> tuple[str, ...]:
    return f"`{name}`", _parameters(probe.params, WORDS[language]), KINDS[probe.kind] if language == "de" else probe.kind.value, _where(probe), probe.summary


def _where(one: Action | Probe) -> str:
    return ", ".join(f"`{target}`" for target in sorted(one.targets, reverse=True))


def _parameters(params: type[Params], words: Mapping[str, str]) -> str:
    declared = params.model_json_schema(mode="serialization").get("properties", {})
    required = {name for name, info in params.model_fields.items() if info.is_required()}
    return ", ".join(f"`{name}`{'' if name in required else _default(entry.get('default'), words)}" for name, entry in declared.items())


def _default(value: Any, words: Mapping[str, str]) -> str:
    plain = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""
    return f" ({value})" if plain else f" ({words['optional']})"


def _table(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    for language, file in FILES.items():
        file.write_text(renewed(file.read_text(encoding="utf-8"), tables(language)), encoding="utf-8")
        sys.stdout.write(f"wrote {file}\n")

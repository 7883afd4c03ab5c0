"""What to keep in mind of figures that can be believed: kept with the figures, told in the reader's language. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TEXTS: Mapping[str, tuple[str, str]] = {
    "late": (
        "The load generator was late by {ms} ms (p99): times to the first token may be too long by as much.",
        "Der Lastgenerator kam bis zu {ms} ms zu spät (p99): Die Zeiten bis zum ersten Token können um so viel zu lang sein.",
    ),
    "unseen": (
        "The components could not be looked at for {for_s} s, from second {since_s} on: counted as degraded.",
        "Die Komponenten waren {for_s} s lang nicht zu sehen, von Sekunde {since_s} an: als eingeschränkter Betrieb gezählt.",
    ),
}
"""Sentences in English and German, by kind."""


@dataclass(frozen=True, slots=True)
class Note:
    """One of them.

    Attributes:
        kind: `late` or `unseen`.
        values: The numbers in its sentence, by name.
    """

    kind: str
    values: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As it is kept: kind and numbers, and the English sentence for whoever reads the file."""
        return {"kind": self.kind, "values": dict(self.values), "text": text_of(self.kind, self.values, "en")}


def text_of(kind: str, values: Mapping[str, float], language: str) -> str:
    """The sentence.

    Args:
        kind: As in `Note`.
        values: As in `Note`.
        language: `de`, or any other for English.
    """
    point = "," if language == "de" else "."
    return _TEXTS[kind][language == "de"].format(**{name: f"{value:.6g}".replace(".", point) for name, value in values.items()})


def text_from(kept: Any, language: str) -> str:
    """The sentence of a note as it was kept; those of older runs are sentences themselves."""
    if not isinstance(kept, Mapping):
        return str(kept)
    try:
        return text_of(kept["kind"], kept["values"], language)
    except (KeyError, TypeError, ValueError, AttributeError):
        return str(kept.get("text", ""))

"""Manifests as text that is the same whatever wrote them: read from Helm's output, written in one form for every reader of YAML.

Helm's versions print the same objects in different layouts, and readers of YAML 1.1 and 1.2 take some words (`yes`, `0440`, `1e3`) for
different things. So what stood there without quotes and may mean something else than text stays as it stood; all text that could be
taken for something else is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_TEXT = re.compile(r"[A-Za-z/_](?:[A-Za-z0-9_./@:+=-]*[A-Za-z0-9_/])?")
"""Words that every reader takes for text when nothing of `_WORDS`."""

_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "_"})


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A number, truth value or nothing, as somebody wrote it."""

    text: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object of Kubernetes.

    Attributes:
        kind: Such as `Deployment`.
        name: In its namespace.
        content: All of it.
    """

    kind: str
    name: str
    content: dict[str, Any]

    @property
    def file_name(self) -> str:
        """A name for a file of its own: `deployment-kiva-gateway.yaml`."""
        return f"{self.kind.lower()}-{re.sub(r'[^A-Za-z0-9.-]', '_', self.name)}.yaml"


def parse_manifests(text: str) -> list[Manifest]:
    """The objects in what `helm template` printed, sorted by kind and name.

    Raises:
        ValueError: It is no YAML, or something in it is no object of Kubernetes.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        contents = [_value(node) for node in YAML(typ="safe").compose_all(text) if node is not None]
    except YAMLError as error:
        msg = f"what Helm printed is no YAML: {error}"
        raise ValueError(msg) from None
    return sorted((_manifest(content) for content in contents if content not in (None, Verbatim(""))), key=lambda one: (one.kind, one.name))


def yaml_text(value: Any) -> str:
    """JSON-ready data as YAML, in the order of its keys; a line break ends it."""
    return "\n".join(_block(value)) + "\n" if isinstance(value, dict | list) and value else _scalar(value) + "\n"


def _manifest(content: Any) -> Manifest:
    match content:
        case {"kind": str(kind), "metadata": {"name": str(name)}}:
            return Manifest(kind, name, content)
        case _:
            msg = f"what Helm printed is no object with a kind and a name: {str(content)[:200]}"
            raise ValueError(msg)


def _value(node: Any) -> Any:
    match node.id:
        case "mapping":
            return {str(key.value): _value(value) for key, value in node.value}
        case "sequence":
            return [_value(entry) for entry in node.value]
        case _:
            return str(node.value) if node.style or _is_text(node.value) else _unquoted(node)


def _unquoted(node: Any) -> str | Verbatim:
    """What stands without quotes: text for sure when no reader of YAML takes anything that looks like it for a number or a word."""
    looks_like_data = re.fullmatch(r"[-+.~0-9][-+.0-9A-Fa-f_xo:]*|" + "|".join(_WORDS) + "|", node.value, re.IGNORECASE)
    return Verbatim(node.value) if looks_like_data else str(node.value)


def _block(value: dict[str, Any] | list[Any]) -> list[str]:
    if isinstance(value, dict):
        return [line for key, entry in value.items() for line in _entry(f"{_scalar(key)}:", entry)]
    return [line for entry in value for line in _entry("-", entry)]


def _entry(prefix: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        lines = _block(value)
        if prefix == "-":
            yield f"- {lines[0]}"
            lines = lines[1:]
        else:
            yield prefix
        yield from (f"  {line}" if line else "" for line in lines)
    elif isinstance(value, str) and _fits_a_block(value):
        yield f"{prefix} |" if value.endswith("\n") else f"{prefix} |-"
        yield from (f"  {line}" if line else "" for line in value.removesuffix("\n").split("\n"))
    else:
        yield f"{prefix} {_scalar(value)}"


def _fits_a_block(text: str) -> bool:
    """Whether text of several lines can stand as it is, for people to read."""
    lines = text.removesuffix("\n").split("\n")
    readable = all(line.replace("\t", " ").isprintable() and (not line or line.strip()) for line in lines)
    return "\n" in text and readable and bool(lines[0]) and bool(lines[-1]) and lines[0][0] not in " \t"


def _scalar(value: Any) -> str:
    match value:
        case Verbatim(text):
            return text
        case dict():
            return "{}"
        case list():
            return "[]"
        case str() if _is_text(value):
            return value
        case str() if value.isprintable() and ('"' in value or "\\" in value):  # JSON in one line
            return "'" + value.replace("'", "''") + "'"
        case str():
            quoted = json.dumps(value, ensure_ascii=False)
            return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
        case float():  # 1e-05 is text to readers of YAML 1.1
            return re.sub(r"^(-?\d+)e", r"\1.0e", json.dumps(value))
        case _:
            return json.dumps(value)


def _is_text(text: str) -> bool:
    return _TEXT.fullmatch(text) is not None and text.lower() not in _WORDS

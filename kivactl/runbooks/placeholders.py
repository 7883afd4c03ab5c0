"""`${name}` in a runbook: a parameter, `${step.result}` of an earlier step, `${platform.name}`, `${run.name}`; `$${` is a plain `${`.

A tree is resolved in one pass from what was written, so that a value can never be taken for a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kivactl.runbooks.format import ParameterType
from kivactl.runbooks.parameters import displayed, written
from kivactl.spec.document import Fault, Node, path_of
from kivactl.spec.quantities import write_bytes, write_duration

Steps = tuple[str | int, ...]

_PLACEHOLDER = re.compile(r"\$(\$?)\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Known:
    """What a placeholder stands for.

    Attributes:
        value: Its value, or an example of its type.
        label: What people read as long as the value is not known (`<model>`); empty once it is.
        kind: The parameter's type; None for others.
    """

    value: Any
    label: str = ""
    kind: ParameterType | None = None

    @property
    def text(self) -> str:
        """What people read."""
        return self.label or displayed(self.kind, self.value)


Lookup = Callable[[str], Known]
"""What a name stands for; raises `ValueError` with the sentence when it stands for nothing."""


def names_in(text: str) -> Iterator[str]:
    """The names of the placeholders of a text."""
    return (match[2] for match in _PLACEHOLDER.finditer(text) if not match[1])


def labelled(text: str) -> str:
    """A text as people read it as long as nothing is chosen: `<name>` for `${name}`."""
    return _PLACEHOLDER.sub(lambda match: match[0][1:] if match[1] else f"<{match[2]}>", text)


def used_in(node: Node) -> Iterator[str]:
    """The names of all placeholders below a node."""
    if isinstance(node.value, dict):
        for child in node.value.values():
            yield from used_in(child)
    elif isinstance(node.value, list):
        for child in node.value:
            yield from used_in(child)
    elif isinstance(node.value, str):
        yield from names_in(node.value)


def resolved(node: Node, lookup: Lookup, where: Steps, faults: list[Fault], schema: Mapping[str, Any] | None = None) -> Node:
    """A tree with values instead of placeholders.

    A text that is one placeholder becomes its value with its type; where the value is None the key is left out. Sentences
    (`en`, `de`) show values as people read them.

    Args:
        node: As written.
        lookup: What names stand for.
        where: The node's location in the document, for the faults.
        faults: Gets what is wrong.
        schema: JSON Schema of the place, which tells whether a duration has to be a number or text with a unit; without one it is text.
    """
    return _Resolver(lookup, faults, schema).resolve(node, where, ())


class _Resolver:
    def __init__(self, lookup: Lookup, faults: list[Fault], schema: Mapping[str, Any] | None) -> None:
        self._lookup = lookup
        self._faults = faults
        self._schema = schema

    def resolve(self, node: Node, where: Steps, within: Steps) -> Node:
        if isinstance(node.value, dict):
            values = {key: self.resolve(child, (*where, key), (*within, key)) for key, child in node.value.items()}
            return Node({key: child for key, child in values.items() if not _absent(node.value[key], child)}, node.place, node.keys)
        if isinstance(node.value, list):
            entries = [(child, self.resolve(child, (*where, index), (*within, index))) for index, child in enumerate(node.value)]
            return Node([entry for child, entry in entries if not _absent(child, entry)], node.place)
        if not isinstance(node.value, str) or "${" not in node.value:
            return node
        return Node(self._text(node, where, within), node.place)

    def _text(self, node: Node, where: Steps, within: Steps) -> Any:
        sentence = self._schema is None and where[-1:] in {("en",), ("de",)}
        whole = _PLACEHOLDER.fullmatch(node.value)
        if whole and not whole[1] and not sentence:
            known = self._known(whole[2], node, where)
            return None if known is None else self._typed(known, within)

        def replacement(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]
            known = self._known(match[2], node, where)
            if known is None:
                return match[0]
            return known.text if sentence else written(known.kind, known.value)

        return _PLACEHOLDER.sub(replacement, node.value)

    def _known(self, name: str, node: Node, where: Steps) -> Known | None:
        try:
            return self._lookup(name)
        except ValueError as error:
            self._faults.append(Fault(node.place, path_of(where), str(error)))
            return None

    def _typed(self, known: Known, within: Steps) -> Any:
        """The value in the form that its place reads: pydantic's durations and sizes are texts with a unit."""
        value = known.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        if self._schema is None:
            return written(known.kind, value) if known.kind in {ParameterType.DURATION, ParameterType.SIZE} else value
        options = list(options_at(self._schema, within))
        if any(option.get("type") in {"number", "integer"} for option in options):
            return int(value) if isinstance(value, float) and value.is_integer() and not any(option.get("type") == "number" for option in options) else value
        for option in options:
            if "ms|" in option.get("pattern", "") and value >= 0:
                return write_duration(value)
            if "KiB" in option.get("pattern", "") and value >= 0:
                return write_bytes(int(value))
        if any(option.get("type") == "string" for option in options) and known.kind is not None:
            return written(known.kind, value)
        return value


def options_at(schema: Mapping[str, Any], steps: Steps) -> Iterator[Mapping[str, Any]]:
    """What a JSON Schema allows at a location: the alternatives, references followed."""
    yield from _options(schema, schema, steps)


def _options(root: Mapping[str, Any], part: Mapping[str, Any], steps: Steps) -> Iterator[Mapping[str, Any]]:
    if "$ref" in part:
        yield from _options(root, root["$defs"][part["$ref"].rpartition("/")[2]], steps)
        return
    for choice in (*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())):
        yield from _options(root, choice, steps)
    if not steps:
        yield part
        return
    step, rest = steps[0], steps[1:]
    child = part.get("items") if isinstance(step, int) else part.get("properties", {}).get(step) or part.get("additionalProperties")
    if isinstance(child, Mapping):
        yield from _options(root, child, rest)


def _absent(before: Node, after: Node) -> bool:
    """Whether a placeholder stood for nothing, which is not the same as an empty value that was written."""
    return after.value is None and before.value is not None

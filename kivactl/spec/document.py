"""Documents people write: YAML 1.2 as a tree in which every value and key knows its file and line.

Belongs here: reading a file, what can be wrong with it as YAML, laying an overlay over it. What its keys mean is not
known here, so that a cheap reader (`status`) needs nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kivactl.errors import SpecError

if TYPE_CHECKING:
    from ruamel.yaml.nodes import MappingNode
    from ruamel.yaml.nodes import Node as YamlNode

_LARGEST_FILE_BYTES = 2**20
_MOST_VALUES = 100_000
"""Stops aliases that multiply; a spec of a thousand models has a tenth of it."""

_KNOWN_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; lines count from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `path` is the key's, such as `models[0].replicas`; empty for the whole document."""

    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path + ': ' if self.path else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place.

    Attributes:
        value: A scalar, a `dict[str, Node]` or a `list[Node]`.
        place: Where the value begins.
        keys: For a mapping: where each key stands.
    """

    value: Any
    place: Place
    keys: dict[str, Place] = field(default_factory=dict)

    @property
    def plain(self) -> Any:
        """The value without places: JSON-ready data."""
        if isinstance(self.value, dict):
            return {key: child.plain for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain for child in self.value]
        return self.value

    def child(self, step: str | int) -> Node | None:
        """The value under a key or index; None where there is none."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            child: Node = self.value[step]
            return child
        return None


def path_of(steps: tuple[str | int, ...]) -> str:
    """A location as people write it: `models[0].replicas`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def shown(value: Any) -> str:
    """A value in a sentence: text in quotes, long ones shortened, YAML's words for the others."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f"'{value[:60]}...'" if len(value) > 60 else f"'{value}'"
        case _:
            return str(value)


def read(path: Path) -> tuple[Node | None, list[Fault]]:
    """Read one document.

    Args:
        path: The file.

    Returns:
        The tree, None for a document without content or one that is not YAML; and every fault found.

    Raises:
        SpecError: The file cannot be read at all.
    """
    return parse_bytes(content_of(path), path)


def content_of(path: Path) -> bytes:
    """The bytes of a document.

    Raises:
        SpecError: The file cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"there is no file {path}", "kivactl init") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a folder, not a file") from None
    except PermissionError:
        raise SpecError(f"no permission to read {path}", f"ls -l {path}") from None
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST_FILE_BYTES:
        raise SpecError(f"{path} is larger than 1MiB: not a spec")
    return data


def parse_bytes(data: bytes, path: Path) -> tuple[Node | None, list[Fault]]:
    """Parse the bytes of a document; see `read`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return None, [Fault(Place(path, line), "", f"not UTF-8 text (byte 0x{data[error.start]:02x}); save the file as UTF-8")]
    return parse(text, path)


def parse(text: str, path: Path) -> tuple[Node | None, list[Fault]]:
    """Parse the text of a document; see `read`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        root = _composed(text)
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        return None, [Fault(Place(path, line), "", f"a character that YAML does not allow (U+{ord(text[error.position]):04X})")]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return None, [Fault(Place(path, mark.line + 1 if mark else 1), "", _syntax(error.problem or "", error.context or ""))]
    except (YAMLError, RecursionError, ValueError):
        return None, [Fault(Place(path, 1), "", "not YAML")]
    if root is None:
        return None, []
    builder = _Builder(path, YAML(typ="safe", pure=True).constructor)
    tree = builder.build(root, (), root.start_mark.line + 1)
    return tree, builder.faults


@lru_cache(maxsize=16)
def _composed(text: str) -> YamlNode | None:
    """The parser's nodes. They take most of the time, and a command reads the same spec at every step that waited for something."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).compose(text)  # type: ignore[no-any-return]


def write_yaml(data: Any) -> str:
    """JSON-ready data as YAML 1.2."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def merge(base: Node, overlay: Node) -> Node:
    """Lay an overlay over a document.

    Mappings merge key by key; lists whose entries are mappings with a `name` merge entry by entry, new names at the end;
    everything else the overlay replaces.
    """
    if isinstance(base.value, dict) and isinstance(overlay.value, dict):
        merged = {key: merge(child, overlay.value[key]) if key in overlay.value else child for key, child in base.value.items()}
        added = {key: child for key, child in overlay.value.items() if key not in base.value}
        return Node({**merged, **added}, base.place, {**overlay.keys, **base.keys})
    if isinstance(base.value, list) and isinstance(overlay.value, list) and _named(base) and _named(overlay):
        over = {child.value["name"].value: child for child in overlay.value}
        known = {child.value["name"].value for child in base.value}
        entries = [merge(child, over[child.value["name"].value]) if child.value["name"].value in over else child for child in base.value]
        return Node([*entries, *(child for name, child in over.items() if name not in known)], base.place)
    return overlay


def same_names(node: Node, steps: tuple[str | int, ...] = ()) -> Iterator[Fault]:
    """The entries of lists that have the name of an earlier one; merging could not tell them apart."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from same_names(child, (*steps, key))
    elif isinstance(node.value, list):
        first: dict[str, Place] = {}
        for index, child in enumerate(node.value):
            yield from same_names(child, (*steps, index))
            name = child.child("name")
            if name is None or not isinstance(name.value, str):
                continue
            if name.value in first:
                yield Fault(name.place, path_of((*steps, index, "name")), f"'{name.value}' is already the name of the entry in line {first[name.value].line}")
            first.setdefault(name.value, name.place)


def _named(node: Node) -> bool:
    return all(isinstance(child.value, dict) and "name" in child.value and isinstance(child.value["name"].value, str) for child in node.value)


_SYNTAX = (
    ("'\\t'", "a tab stands where spaces must; indent with spaces"),
    ("mapping values are not allowed", "a ':' is not expected here; check the indentation of this line and the one above, or quote the text"),
    ("unexpected end of stream", "a quote is never closed"),
    ("'<stream end>'", "a bracket is never closed"),
    ("expected ',' or", "a ',' or a closing bracket is missing"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("could not find expected ':'", "a ':' is missing after the key"),
    ("undefined alias", "an alias (*) has no anchor (&) above it"),
    ("another document", "a second document begins (---); a file holds one"),
    ("cannot start any token", "text that begins with this character must be quoted"),
)


def _syntax(problem: str, context: str) -> str:
    for sign, sentence in _SYNTAX:
        if sign in problem:
            return sentence
    return f"not YAML: {' '.join((context + ' ' + problem).split()) or 'syntax error'}"


class _Builder:
    """Builds the tree from the parser's nodes and collects what is wrong."""

    def __init__(self, path: Path, constructor: Any) -> None:
        self.faults: list[Fault] = []
        self._path = path
        self._constructor = constructor
        self._open: list[YamlNode] = []
        self._count = 0

    def build(self, node: YamlNode, steps: tuple[str | int, ...], line: int) -> Node:
        from ruamel.yaml.nodes import MappingNode, ScalarNode

        place = Place(self._path, line)
        self._count += 1
        if self._count > _MOST_VALUES:
            raise SpecError(f"{self._path} has more than {_MOST_VALUES} values: not a spec")
        if isinstance(node, ScalarNode):
            return Node(self._scalar(node, place, steps), place)
        if any(node is parent for parent in self._open):
            self._fault(place, steps, "contains itself through an alias (*)")
            return Node(None, place)
        self._open.append(node)
        try:
            if str(node.tag) not in _KNOWN_TAGS:
                self._fault(place, steps, f"the tag {node.tag} is not known here")
            if isinstance(node, MappingNode):
                return self._mapping(node, steps, place)
            children = [self.build(child, (*steps, index), child.start_mark.line + 1) for index, child in enumerate(node.value)]
            return Node(children, place)
        finally:
            self._open.pop()

    def _mapping(self, node: MappingNode, steps: tuple[str | int, ...], place: Place) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Node] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if str(key.tag) == "tag:yaml.org,2002:merge":
                merged += self._merged(value, steps, line)
                continue
            if not isinstance(key.value, str) or str(key.tag) != "tag:yaml.org,2002:str":
                found = shown(key.value) if isinstance(key.value, str) else "a list or mapping"
                self._fault(Place(self._path, line), steps, f"a key must be text, not {found}")
                continue
            if key.value in values:
                self._fault(Place(self._path, line), (*steps, key.value), f"stands here a second time (first in line {keys[key.value].line})")
                continue
            keys[key.value] = Place(self._path, line)
            # An empty value has the mark of whatever comes next.
            values[key.value] = self.build(value, (*steps, key.value), value.start_mark.line + 1 if value.value != "" else line)
        for source in merged:  # the mapping's own keys win, then the earlier source
            for name, child in source.value.items():
                values.setdefault(name, child)
                keys.setdefault(name, source.keys[name])
        return Node(values, place, keys)

    def _merged(self, value: YamlNode, steps: tuple[str | int, ...], line: int) -> list[Node]:
        tree = self.build(value, steps, line)
        sources = tree.value if isinstance(tree.value, list) else [tree]
        if all(isinstance(source.value, dict) for source in sources):
            return sources
        self._fault(Place(self._path, line), steps, "'<<' takes a mapping, such as an alias (*) of one")
        return []

    def _scalar(self, node: YamlNode, place: Place, steps: tuple[str | int, ...]) -> Any:
        from ruamel.yaml.error import YAMLError

        try:
            value = self._constructor.construct_object(node)
        except (YAMLError, ValueError, OverflowError):
            self._fault(place, steps, f"{shown(node.value)} cannot be read as {str(node.tag).rpartition(':')[2]}")
            return None
        if isinstance(value, (str, int, float, bool)) or value is None:
            return value
        if isinstance(value, datetime.date):
            return str(node.value)
        self._fault(place, steps, f"the tag {node.tag} is not known here")
        return None

    def _fault(self, place: Place, steps: tuple[str | int, ...], message: str) -> None:
        self.faults.append(Fault(place, path_of(steps), message))

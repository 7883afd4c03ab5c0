"""Changes single values in `kiva.yaml` or its overlay and leaves every other byte as people wrote it.

What is written is first read again: it loads, and its data are the old ones but for the change, or nothing is written. Where a
value stands under an anchor that is used elsewhere, or as block text, a person has to change it.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kivactl.errors import PreconditionError, SpecError
from kivactl.spec.load import load, merged

if TYPE_CHECKING:
    from ruamel.yaml.nodes import MappingNode
    from ruamel.yaml.nodes import Node as YamlNode

Scalar = str | int | float | bool
Steps = tuple[str, ...]
"""Where a value stands: keys, and for entries of lists their names, as in `("models", "smollm2", "replicas")`."""

_BOM = "\ufeff"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of a spec that is worked out and checked, not yet written.

    Attributes:
        texts: Old and new bytes of each file that changes.
        digest: Of the spec after it.
    """

    texts: Mapping[Path, tuple[bytes, bytes]]
    digest: str

    @property
    def empty(self) -> bool:
        """Whether the values are as wanted already."""
        return not self.texts

    def write(self) -> None:
        """Replace the files, each in one step, with their mode and owner; a link goes on leading to its file.

        Raises:
            PreconditionError: A file was changed meanwhile, or its owner cannot be kept.
        """
        for path, (before, _) in self.texts.items():
            if path.read_bytes() != before:
                raise PreconditionError(f"{path} was changed by someone else meanwhile", "run the same command again")
        for path, (_, after) in self.texts.items():
            _replace(path.resolve(), after)


def edit_for(files: Sequence[Path], changes: Mapping[Steps, Scalar]) -> Edit:
    """Work out a change; nothing is written.

    A value is changed in the file where it holds: the overlay's if that has it. A key that is missing is added to its mapping.

    Args:
        files: The base, then the overlay if there is one, as in `Loaded.files`.
        changes: New values by place.

    Raises:
        SpecError: The place does not exist or cannot be changed by a machine, or the spec would not load with it.
    """
    old = {path: path.read_bytes() for path in files}
    texts = {path: content.decode() for path, content in old.items()}
    for steps, value in changes.items():
        path, text = _changed(texts, steps, value)
        texts[path] = text
    new = {path: text.encode() for path, text in texts.items()}
    digest = _checked(list(files), new, changes)
    return Edit({path: (old[path], new[path]) for path in files if old[path] != new[path]}, digest)


def _changed(texts: Mapping[Path, str], steps: Steps, value: Scalar) -> tuple[Path, str]:
    """The file that a change belongs to, and its text after it."""
    found = {path: _find(text, steps) for path, text in texts.items()}
    for path in reversed(list(texts)):
        place = found[path]
        if isinstance(place, _Value):
            return path, _with_value(texts[path], place, steps, value, path)
    for path in texts:
        place = found[path]
        if isinstance(place, _Gap):
            return path, _with_key(texts[path], place, steps, value, path)
    raise SpecError(f"{_shown(steps)} cannot be set: the spec has nothing of that name", "kivactl spec show")


@dataclass(frozen=True, slots=True)
class _Value:
    """A value, and whether it is reached by more than one way."""

    node: YamlNode
    shared: bool


@dataclass(frozen=True, slots=True)
class _Gap:
    """A mapping that lacks the last key, and whether it is reached by more than one way."""

    mapping: MappingNode
    shared: bool


def _find(text: str, steps: Steps) -> _Value | _Gap | None:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    root = YAML(typ="safe", pure=True).compose(text.removeprefix(_BOM))
    reached = _reached_twice(root)
    node, shared = root, False
    for number, step in enumerate(steps):
        shared = shared or id(node) in reached
        if isinstance(node, SequenceNode):
            entry = next((child for child in node.value if isinstance(child, MappingNode) and _child(child, "name", "") == step), None)
        elif isinstance(node, MappingNode):
            entry = next((value for key, value in node.value if key.value == step), None)
            if entry is None and number == len(steps) - 1:
                return _Gap(node, shared)
        else:
            return None
        if entry is None:
            return None
        node = entry
    return None if node is None else _Value(node, shared or id(node) in reached)


def _child(mapping: MappingNode, key: str, absent: str) -> str:
    return next((str(value.value) for name, value in mapping.value if name.value == key), absent)


def _reached_twice(root: YamlNode | None) -> set[int]:
    """The nodes to which more than one way leads: those with aliases. Marks a cycle once, and does not follow it."""
    seen: set[int] = set()
    twice: set[int] = set()
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            twice.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node.value, list):
            waiting += [part for child in node.value for part in (child if isinstance(child, tuple) else (child,))]
    return twice


def _with_value(text: str, place: _Value, steps: Steps, value: Scalar, path: Path) -> str:
    from ruamel.yaml.nodes import ScalarNode

    node, line = place.node, place.node.start_mark.line + 1
    if place.shared:
        raise _by_hand(steps, path, line, "it stands under an anchor (&) that is used in more than one place")
    if not isinstance(node, ScalarNode):
        raise _by_hand(steps, path, line, "it is no single value")
    offset = len(text) - len(text.removeprefix(_BOM))
    begin, end = node.start_mark.index + offset, node.end_mark.index + offset
    if begin == end or text[begin] in "&!*|>":
        raise _by_hand(steps, path, line, "it is empty, block text, or bears an anchor or a tag")
    if node.tag == _tag_of(value) and str(node.value) == str(_plain(value)):
        return text
    return text[:begin] + _written(value) + text[end:]


def _with_key(text: str, place: _Gap, steps: Steps, value: Scalar, path: Path) -> str:
    """Add a key: at the end of a mapping in braces; else on a line of its own after the last key whose value is on its line."""
    from ruamel.yaml.nodes import ScalarNode

    mapping = place.mapping
    line = mapping.start_mark.line + 1
    if place.shared:
        raise _by_hand(steps, path, line, "its mapping stands under an anchor (&) that is used in more than one place")
    offset = len(text) - len(text.removeprefix(_BOM))
    entry = f"{_written(steps[-1])}: {_written(value)}"
    own = [(key, child) for key, child in mapping.value if str(key.tag) != _MERGE]
    if mapping.flow_style:
        if not mapping.value:
            begin = mapping.start_mark.index + offset + 1
            return text[:begin] + entry + text[begin:]
        end = mapping.value[-1][1].end_mark.index + offset
        return f"{text[:end]}, {entry}{text[end:]}"
    single = [(key, child) for key, child in own if isinstance(child, ScalarNode) and child.style not in {"|", ">"} and child.value != ""]
    if not single:
        raise _by_hand(steps, path, line, "there is no line after which it could stand")
    key, child = single[-1]
    end = text.find("\n", child.end_mark.index + offset)
    indent = " " * key.start_mark.column
    if end < 0:
        return f"{text}\n{indent}{entry}\n"
    newline = "\r\n" if text[end - 1] == "\r" else "\n"
    return f"{text[: end + 1]}{indent}{entry}{newline}{text[end + 1 :]}"


def _checked(files: list[Path], new: Mapping[Path, bytes], changes: Mapping[Steps, Scalar]) -> str:
    """The digest of the changed spec, once it is certain that it loads and differs by the changes only."""
    base, *overlays = files
    environment = overlays[0].name[len(base.stem) + 1 : -len(base.suffix)] if overlays else None
    wanted = merged(base, environment).plain
    for steps, value in changes.items():
        _set(wanted, steps, value)
    what = ", ".join(f"{_shown(steps)} = {value}" for steps, value in changes.items())
    with tempfile.TemporaryDirectory(prefix="kiva-spec-") as folder:
        for path, content in new.items():
            (Path(folder) / path.name).write_bytes(content)
        try:
            loaded = load(Path(folder) / base.name, environment)
        except SpecError as error:
            raise SpecError(f"the spec would not load with {what}", "kivactl spec check", error.details or (error.message,)) from None
        if merged(Path(folder) / base.name, environment).plain != wanted:
            raise SpecError(f"{base} cannot be changed by a machine to {what}", "change it by hand, then: kivactl spec check")
    return loaded.digest


def _set(data: Any, steps: Steps, value: Scalar) -> None:
    """Set a value in plain data; lists are entered by name."""
    for step in steps[:-1]:
        data = next((entry for entry in data if entry.get("name") == step), {}) if isinstance(data, list) else data.setdefault(step, {})
    data[steps[-1]] = copy.copy(value)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step, on disk before it has its name."""
    status = path.stat()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                try:
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                except PermissionError:
                    raise PreconditionError(f"{path} belongs to someone else, and would not after a change", f"ls -l {path}") from None
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _plain(value: Scalar) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _tag_of(value: Scalar) -> str:
    kinds = {bool: "bool", int: "int", float: "float", str: "str"}
    return f"tag:yaml.org,2002:{kinds[type(value)]}"


def _written(value: Scalar) -> str:
    """A value as YAML on one line; text in quotes where it would be read as something else."""
    from ruamel.yaml import YAML

    if not isinstance(value, str):
        return _plain(value)
    if value.replace("-", "").replace(".", "").replace("_", "").isalnum() and value.isascii() and value[0] not in "-.":
        node = YAML(typ="safe", pure=True).compose(value)
        if str(node.tag) == _tag_of(value):
            return value
    return "'" + value.replace("'", "''") + "'" if value.isprintable() else _escaped(value)


def _escaped(value: str) -> str:
    import json

    return json.dumps(value)


def _shown(steps: Steps) -> str:
    return ".".join(steps)


def _by_hand(steps: Steps, path: Path, line: int, why: str) -> SpecError:
    return SpecError(f"{_shown(steps)} at {path.name}:{line} cannot be changed by a machine: {why}", f"change it in {path} by hand, then: kivactl deploy")

"""What is wrong with a document, in people's words: the model's complaints as faults with file, line and nearest name.

Serves every document people write: give the tree and the pydantic model that says what it may contain.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from kivactl.spec.document import Fault, Node, Place, path_of, shown

if TYPE_CHECKING:
    from pydantic import BaseModel

Steps = tuple[str | int, ...]
M = TypeVar("M", bound="BaseModel")

_KINDS = {
    "string_type": "text",
    "string_unicode": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "empty",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def validated(model: type[M], tree: Node) -> tuple[M | None, list[Fault]]:
    """Check a tree against a model.

    Args:
        model: What the document may contain.
        tree: The document, overlays merged.

    Returns:
        The value, None when there are faults; the faults in the order the model reports them.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(tree.plain), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults: list[Fault] = []
    kinds: dict[Steps, list[str]] = {}  # alternatives of a union, each complaining for itself
    corrected: set[str] = set()  # paths of keys that are there, misspelt
    schema = schema_of(model)
    for item in errors:
        steps, kind = item["loc"], item["type"]
        if kind in {"missing", "same_name"}:  # the first comes below, the second `document.same_names` tells with its line
            continue
        if kind == "extra_forbidden":
            valid = valid_keys(schema, steps[:-1])
            name = str(steps[-1])
            present = _at(tree, steps[:-1]).value
            corrected.update(path_of((*steps[:-1], near)) for near in difflib.get_close_matches(name, [key for key in valid if key not in present], n=1))
            faults.append(Fault(_key_place(tree, steps), path_of(steps[:-1]), f"unknown key '{name}'; {suggestion(name, valid)}"))
            continue
        if steps and steps[-1] == "[key]":  # pydantic's mark for a complaint about the key itself
            steps = steps[:-1]
            faults.append(Fault(_key_place(tree, steps), path_of(steps), _sentence(kind, item.get("ctx", {}), item["msg"], str(steps[-1]))))
            continue
        found = _existing(tree, steps)
        node = _at(tree, found)
        if len(found) < len(steps) and kind in _KINDS:
            kinds.setdefault(found, []).append(_KINDS[kind])
            continue
        if kind == "too_short" and len(node.value) >= item["ctx"]["min_length"]:
            continue  # pydantic counts only the entries without faults
        faults.append(Fault(node.place, path_of(found), _sentence(kind, item.get("ctx", {}), item["msg"], node.value)))
    for found, names in kinds.items():
        node = _at(tree, found)
        faults.append(Fault(node.place, path_of(found), f"must be {_either(list(dict.fromkeys(names)))}, not {shown(node.value)}"))
    missing = [item["loc"] for item in errors if item["type"] == "missing" and path_of(item["loc"]) not in corrected]
    faults += [Fault(_at(tree, steps[:-1]).place, path_of(steps), "is missing") for steps in missing]
    return None, faults


@cache
def schema_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """The JSON Schema of a model, which takes pydantic longer than to check a document against it."""
    return model.model_json_schema()


def suggestion(name: str, valid: Sequence[str]) -> str:
    """The nearest valid name as a question, otherwise the list of all."""
    near = difflib.get_close_matches(name, valid, n=1) or difflib.get_close_matches(name.lower().replace("-", "_"), valid, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(valid)}"


def valid_keys(schema: Mapping[str, Any], steps: Steps) -> list[str]:
    """The keys that a JSON Schema allows at a location, in its order; empty where any key is allowed."""
    here: Mapping[str, Any] = _resolved(schema, schema)
    for step in steps:
        child = here.get("items", {}) if isinstance(step, int) else here.get("properties", {}).get(step, {})
        here = _resolved(schema, child)
    return list(here.get("properties", {}))


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    for option in (part, *part.get("allOf", ()), *part.get("anyOf", ())):
        if "$ref" in option:
            definition: Mapping[str, Any] = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return definition
    return part


def _sentence(kind: str, context: Mapping[str, Any], message: str, value: Any) -> str:
    if kind in _KINDS:
        quote = "; put it in quotes" if kind == "string_type" and isinstance(value, (int, float)) else ""
        return f"must be {_KINDS[kind]}, not {shown(value)}{quote}"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}, not {_bare(value)}"
    match kind:
        case "literal_error" | "enum":
            expected = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
            near = difflib.get_close_matches(str(value), expected, n=1)
            return f"must be {_either(expected)}, not {shown(value)}" + (f"; did you mean '{near[0]}'?" if near else "")
        case "string_too_short" | "too_short":
            return "must not be empty" if context["min_length"] == 1 else f"must have at least {context['min_length']} {_parts(kind)}"
        case "string_too_long" | "too_long":
            return f"must have at most {context['max_length']} {_parts(kind)}, not {len(value)}"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}, not {shown(value)}"
        case "value_error":
            return str(context["error"])
        case _:
            return message


def _parts(kind: str) -> str:
    return "characters" if kind.startswith("string") else "entries"


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _existing(tree: Node, steps: Steps) -> Steps:
    """The longest beginning of a location that the tree has; pydantic appends the alternatives of unions."""
    node: Node | None = tree
    for index, step in enumerate(steps):
        node = node.child(step) if node else None
        if node is None:
            return steps[:index]
    return steps


def _at(tree: Node, steps: Steps) -> Node:
    for step in _existing(tree, steps):
        child = tree.child(step)
        assert child is not None
        tree = child
    return tree


def _key_place(tree: Node, steps: Steps) -> Place:
    parent = _at(tree, steps[:-1])
    return parent.keys.get(str(steps[-1]), parent.place)

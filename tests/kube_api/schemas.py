"""Kubernetes' own schemas, out of the package kubernetes-validate: what a field is, how lists merge, what is unknown."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

Json = dict[str, Any]

VERSION = "1.37"
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


@cache
def definitions() -> dict[str, Json]:
    """All schemas by their long name."""
    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local" / "_definitions.json"
    found: dict[str, Json] = json.loads(path.read_text())["$defs"]
    return found


@cache
def _by_kind() -> dict[tuple[str, str, str], str]:
    found = {}
    for name, schema in definitions().items():
        for one in schema.get("x-kubernetes-group-version-kind", ()):
            found[(one["group"], one["version"], one["kind"])] = name
    return found


def name_of(group: str, version: str, kind: str) -> str | None:
    """The long name of a kind's schema; None of a custom one."""
    return _by_kind().get((group, version, kind))


def schema_of(group: str, version: str, kind: str) -> Json | None:
    """A kind's schema; None of a custom one."""
    name = name_of(group, version, kind)
    return definitions()[name] if name else None


def resolve(schema: Json | None) -> Json | None:
    """The schema that a reference stands for."""
    while schema is not None and "$ref" in schema:
        target = definitions()[schema["$ref"].rsplit("/", 1)[-1]]
        extra = {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}
        schema = {**target, **extra} if extra else target
    return schema


def child(schema: Json | None, key: str) -> Json | None:
    """The schema of a field of an object; of any key of a map."""
    schema = resolve(schema)
    if schema is None:
        return None if key != "metadata" else definitions()[META]
    found = (schema.get("properties") or {}).get(key)
    if found is None and isinstance(schema.get("additionalProperties"), dict):
        found = schema["additionalProperties"]
    return resolve(found)


def items(schema: Json | None) -> Json | None:
    """The schema of a list's items."""
    schema = resolve(schema)
    return resolve(schema.get("items")) if schema else None


def list_keys(schema: Json | None) -> tuple[str, ...]:
    """The fields that name an item of a list in a server-side apply; empty when it is taken as a whole."""
    schema = resolve(schema)
    return tuple(schema.get("x-kubernetes-list-map-keys", ())) if schema and schema.get("x-kubernetes-list-type") == "map" else ()


def is_set(schema: Json | None) -> bool:
    schema = resolve(schema)
    return bool(schema) and schema is not None and schema.get("x-kubernetes-list-type") == "set"


def is_atomic(schema: Json | None) -> bool:
    """Whether an object's fields belong together."""
    schema = resolve(schema)
    return schema is not None and schema.get("x-kubernetes-map-type") == "atomic"


def merge_key(schema: Json | None) -> str | None:
    """The field that names an item of a list in a strategic merge patch; None when the list is replaced."""
    schema = resolve(schema)
    if schema is None or "merge" not in schema.get("x-kubernetes-patch-strategy", ""):
        return None
    return schema.get("x-kubernetes-patch-merge-key", "")


def faults_of(value: Any, schema: Json | None, path: str = "") -> tuple[list[str], list[tuple[str, str]]]:
    """What is wrong with a value: unknown fields, and fields of the wrong type with the type that they should have."""
    unknown: list[str] = []
    wrong: list[tuple[str, str]] = []
    _walk(value, resolve(schema), path, unknown, wrong)
    return unknown, wrong


_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,)}


def _walk(value: Any, schema: Json | None, path: str, unknown: list[str], wrong: list[tuple[str, str]]) -> None:
    if schema is None or value is None:
        return
    types = schema.get("type")
    expected = next((one for one in ([types] if isinstance(types, str) else types or ()) if one != "null"), None)
    if expected and (not isinstance(value, _TYPES[expected]) or (isinstance(value, bool) and expected != "boolean")):
        wrong.append((path, expected))
    elif isinstance(value, dict):
        properties = schema.get("properties")
        for key, one in value.items():
            below = f"{path}.{key}" if path else key
            if properties is not None and key in properties:
                _walk(one, resolve(properties[key]), below, unknown, wrong)
            elif isinstance(schema.get("additionalProperties"), dict):
                _walk(one, resolve(schema["additionalProperties"]), below, unknown, wrong)
            elif properties is not None and not schema.get("x-kubernetes-preserve-unknown-fields"):
                unknown.append(below)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            _walk(one, items(schema), f"{path}[{number}]", unknown, wrong)


def missing_in(value: Any, schema: Json | None, path: str = "") -> list[str]:
    """Fields that must be there and are not."""
    found: list[str] = []
    schema = resolve(schema)
    if schema is None:
        return found
    if isinstance(value, dict):
        found += [f"{path}.{key}" if path else key for key in schema.get("required", ()) if value.get(key) is None]
        for key, one in value.items():
            found += missing_in(one, child(schema, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            found += missing_in(one, items(schema), f"{path}[{number}]")
    return found


def without_unknown(value: Any, schema: Json | None) -> Any:
    """The value without fields that its schema does not know, as the server drops them."""
    schema = resolve(schema)
    if schema is None:
        return value
    if isinstance(value, dict):
        properties = schema.get("properties")
        if properties is None or schema.get("x-kubernetes-preserve-unknown-fields"):
            return {key: without_unknown(one, child(schema, key)) for key, one in value.items()}
        return {key: without_unknown(one, properties[key]) for key, one in value.items() if key in properties}
    if isinstance(value, list):
        return [without_unknown(one, items(schema)) for one in value]
    return value

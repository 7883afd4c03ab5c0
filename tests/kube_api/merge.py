"""Patches: JSON patch, merge patch, and the strategic merge patch with its directives. None of them changes what it is given."""

from __future__ import annotations

import copy
from typing import Any

from kube_api.answers import Refusal
from kube_api.schemas import child, items, merge_key, resolve

Json = dict[str, Any]


def merge_patch(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, one in patch.items():
        if one is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), one)
    return result


def json_patch(value: Any, patch: list[Json]) -> Any:
    """RFC 6902."""
    result = copy.deepcopy(value)
    for one in patch:
        try:
            result = _operation(result, one)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            said = f"the server rejected our request due to an error in our request: {one.get('op')} {one.get('path')}: {error}"
            raise Refusal(422, said, "Invalid") from None
    return result


def _operation(document: Any, one: Json) -> Any:
    operation, path = one["op"], _pointer(one["path"])
    if operation in {"move", "copy"}:
        moved = copy.deepcopy(_at(document, _pointer(one["from"])))
        if operation == "move":
            document = _operation(document, {"op": "remove", "path": one["from"]})
        return _operation(document, {"op": "add", "path": one["path"], "value": moved})
    if not path:
        return one["value"] if operation != "test" else document
    holder, key = _at(document, path[:-1]), path[-1]
    if operation == "test":
        if _at(document, path) != one.get("value"):
            raise ValueError("testing value failed")
    elif isinstance(holder, list):
        if operation == "add":
            holder.insert(len(holder) if key == "-" else int(key), one["value"])
        elif operation == "replace":
            holder[int(key)] = one["value"]
        else:
            del holder[int(key)]
    elif operation == "remove":
        del holder[key]
    elif operation == "replace" and key not in holder:
        raise KeyError(key)
    else:
        holder[key] = one["value"]
    return document


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _at(value: Any, path: list[str]) -> Any:
    for key in path:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def strategic_merge(value: Any, patch: Any, schema: Json | None) -> Any:
    """Kubernetes' strategic merge patch.

    Source: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: one for key, one in patch.items() if not key.startswith("$")}
    if directive == "delete":
        return {}
    result = dict(value) if isinstance(value, dict) else {}
    schema = resolve(schema)
    for key, one in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            result[name] = [item for item in result.get(name) or () if item not in one]
        elif key.startswith("$") or one is None:
            continue
        elif isinstance(one, list):
            result[key] = _merge_lists(result.get(key), one, child(schema, key), patch.get(f"$setElementOrder/{key}"))
        else:
            result[key] = strategic_merge(result.get(key), one, child(schema, key))
    for key, one in patch.items():
        if one is None:
            result.pop(key, None)
        elif key.startswith("$setElementOrder/") and key.split("/", 1)[1] not in patch:
            name = key.split("/", 1)[1]
            if name in result:
                result[name] = _ordered(result[name], one, merge_key(child(schema, name)))
    if "$retainKeys" in patch:
        result = {key: one for key, one in result.items() if key in patch["$retainKeys"]}
    return result


def _merge_lists(value: Any, patch: list[Any], schema: Json | None, order: list[Any] | None) -> list[Any]:
    key = merge_key(schema)
    if key is None or any(isinstance(one, dict) and one.get("$patch") == "replace" for one in patch):
        return [one for one in patch if not (isinstance(one, dict) and one.get("$patch") == "replace" and len(one) == 1)]
    result = list(value or ())
    if not key:  # a list of plain values
        return _ordered([*result, *(one for one in patch if one not in result)], order, key)
    for one in patch:
        index = next((number for number, item in enumerate(result) if item.get(key) == one.get(key)), None)
        if one.get("$patch") == "delete":
            result = [item for item in result if item.get(key) != one.get(key)]
        elif index is None:
            result.append(strategic_merge({}, one, items(schema)))
        else:
            result[index] = strategic_merge(result[index], one, items(schema))
    return _ordered(result, order, key)


def _ordered(value: list[Any], order: list[Any] | None, key: str | None) -> list[Any]:
    if not order:
        return value
    names = [one.get(key) if key and isinstance(one, dict) else one for one in order]

    def place(pair: tuple[int, Any]) -> tuple[int, int]:
        number, one = pair
        name = one.get(key) if key and isinstance(one, dict) else one
        return (names.index(name) if name in names else len(names), number)

    return [one for _, one in sorted(enumerate(value), key=place)]

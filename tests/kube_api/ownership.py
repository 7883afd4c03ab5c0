"""Who owns which field: server-side apply with its conflicts, and `managedFields` for every other write."""

from __future__ import annotations

import copy
import json
from typing import Any

from kube_api.answers import Refusal
from kube_api.schemas import child, is_atomic, is_set, items, list_keys

Json = dict[str, Any]
Path = tuple[tuple[str, str], ...]
"""Of a field: `("f", name)`, `("k", keys of an item as JSON)` or `("v", a value as JSON)` at each step."""

_DEFAULTS = {"protocol": "TCP"}
_NOBODYS = {"apiVersion", "kind", "status"}
_NOBODYS_META = {
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generateName",
}


def fields_of(value: Json, schema: Json | None, *, status: bool = False) -> set[Path]:
    """The paths of all fields that an object sets.

    Args:
        value: The object.
        schema: Of its kind; without one every list counts as a whole.
        status: Only the status, instead of all but it.
    """
    found: set[Path] = set()
    for key, one in value.items():
        if key == "metadata":
            if not status:
                for name, below in one.items():
                    if name not in _NOBODYS_META:
                        _collect(below, child(child(schema, key), name), (("f", key), ("f", name)), found)
        elif (key == "status") == status and key not in _NOBODYS - {"status"}:
            _collect(one, child(schema, key), (("f", key),), found)
    return found


def _collect(value: Any, schema: Json | None, path: Path, found: set[Path]) -> None:
    if isinstance(value, dict) and value and not is_atomic(schema):
        for key, one in value.items():
            _collect(one, child(schema, key), (*path, ("f", key)), found)
    elif isinstance(value, list) and value and list_keys(schema):
        for one in value:
            below = (*path, ("k", _key_of(one, list_keys(schema))))
            found.add(below)
            for key, inner in one.items():
                _collect(inner, child(items(schema), key), (*below, ("f", key)), found)
    elif isinstance(value, list) and value and is_set(schema):
        found.update((*path, ("v", json.dumps(one))) for one in value)
    else:
        found.add(path)


def _key_of(item: Json, keys: tuple[str, ...]) -> str:
    return json.dumps({key: item.get(key, _DEFAULTS.get(key)) for key in keys if item.get(key, _DEFAULTS.get(key)) is not None}, sort_keys=True)


_NOTHING = object()


def _value_at(value: Any, path: Path) -> Any:
    for kind, name in path:
        if kind == "f":
            if not isinstance(value, dict) or name not in value:
                return _NOTHING
            value = value[name]
        elif not isinstance(value, list):
            return _NOTHING
        elif kind == "k":
            index = _index_of(value, name)
            if index is None:
                return _NOTHING
            value = value[index]
        else:
            return name if json.loads(name) in value else _NOTHING
    return value


def _index_of(value: list[Any], name: str) -> int | None:
    keys = json.loads(name)
    for number, one in enumerate(value):
        if isinstance(one, dict) and all(one.get(key, _DEFAULTS.get(key)) == wanted for key, wanted in keys.items()):
            return number
    return None


def _remove(value: Any, path: Path) -> None:
    """Take a field out of an object, with the maps that nothing is left in."""
    *above, last = path
    holder = _value_at(value, tuple(above))
    if holder is _NOTHING:
        return
    if last[0] == "f" and isinstance(holder, dict):
        holder.pop(last[1], None)
    elif last[0] == "k" and isinstance(holder, list):
        if (index := _index_of(holder, last[1])) is not None:
            del holder[index]
    elif last[0] == "v" and isinstance(holder, list):
        holder[:] = [one for one in holder if json.dumps(one) != last[1]]
    if not holder and len(above) > 1 and above[-1][0] == "f":
        _remove(value, tuple(above))


def _merged(live: Any, applied: Any, schema: Json | None) -> Any:
    if isinstance(applied, dict) and isinstance(live, dict) and not is_atomic(schema):
        return {**live, **{key: _merged(live.get(key), one, child(schema, key)) for key, one in applied.items()}}
    if isinstance(applied, list) and isinstance(live, list) and (keys := list_keys(schema)):
        result = list(live)
        for one in applied:
            index = _index_of(result, _key_of(one, keys))
            if index is None:
                result.append(one)
            else:
                result[index] = _merged(result[index], one, items(schema))
        return result
    if isinstance(applied, list) and isinstance(live, list) and is_set(schema):
        return [*live, *(one for one in applied if one not in live)]
    return applied


def encode(paths: set[Path]) -> Json:
    """As `fieldsV1`."""
    tree: Json = {}
    for path in sorted(paths):
        below = tree
        for kind, name in path:
            below = below.setdefault(f"{kind}:{name}", {})
        if path[-1][0] == "k":
            below["."] = {}
    return tree


def decode(tree: Json, path: Path = ()) -> set[Path]:
    """From `fieldsV1`."""
    found: set[Path] = set()
    for key, below in tree.items():
        if key == ".":
            found.add(path)
            continue
        kind, name = key.split(":", 1)
        here = (*path, (kind, name if kind != "k" else json.dumps(json.loads(name), sort_keys=True)))
        found |= decode(below, here) if below else {here}
    return found


def _shown(path: Path) -> str:
    """As sentences name a field: `.spec.template.spec.containers[name="x"].image`."""
    text = ""
    for kind, name in path:
        if kind == "f":
            text += f".{name}"
        elif kind == "k":
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(name).items()) + "]"
        else:
            text += f"[={name}]"
    return text


def _entry(manager: str, operation: str, api_version: str, moment: str, paths: set[Path], subresource: str) -> Json:
    entry = {"manager": manager, "operation": operation, "apiVersion": api_version, "time": moment, "fieldsType": "FieldsV1", "fieldsV1": encode(paths)}
    return {**entry, **({"subresource": subresource} if subresource else {})}


def _is(entry: Json, manager: str, operation: str, subresource: str) -> bool:
    return (entry["manager"], entry["operation"], entry.get("subresource", "")) == (manager, operation, subresource)


def applied_to(live: Json | None, applied: Json, schema: Json | None, manager: str, moment: str, *, force: bool, subresource: str = "") -> Json:
    """The object after a server-side apply.

    Args:
        live: As it is; None when there is none.
        applied: What is wanted.
        schema: Of its kind.
        manager: Who asks.
        moment: Now.
        force: Take fields that others own.
        subresource: `status`, or empty.

    Raises:
        Refusal: Somebody else owns a field and gave it another value.
    """
    wanted = fields_of(applied, schema, status=subresource == "status")
    base: Json = copy.deepcopy(live) if live is not None else {"metadata": {}}
    entries = base["metadata"].pop("managedFields", [])
    mine = next((one for one in entries if _is(one, manager, "Apply", subresource)), None)
    before = decode(mine["fieldsV1"]) if mine else set()
    others = [one for one in entries if one is not mine]
    conflicts: list[tuple[Json, Path]] = []
    for one in others:
        shared = sorted(decode(one["fieldsV1"]) & wanted)
        conflicts += [(one, path) for path in shared if path[-1][0] != "k" and _value_at(base, path) != _value_at(applied, path)]
    if conflicts and not force:
        raise _conflict(conflicts)
    result = _merged(base, applied, schema)
    owned_by_others = set().union(*(decode(one["fieldsV1"]) for one in others)) if others else set()
    for path in sorted(before - wanted - owned_by_others, key=len):
        if not (path[-1][0] == "k" and any(one[: len(path)] == path for one in owned_by_others | wanted)):
            _remove(result, path)
    taken = {(id(one), path) for one, path in conflicts}
    kept = []
    for one in others:
        rest = {path for path in decode(one["fieldsV1"]) if (id(one), path) not in taken and _value_at(result, path) is not _NOTHING}
        if rest:
            kept.append({**one, "fieldsV1": encode(rest)})
    if mine and before == wanted:
        moment = mine["time"]
    if wanted:
        kept.append(_entry(manager, "Apply", applied["apiVersion"], moment, wanted, subresource))
    result["metadata"]["managedFields"] = kept
    return result


def _conflict(conflicts: list[tuple[Json, Path]]) -> Refusal:
    managers: dict[str, tuple[Json, list[str]]] = {}
    for entry, path in conflicts:
        managers.setdefault(entry["manager"] + entry["operation"], (entry, []))[1].append(_shown(path))
    said, causes = [], []
    for entry, paths in managers.values():
        using = "" if entry["operation"] == "Apply" else f" using {entry['apiVersion']}"
        fields = paths[0] if len(paths) == 1 else "\n- ".join(["", *paths]).strip()
        said.append(f'conflict{"s" if len(paths) > 1 else ""} with "{entry["manager"]}"{using}: {fields}')
        causes += [{"reason": "FieldManagerConflict", "message": f'conflict with "{entry["manager"]}"{using}', "field": path} for path in paths]
    number = len(conflicts)
    text = f"Apply failed with {number} conflict{'s' if number > 1 else ''}: {', '.join(said)}"
    return Refusal(409, text, details={"causes": causes})


def updated(live: Json | None, new: Json, schema: Json | None, manager: str, moment: str, subresource: str = "") -> Json:
    """The object after any other write, with the fields that it changed in its manager's name."""
    status = subresource == "status"
    after = fields_of(new, schema, status=status)
    before = fields_of(live, schema, status=status) if live is not None else set()
    changed = {path for path in after if path not in before or _value_at(live, path) != _value_at(new, path)}
    gone = before - after
    entries = (live or {}).get("metadata", {}).get("managedFields", []) if live is not None else new["metadata"].get("managedFields", [])
    if not changed and not gone:
        return {**new, "metadata": {**new["metadata"], "managedFields": entries}} if entries else new
    mine: set[Path] = set()
    kept = []
    for one in entries:
        paths = decode(one["fieldsV1"])
        if _is(one, manager, "Update", subresource):
            mine = paths
        elif rest := paths - changed - gone:
            kept.append({**one, "fieldsV1": encode(rest)} if len(rest) != len(paths) else one)
    if owned := (mine | changed) - gone:
        kept.append(_entry(manager, "Update", new["apiVersion"], moment, owned, subresource))
    return {**new, "metadata": {**new["metadata"], "managedFields": kept}}

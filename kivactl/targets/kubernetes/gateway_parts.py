"""Which part of a configuration file of the gateway differs, by the names of the spec: `weights of chat`, `cluster engine-qwen`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kivactl.stack.gateway.files import ENGINE
from kivactl.stack.gateway.routes import VERSION

Part = tuple[str, str | None, str | None]
"""What differs, what it was and what it is to be; None where it is not there."""

_OF_WEIGHTS = frozenset({"weighted_clusters", "cluster", "request_headers_to_add"})
_LONGEST = 160
_SHOWN = 6


def described(file: str, old: Any, new: Any) -> list[Part]:
    """What differs between two contents of a file; nothing when they mean the same.

    Args:
        file: Its name, such as `routes.json`.
        old: The content as it is.
        new: The content as it is to be.
    """
    if old == new:
        return []
    found: list[Part] = []
    if file == "routes.json":
        before, after = weights_in(old), weights_in(new)
        found = [
            (f"weights of {name}" if name in before and name in after else f"routes of {name}", before.get(name), after.get(name))
            for name in {**after, **before}
            if before.get(name) != after.get(name)
        ]
        old, new = _without_weights(old), _without_weights(new)
        if old == new or any(name not in before or name not in after for name in {**before, **after}):
            return found  # a name that comes or goes shows in many lists; one line says it
    parts = list(_parts((), old, new))
    if len(parts) > _SHOWN:
        parts = [*parts[: _SHOWN - 1], (f"and {len(parts) - _SHOWN + 1} more parts", None, "changed")]
    return found + parts


def weights_in(content: Any) -> dict[str, str]:
    """Which models answer for each public name, with their weights."""
    found: dict[str, str] = {}
    for route in _routes(content):
        match, action = route.get("match") or {}, route.get("route") or {}
        headers = {header.get("name") for header in match.get("headers") or ()}
        name = next((value for one in match.get("dynamic_metadata") or () if (value := _exact(one))), "")
        if not name or VERSION in headers or not action:
            continue
        clusters = (action.get("weighted_clusters") or {}).get("clusters")
        shares = [(str(one.get("name", "")), one.get("weight")) for one in clusters] if clusters else [(str(action.get("cluster", "")), None)]
        found.setdefault(
            name, ", ".join(f"{cluster.removeprefix(ENGINE)} {weight}" if weight is not None else cluster.removeprefix(ENGINE) for cluster, weight in shares)
        )
    return found


def _routes(content: Any) -> Iterator[Mapping[str, Any]]:
    for resource in content.get("resources") or () if isinstance(content, dict) else ():
        for host in resource.get("virtual_hosts") or ():
            yield from host.get("routes") or ()


def _exact(condition: Mapping[str, Any]) -> str:
    return str(((condition.get("value") or {}).get("string_match") or {}).get("exact") or "")


def _without_weights(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_weights(inner) for key, inner in value.items() if key not in _OF_WEIGHTS}
    return [_without_weights(one) for one in value] if isinstance(value, list) else value


def _parts(path: tuple[str, ...], old: Any, new: Any) -> Iterator[Part]:
    """The smallest parts that differ, by the names of what they are in."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**new, **old}:
            yield from _parts((*path, key), old.get(key), new.get(key))
        return
    if isinstance(old, list) and isinstance(new, list):
        before, after = _by_name(old), _by_name(new)
        if before is not None and after is not None:
            for name in {**after, **before}:
                yield from _parts((*path, name), before.get(name), after.get(name))
            return
    yield ".".join(part for part in path if part != "resources") or "all of it", _text(old), _text(new)


def _by_name(entries: list[Any]) -> dict[str, Any] | None:
    """The entries of a list by their names; by their places where they have none that tells them apart."""
    if not all(isinstance(one, dict) for one in entries):
        return None
    names = [str(one.get("name") or one.get("cluster_name") or one.get("key") or "") for one in entries]
    if all(names) and len(set(names)) == len(names):
        return dict(zip(names, entries, strict=True))
    return {str(index): one for index, one in enumerate(entries)}


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) > _LONGEST and isinstance(value, dict):
        return f"{len(value)} settings"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

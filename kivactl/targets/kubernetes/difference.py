"""How an object in the cluster differs from what it should be, field by field, as people read it. Pure.

What should be is what the API server itself says in a dry run, so that what it fills in is no difference. What the server
notes for itself is left out, values of Secrets are never shown, and JSON in ConfigMaps is compared as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from kivactl.plan import Difference
from kivactl.stack.redaction import redacted
from kivactl.targets.kubernetes.capacity import parse_quantity
from kivactl.targets.kubernetes.gateway_parts import described

Json = Mapping[str, Any]
Path = tuple[str, ...]

HIDDEN = "(hidden)"
"""Stands for a Secret's value."""

_OF_VERSIONS = frozenset({"app.kubernetes.io/version", "helm.sh/chart"})
"""Labels that repeat on every object what another field says."""

_LONGEST = 160
_SHOWN = 12
"""Differences of one object that are shown one by one."""

_SERVERS_OWN = frozenset(
    {"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink", "ownerReferences", "finalizers", "namespace"}
)
_NOTES = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "kubectl.kubernetes.io/restartedAt",
    "deployment.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "meta.helm.sh/",
    "pv.kubernetes.io/",
    "volume.kubernetes.io/",
    "volume.beta.kubernetes.io/",
    "autoscaling.alpha.kubernetes.io/",
    "control-plane.alpha.kubernetes.io/",
)
"""Beginnings of annotations that controllers and programs write for themselves."""

_POD = (
    ("spec", "template", "spec"),
    ("spec", "jobTemplate", "spec", "template", "spec"),
    ("spec", "leaderWorkerTemplate", "leaderTemplate", "spec"),
    ("spec", "leaderWorkerTemplate", "workerTemplate", "spec"),
)
_SHORTER = (
    (("spec", "leaderWorkerTemplate", "workerTemplate", "spec"), ("worker",)),
    *((path, ()) for path in _POD),
    (("spec", "template", "metadata"), ("pod",)),
)
KEYS = ("mountPath", "name", "containerPort", "port", "key", "type", "topologyKey", "ip", "devicePath")
"""What tells the entries of a list apart, the first that all of them have."""

_QUANTITIES = frozenset({"requests", "limits", "hard", "sizeLimit", "capacity", "overhead"})
_WORDS = frozenset({"args", "command"})


def differences(live: Json, wanted: Json, before: Json | None = None, after: Json | None = None) -> tuple[Difference, ...]:
    """What would change of an object.

    Args:
        live: As it is.
        wanted: As the server would have it.
        before: The manifest that it was made from; with `after` it tells what is to be taken away, which a dry run may leave.
        after: The manifest that it is to be made from.
    """
    old, new = flat(live), flat(wanted)
    if before is not None and after is not None:
        for path in flat(before).keys() - flat(after).keys():
            new.pop(path, None)
    return shown(live, old, new)


def drifted(live: Json, manifest: Json) -> tuple[Difference, ...]:
    """Which fields of a manifest the cluster has otherwise; `before` is what was deployed. What the manifest does not say is no drift."""
    deployed, now = flat(manifest), flat(live)
    return shown(live, deployed, {path: now[path] for path in deployed if path in now})


def subject_of(thing: Json) -> str:
    """Kind and name of an object."""
    return f"{thing.get('kind', 'object')} {(thing.get('metadata') or {}).get('name', '')}"


def same_pods(live: Json, wanted: Json) -> bool:
    """Whether the pods of a workload stay as they are."""
    old, new = flat(live), flat(wanted)
    changed = {path for path in old.keys() | new.keys() if not _same(path, old.get(path), new.get(path))}
    return not any(path[: len(prefix) - 1] == prefix[:-1] for path in changed for prefix in _POD)


def field_of(path: Path) -> str:
    """A field as people read it: `containers.engine.args`, `replicas`."""
    for prefix, instead in _SHORTER:
        if path[: len(prefix)] == prefix:
            return ".".join((*instead, *path[len(prefix) :])) or "pod"
    rest = path[1:] if path[:1] in {("spec",), ("metadata",), ("data",)} and len(path) > 1 else path
    return ".".join(rest)


def shown(thing: Json, old: Mapping[Path, Any], new: Mapping[Path, Any]) -> tuple[Difference, ...]:
    """The differences of two sets of fields of one object; of many the first, and how many more there are."""
    subject = subject_of(thing)
    found = [one for path in changed_paths(old, new) for one in _between(str(thing.get("kind", "")), subject, path, old.get(path), new.get(path))]
    if len(found) <= _SHOWN:
        return tuple(found)
    return (*found[: _SHOWN - 1], Difference(f"{subject} and {len(found) - _SHOWN + 1} more fields", None, "changed"))


def changed_paths(old: Mapping[Path, Any], new: Mapping[Path, Any]) -> list[Path]:
    """The fields that differ, in the order of the objects, labels and annotations last."""
    paths = [path for path in {**new, **old} if not _same(path, old.get(path), new.get(path))]
    return sorted(paths, key=lambda path: "metadata" in path[:3])


def _between(kind: str, subject: str, path: Path, old: Any, new: Any) -> Iterator[Difference]:
    where = f"{subject} {field_of(path)}"
    if kind == "Secret" and path[:1] in {("data",), ("stringData",)}:
        yield Difference(where, None if old is None else HIDDEN, None if new is None else "changed" if old is not None else HIDDEN)
    elif path[:1] in {("data",), ("binaryData",)} and (parts := _as_json(old, new)) is not None:
        yield from (Difference(f"{subject} {path[-1]}: {part}", was, becomes) for part, was, becomes in described(path[-1], *parts))
    elif path[-1] in _WORDS and isinstance(old, tuple) and isinstance(new, tuple):
        yield from _words(where, old, new)
    else:
        yield Difference(where.removesuffix(".value"), _text(old), _text(new))


def _words(where: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Difference]:
    """Of a command line: only the words that differ, with the option that they belong to."""
    before, after = [str(word) for word in old], [str(word) for word in new]
    for operation, start, end, to_start, to_end in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if operation == "equal":
            continue
        place = to_start if to_start < len(after) else start
        option = _option(after if operation != "delete" else before, to_start if operation != "delete" else start)
        yield Difference(f"{where}[{place}]{option}", _text(" ".join(before[start:end])) or None, _text(" ".join(after[to_start:to_end])) or None)


def _option(words: list[str], index: int) -> str:
    previous = words[index - 1] if 0 < index <= len(words) else ""
    here = words[index] if index < len(words) else ""
    return f" ({previous})" if previous.startswith("--") and "=" not in previous and not here.startswith("--") else ""


def flat(thing: Json) -> dict[Path, Any]:
    """Every field of an object by its path, without what the server notes for itself; entries of lists by their names."""
    found: dict[Path, Any] = {}
    _walk((), {key: value for key, value in thing.items() if key not in {"apiVersion", "kind", "status"}}, found)
    return found


def _walk(path: Path, value: Any, found: dict[Path, Any]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not _ignored(path, key):
                _walk((*path, str(key)), inner, found)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(one, Mapping) for one in value):
            for name, one in _named(value):
                _walk((*path, name), one, found)
        elif value:
            found[path] = tuple(json.dumps(one, sort_keys=True) if isinstance(one, Mapping | list) else one for one in value)
    elif value is not None and value != "":
        found[path] = value


def _ignored(path: Path, key: str) -> bool:
    if path[-1:] == ("metadata",):
        return key in _SERVERS_OWN or (len(path) > 1 and key == "name")
    if path[-2:] == ("metadata", "annotations"):
        return key.startswith(_NOTES)
    if path[-2:] == ("metadata", "labels"):
        # Of pods they count: another label there is another pod.
        return key in {"pod-template-hash", "controller-revision-hash"} or (len(path) == 2 and key in _OF_VERSIONS)
    return False


def _named(entries: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a list by what tells them apart, by their place otherwise; the name itself is no field then."""
    for key in KEYS:
        names = [str(one.get(key)) for one in entries]
        if all(key in one for one in entries) and len(set(names)) == len(names):
            yield from (
                (name, {inner: value for inner, value in one.items() if inner != key} or {"there": True}) for name, one in zip(names, entries, strict=True)
            )
            return
    yield from ((str(index), one) for index, one in enumerate(entries))


def _same(path: Path, old: Any, new: Any) -> bool:
    if old == new and isinstance(old, bool) == isinstance(new, bool):
        return True
    if old is None or new is None:
        return False
    if _QUANTITIES.intersection(path[-2:]):
        try:
            return parse_quantity(old) == parse_quantity(new)
        except ValueError:
            return False
    return str(old) == str(new) and not isinstance(old, tuple | bool) and not isinstance(new, tuple | bool)


def _as_json(old: Any, new: Any) -> tuple[Any, Any] | None:
    """Both texts as data; None when one of them is no JSON document, or is missing."""
    try:
        parsed = json.loads(str(old)), json.loads(str(new))
    except ValueError:
        return None
    return parsed if all(isinstance(one, dict | list) for one in parsed) else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = redacted(", ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value))
    if "\n" in text.strip():
        return f"{len(text.splitlines())} lines"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

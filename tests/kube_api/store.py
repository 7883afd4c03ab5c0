"""Where the objects are: one revision counter, and all changes in order, for whoever watches. Objects that lie here are never changed in place."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kube_api.kinds import Kind

Json = dict[str, Any]
Key = tuple[str, str]
"""Group and plural name."""

KEPT = 20_000
"""Changes that are remembered."""


def moment() -> str:
    """Now, as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """One write: `ADDED`, `MODIFIED` or `DELETED`."""

    revision: int
    key: Key
    type: str
    value: Json
    before: Json | None


class Store:
    """All objects of the cluster."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.revision = 100
        self.oldest = 100
        self.changes: list[Change] = []
        self._objects: dict[Key, dict[tuple[str, str], Json]] = {}
        self._owned: dict[str, dict[tuple[Key, str, str], None]] = {}

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """One object, None when it is not there."""
        return self._objects.get(kind.store_key, {}).get((namespace, name))

    def list(self, kind: Kind, namespace: str = "") -> list[Json]:
        """Objects by namespace and name; of all namespaces when empty."""
        with self.changed:
            found = self._objects.get(kind.store_key, {})
            return [found[key] for key in sorted(found) if not namespace or key[0] == namespace]

    def owned(self, uid: str) -> list[tuple[Key, Json]]:
        """Objects with this owner, with their key, in the order of their making."""
        with self.changed:
            return [(key, self._objects[key][(namespace, name)]) for key, namespace, name in self._owned.get(uid, ())]

    def everything(self) -> Iterator[tuple[Key, Json]]:
        """All objects with their key."""
        with self.changed:
            pairs = [(key, value) for key, found in self._objects.items() for value in found.values()]
        yield from pairs

    def put(self, key: Key, value: Json) -> Json:
        """Write an object; returns it with its resource version."""
        with self.changed:
            meta = value["metadata"]
            place = (meta.get("namespace", ""), meta["name"])
            found = self._objects.setdefault(key, {})
            before = found.get(place)
            self.revision += 1
            meta = {"uid": str(uuid.uuid4()), "creationTimestamp": moment(), **meta, "resourceVersion": str(self.revision)}
            written = {**value, "metadata": meta}
            found[place] = written
            if before is None or before["metadata"].get("ownerReferences") != meta.get("ownerReferences"):
                self._disown(key, place, before)
                for owner in meta.get("ownerReferences") or ():
                    self._owned.setdefault(owner["uid"], {})[(key, *place)] = None
            self._tell(Change(self.revision, key, "ADDED" if before is None else "MODIFIED", written, before))
            return written

    def remove(self, key: Key, namespace: str, name: str) -> Json | None:
        """Take an object away; returns what it was."""
        with self.changed:
            before = self._objects.get(key, {}).pop((namespace, name), None)
            if before is not None:
                self.revision += 1
                self._disown(key, (namespace, name), before)
                last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.revision)}}
                self._tell(Change(self.revision, key, "DELETED", last, before))
            return before

    def since(self, revision: int, key: Key) -> list[Change]:
        """Changes of one kind after a revision."""
        with self.changed:
            low, high = 0, len(self.changes)
            while low < high:
                middle = (low + high) // 2
                if self.changes[middle].revision <= revision:
                    low = middle + 1
                else:
                    high = middle
            return [one for one in self.changes[low:] if one.key == key]

    def compact(self) -> None:
        """Forget all changes: who watches from an earlier revision is answered 410."""
        with self.changed:
            self.changes.clear()
            self.oldest = self.revision
            self.changed.notify_all()

    def _disown(self, key: Key, place: tuple[str, str], value: Json | None) -> None:
        for owner in (value or {}).get("metadata", {}).get("ownerReferences") or ():
            self._owned.get(owner["uid"], {}).pop((key, *place), None)

    def _tell(self, change: Change) -> None:
        self.changes.append(change)
        if len(self.changes) > KEPT:
            self.oldest = self.changes[KEPT // 10].revision
            del self.changes[: KEPT // 10 + 1]
        self.changed.notify_all()

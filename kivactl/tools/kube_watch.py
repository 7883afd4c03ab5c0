"""What is there and how it changes, whatever happens to the connection. Knows no network: a `Source` does.

The promise: folding what is told gives, at each `Synced`, what the server had at that version. It is kept by looking at everything anew (and
telling the difference) whenever the server has forgotten what it was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from http import HTTPStatus
from typing import Protocol

from kivactl.tools.clock import Clock
from kivactl.tools.kube_calls import Cut
from kivactl.tools.kube_errors import Expired
from kivactl.tools.kube_objects import Found, Gone, Json, Listing, Synced, WatchEvent, key_of, version_of

_HASTY_S = 1.0
"""A window that the server closes sooner, and without news, is not opened again at once."""
_ENOUGH = 3
"""Windows in a row that give nothing, after which we look at everything anew."""


class Source(Protocol):
    """Where objects are listed and watched."""

    def listed(self) -> Listing:
        """All of them now."""

    def changes(self, version: str, window_s: int) -> Generator[bytes, None, None]:
        """The lines of one watch since a version, for so many seconds.

        Raises:
            Expired: The server has forgotten that version.
            Cut: The connection broke off.
        """


def watched(source: Source, clock: Clock, *, since: Listing | None = None, pause_s: int = 5) -> Iterator[WatchEvent]:
    """Everything that is there, then every change, without end; see `Cluster.watch`."""
    seen: dict[tuple[str, str], Json] = {key_of(one): one for one in since.items} if since else {}
    version = since.version if since else ""
    failures = 0
    while True:
        if not version:
            listing = source.listed()
            yield from _difference(seen, listing.items)
            version = listing.version
            yield Synced(version)
        start_s, progress = clock.now_s(), False
        try:
            with closing(source.changes(version, pause_s)) as lines:
                for line in lines:
                    kind, thing = _parsed(line)
                    version, progress = version_of(thing) or version, True
                    yield from _told(seen, kind, thing)
            failures = 0
        except Expired:
            version = ""
        except Cut:
            failures = 0 if progress else failures + 1
            version = version if failures < _ENOUGH else ""
        if version:
            yield Synced(version)
        if failures or not (progress or clock.now_s() - start_s >= _HASTY_S):
            clock.sleep(min(0.2 * 2 ** min(failures, 10), pause_s))


def folded(events: Iterable[WatchEvent]) -> dict[tuple[str, str], Json]:
    """What is there after some events, by namespace and name."""
    there: dict[tuple[str, str], Json] = {}
    for event in events:
        match event:
            case Found(thing):
                there[key_of(thing)] = thing
            case Gone(thing):
                there.pop(key_of(thing), None)
    return there


def _difference(seen: dict[tuple[str, str], Json], items: Iterable[Json]) -> Iterator[WatchEvent]:
    """What makes of those that were seen those that are there."""
    there = {key_of(one): one for one in items}
    for key in [key for key in seen if key not in there]:
        yield Gone(seen.pop(key))
    for thing in there.values():
        yield from _put(seen, thing)


def _told(seen: dict[tuple[str, str], Json], kind: str, thing: Json) -> Iterator[WatchEvent]:
    if kind in {"ADDED", "MODIFIED"}:
        yield from _put(seen, thing)
    elif kind == "DELETED" and seen.pop(key_of(thing), None) is not None:
        yield Gone(thing)


def _put(seen: dict[tuple[str, str], Json], thing: Json) -> Iterator[WatchEvent]:
    """An object that is there; one of the same name that was made anew meanwhile is another one."""
    before = seen.get(key_of(thing))
    if before is not None and version_of(before) == version_of(thing) and version_of(thing):
        return
    if before is not None and _uid(before) != _uid(thing):
        yield Gone(before)
    seen[key_of(thing)] = thing
    yield Found(thing)


def _parsed(line: bytes) -> tuple[str, Json]:
    try:
        change = json.loads(line)
        kind, thing = change["type"], change["object"]
    except (ValueError, KeyError, TypeError):
        raise Cut from None  # the rest of the line is lost
    if not isinstance(thing, dict) or (kind == "ERROR" and thing.get("code") != HTTPStatus.GONE):
        raise Cut
    if kind == "ERROR":
        raise Expired("the server has forgotten the history")
    return str(kind), thing


def _uid(thing: Json) -> str:
    return str((thing.get("metadata") or {}).get("uid") or "")

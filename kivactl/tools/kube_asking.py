"""How a cluster is asked: finds out where a kind lies, makes the request, and the question that an error tells of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from kivactl.tools.clock import Clock
from kivactl.tools.kube_calls import SILENCE_S, Answer, Calls, Request
from kivactl.tools.kube_errors import Changed, Expired
from kivactl.tools.kube_failure import Question, unknown_kind
from kivactl.tools.kube_kinds import Kind, group_path, known, parse_kind
from kivactl.tools.kube_objects import Json, Listing, version_of

_PAGE = 500
_TRIES = 5
_GRACE_S = 5.0
"""After the server should have ended a watch by itself."""
_METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}


class Asking:
    """Knows a cluster's kinds and default namespace, and sends what `Cluster` asks."""

    def __init__(self, calls: Calls, namespace: str, clock: Clock) -> None:
        self.calls = calls
        self.namespace = namespace
        self.clock = clock
        self._discovered: dict[str, Kind] = {}

    def impatient(self, patience_s: float) -> Asking:
        """The same, given up sooner: after so many seconds."""
        return Asking(self.calls.impatient(patience_s), self.namespace, self.clock)

    def kind_of(self, text: str) -> Kind:
        """A kind, from the table or from the server; what a cluster does not know now it may know in a minute, so only what it knows is kept.

        Raises:
            Missing: The cluster does not know it.
        """
        kind = known(text) or self._discovered.get(text)
        if kind is None:
            api_version, _, name = text.rpartition("/")
            group, _, version = api_version.rpartition("/")
            question = self.question("get", Kind(group, version, name, name))
            kind = parse_kind(api_version, name, self.calls.ask(question, Request("GET", group_path(api_version))).content)
            if kind is None:
                raise unknown_kind(question)
            self._discovered[text] = kind
        return kind

    def subject_of(self, manifest: Json) -> tuple[Kind, str, str]:
        """Kind, name and namespace of a manifest."""
        kind = self.kind_of(f"{manifest['apiVersion']}/{manifest['kind']}")
        metadata = manifest["metadata"]
        return kind, str(metadata["name"]), self.place_of(kind, metadata.get("namespace") or None)

    def place_of(self, kind: Kind, namespace: str | None) -> str:
        """The namespace of a kind's object; empty for all, and where there are none."""
        return "" if not kind.namespaced else self.namespace if namespace is None else namespace

    def question(self, verb: str, kind: Kind | None, name: str = "", namespace: str = "", subresource: str = "") -> Question:
        """What an error would tell of."""
        return Question(self.calls.access.context, self.calls.access.server, verb, kind, name, namespace, subresource, self.calls.access.kubeconfig)

    def request(
        self,
        verb: str,
        kind: Kind,
        name: str,
        namespace: str | None,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        form: str = "application/json",
        subresource: str = "",
        silence_s: float = SILENCE_S,
    ) -> tuple[Question, Request]:
        """What is asked, and how it is sent."""
        place = self.place_of(kind, namespace)
        path = kind.path(place, "" if verb == "create" and not subresource else name, subresource)
        return self.question(verb, kind, name, place, subresource), Request(_METHODS[verb], path, query or {}, body, form, silence_s)

    def ask(self, verb: str, kind: Kind, name: str, namespace: str | None, **given: Any) -> Answer:
        """Send it; see `request`."""
        return self.calls.ask(*self.request(verb, kind, name, namespace, **given))

    def listed(self, kind: str, query: Mapping[str, str], namespace: str | None) -> Listing:
        """All pages of a list."""
        known_kind = self.kind_of(kind)
        words = {**query, "limit": str(_PAGE)}
        items: list[Json] = []
        while True:
            try:
                page = self.ask("list", known_kind, "", namespace, query=words).content
            except Expired:
                if not words.get("continue"):
                    raise
                items, words = [], dict(query)  # the pages ran out of time: all at once
                continue
            items += [{"apiVersion": known_kind.api_version, "kind": known_kind.name, **one} for one in page.get("items") or []]
            words["continue"] = str((page.get("metadata") or {}).get("continue") or "")
            if not words["continue"]:
                return Listing(tuple(items), version_of(page))

    def again_when_changed(self, once: Callable[[], Answer]) -> Answer:
        """Do something anew while someone else is faster, a few times.

        Raises:
            Changed: Someone else was faster each time.
        """
        for attempt in range(_TRIES - 1):
            try:
                return once()
            except Changed:
                self.clock.sleep(0.1 * 2**attempt)
        return once()


class Watching:
    """One kind's objects as `kube_watch` needs them."""

    def __init__(self, asking: Asking, kind: str, query: Mapping[str, str], namespace: str | None) -> None:
        self._asking = asking
        self._kind = kind
        self._query = query
        self._namespace = namespace

    def listed(self) -> Listing:
        """All of them now."""
        return self._asking.listed(self._kind, self._query, self._namespace)

    def changes(self, version: str, window_s: int) -> Generator[bytes, None, None]:
        """The lines of one watch."""
        words = {**self._query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(window_s), "resourceVersion": version}
        kind = self._asking.kind_of(self._kind)
        with self._asking.calls.lines(*self._asking.request("watch", kind, "", self._namespace, query=words, silence_s=window_s + _GRACE_S)) as lines:
            yield from lines

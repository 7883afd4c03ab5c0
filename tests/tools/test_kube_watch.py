"""What is told of a server's objects always adds up to what the server has, whatever happens to the connection."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_api import Waits

from kivactl.tools.kube_calls import Cut
from kivactl.tools.kube_errors import Expired, Unreachable
from kivactl.tools.kube_objects import Found, Gone, Listing, Synced, key_of
from kivactl.tools.kube_watch import folded, watched


class Server:
    """Keeps objects and their history; does what a list of steps says, one each time it is about to send something.

    Steps: a name is added, or changed where it is there; `-name` is deleted, `!name` deleted and made anew at once. `cut` breaks the connection, `offline`
    breaks it and does the next steps before it is back, `torn` breaks it within a line, `end` closes the window, `bookmark` and `error` are sent,
    `again` sends the last change once more, `forget` drops the history and `lose` drops it and everything sent to this watch.
    """

    def __init__(self, steps, before=()):
        self.steps, self.version, self.uids, self.forgotten = list(steps), 100, 0, 0
        self.things: dict[str, dict] = {}
        self.history: list[tuple[int, str, dict]] = []
        self.at = {self.version: {}}
        self.lists = 0
        for name in before:
            self.do(name)

    def do(self, step):
        name = step.lstrip("-!")
        if step.startswith(("-", "!")):
            thing = self.things.pop(name, None)
            if thing is not None:
                self.record("DELETED", thing)
        if not step.startswith("-"):
            there = self.things.get(name)
            if there is None:
                self.uids += 1
            uid = there["metadata"]["uid"] if there else str(self.uids)
            self.things[name] = {"kind": "Pod", "metadata": {"name": name, "namespace": "kiva", "uid": uid}}
            self.record("MODIFIED" if there else "ADDED", self.things[name])

    def record(self, change, thing):
        self.version += 1
        thing = {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(self.version)}}
        if change != "DELETED":
            self.things[thing["metadata"]["name"]] = thing
        self.history.append((self.version, change, thing))
        self.at[self.version] = dict(self.things)

    def state(self, version):
        """By namespace and name, as it was."""
        return {("kiva", name): thing for name, thing in self.at[int(version)].items()}

    def listed(self) -> Listing:
        self.lists += 1
        return Listing(tuple(self.things.values()), str(self.version))

    def changes(self, version, window_s) -> Generator[bytes, None, None]:
        sent = int(version)
        if sent < self.forgotten:
            raise Expired("too old")
        while True:
            for number, change, thing in self.history:
                if number > sent:
                    yield line(change, thing)
            sent = self.version
            if not self.steps:
                return
            step = self.steps.pop(0)
            match step:
                case "end":
                    return
                case "cut":
                    raise Cut
                case "torn":
                    yield b'{"type":"ADDED","obj'
                case "bookmark":
                    yield line("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}})
                case "error":
                    yield line("ERROR", {"kind": "Status", "code": 500, "message": "etcd is tired"})
                case "again":
                    for _, change, thing in self.history[-1:]:
                        yield line(change, thing)
                case "offline":
                    while self.steps and self.steps[0].lstrip("-!") in NAMES:
                        self.do(self.steps.pop(0))
                    raise Cut
                case "forget":
                    self.forgotten = self.version
                case "lose":
                    while self.steps and self.steps[0].lstrip("-!") in NAMES:
                        self.do(self.steps.pop(0))
                    self.forgotten = self.version
                    yield line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
                case _:
                    self.do(step)


def line(change, thing):
    return json.dumps({"type": change, "object": thing}).encode()


NAMES = ("a", "b", "c", "d")
MUTATIONS = st.sampled_from([mark + name for mark in ("", "", "-", "!") for name in NAMES])
STEPS = st.lists(MUTATIONS | st.sampled_from(["end", "cut", "torn", "bookmark", "error", "again", "offline", "forget", "lose"]), max_size=30)


def told(server, since=None):
    """Everything that is told until the server has done all and told all."""
    events = []
    for event in watched(server, Waits().clock, since=since):
        events.append(event)
        assert len(events) < 1000, "it does not come to an end"
        if isinstance(event, Synced):
            yield events
            if not server.steps and event.version == str(server.version):
                return


@given(STEPS, st.lists(MUTATIONS, max_size=6))
def test_what_is_told_adds_up_to_what_is_there(steps, before):
    server = Server(steps, before)
    for events in told(server):
        assert folded(events) == server.state(events[-1].version)
    assert folded(events) == {("kiva", name): thing for name, thing in server.things.items()}


@given(STEPS, st.lists(MUTATIONS, max_size=6), st.lists(MUTATIONS, max_size=4), st.booleans())
def test_what_is_told_since_a_listing_adds_up_with_it(steps, before, meanwhile, forgotten):
    server = Server(steps, before)
    listing = server.listed()
    for step in meanwhile:
        server.do(step)
    server.forgotten = server.version if forgotten else 0
    for events in told(server, listing):
        assert folded([*(Found(one) for one in listing.items), *events]) == server.state(events[-1].version)
    assert folded([*(Found(one) for one in listing.items), *events]) == {("kiva", name): thing for name, thing in server.things.items()}


@given(STEPS, st.lists(MUTATIONS, max_size=6))
def test_nothing_is_told_twice_and_nothing_goes_that_was_not_there(steps, before):
    server, there = Server(steps, before), {}
    *_, events = told(server)
    for event in events:
        match event:
            case Found(thing):
                assert there.get(key_of(thing)) != thing
                assert key_of(thing) not in there or there[key_of(thing)]["metadata"]["uid"] == thing["metadata"]["uid"]
                there[key_of(thing)] = thing
            case Gone(thing):
                assert there.pop(key_of(thing))["metadata"]["uid"] == thing["metadata"]["uid"]


def test_an_object_that_vanished_while_nobody_looked_is_told():
    server = Server(["lose", "-a", "!b"], before=["a", "b"])
    *_, events = told(server)
    names = [(type(event).__name__, event.object["metadata"]["name"]) for event in events if not isinstance(event, Synced)]
    assert names == [("Found", "a"), ("Found", "b"), ("Gone", "a"), ("Gone", "b"), ("Found", "b")]
    assert server.lists == 2


def test_the_reader_gets_to_its_clock_even_when_every_window_breaks():
    waits = Waits()

    class Broken(Server):
        def changes(self, version, window_s):
            raise Cut
            yield

    server = Broken([], before=["a"])
    events = watched(server, waits.clock)
    synced = [event for event in (next(events) for _ in range(30)) if isinstance(event, Synced)]
    assert len(synced) > 20
    assert server.lists > 3
    assert all(0 < wait_s <= 5 for wait_s in waits.waits)


def test_a_server_that_closes_each_window_at_once_is_not_asked_without_a_pause():
    waits = Waits()
    events = watched(Server([]), waits.clock)
    for _ in range(10):
        next(events)
    assert len(waits.waits) >= 8


def test_a_server_that_is_gone_is_told():
    class Away(Server):
        def changes(self, version, window_s):
            raise Unreachable("away")
            yield

    events = watched(Away([]), Waits().clock)
    assert isinstance(next(events), Synced)
    with pytest.raises(Unreachable):
        next(events)


def test_a_reader_that_has_seen_enough_closes_the_connection():
    closed = []

    class Watched(Server):
        def changes(self, version, window_s):
            try:
                yield from super().changes(version, window_s)
            finally:
                closed.append(True)

    events = watched(Watched(["a", "b"]), Waits().clock)
    assert isinstance(next(events), Synced)
    assert isinstance(next(events), Found)
    assert not closed
    events.close()
    assert closed

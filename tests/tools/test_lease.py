"""Two operators, one platform: who holds the lease, what the other is told, and who takes over from the dead."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_api import Reply, Reset, Waits, scripted, status

from kivactl.errors import CheckError
from kivactl.tools import lease
from kivactl.tools.kube import open_cluster
from kivactl.tools.kube_errors import Unreachable
from kivactl.tools.lease import LASTS_S, Lost, Taken, held, holder_of

PATH = "/apis/coordination.k8s.io/v1/namespaces/kiva/leases"
THEIRS = "anna@ops-1 deploy (pid 4711, aa00bb)"


class Server:
    """Keeps one lease as an API server does; `before` is called before each request."""

    def __init__(self):
        self.lease, self.version, self.before = None, 0, lambda _asked: None

    def __call__(self, asked):
        reply = self.before(asked)
        return reply or self.answer(asked)

    def answer(self, asked):
        name = "kivactl-kiva"
        if asked.method == "POST":
            return self.store(asked.body) if self.lease is None else status(409, "AlreadyExists", name=name)
        assert asked.path == f"{PATH}/{name}"
        if self.lease is None:
            return status(404, "NotFound", name=name)
        if asked.method == "PUT":
            if asked.body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return status(409, "Conflict", "the object has been modified", name=name)
            return self.store(asked.body)
        return Reply(200, self.lease)

    def store(self, body):
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return Reply(200, self.lease)

    def written_by(self, holder, lasts_s=LASTS_S, **more):
        spec = {"holderIdentity": holder, "leaseDurationSeconds": lasts_s, "renewTime": "2001-01-01T00:00:00.000000Z", **more}
        self.store({"metadata": {"name": "kivactl-kiva"}, "spec": spec})

    @property
    def holder(self):
        return self.lease["spec"]["holderIdentity"] if self.lease else None


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def cluster(server, waits, tmp_path):
    with scripted(server) as api:
        yield opened(api, waits, tmp_path)


def opened(api, waits, folder):
    config = {"clusters": [{"name": "c", "cluster": {"server": api.url}}], "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}
    (folder / "config").write_text(json.dumps(config))
    return open_cluster("prod", "kiva", folder / "config", clock=waits.clock)


def test_a_lease_is_held_and_given_back(cluster, server, waits):
    assert holder_of(cluster, "kiva") == ""
    with held(cluster, "kiva", "deploy") as mine:
        mine.check()
        assert server.holder == mine.holder == holder_of(cluster, "kiva")
        assert " deploy (pid " in mine.holder
        assert server.lease["spec"]["leaseTransitions"] == 1
    assert server.holder == ""
    assert holder_of(cluster, "kiva") == ""
    with held(cluster, "kiva", "deploy"):
        assert server.lease["spec"]["leaseTransitions"] == 2
    assert not waits.waits


def test_a_lease_is_given_back_when_the_work_fails(cluster, server):
    with pytest.raises(KeyboardInterrupt), held(cluster, "kiva", "deploy"):
        raise KeyboardInterrupt
    assert server.holder == ""


def test_who_comes_second_is_told_as_soon_as_the_first_shows_life(cluster, server, waits):
    server.written_by(THEIRS)

    def alive(_asked):
        if waits.at_s >= 4:
            server.written_by(THEIRS)

    server.before = alive
    told = []
    with pytest.raises(Taken) as caught, held(cluster, "kiva", "deploy", waiting=told.append):
        pass
    assert caught.value.message == f"the platform 'kiva' is locked by {THEIRS}"
    assert caught.value.holder == THEIRS
    assert waits.at_s < 6
    assert told == [f"locked by {THEIRS}: looking whether it is alive"]
    assert server.holder == THEIRS


@pytest.mark.parametrize("moment", ["2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z", "nonsense"])
def test_a_dead_holder_is_waited_for_and_taken_over_whatever_its_clock_said(cluster, server, waits, moment):
    server.written_by(THEIRS, renewTime=moment)
    with held(cluster, "kiva", "deploy") as mine:
        assert server.holder == mine.holder
    assert LASTS_S <= waits.at_s <= LASTS_S + 2


@pytest.mark.parametrize(("lasts_s", "waited_s"), [(3, 3), (10_000, 5 * LASTS_S), (0, 1), (None, LASTS_S), ("x", LASTS_S)])
def test_a_lease_lasts_as_its_holder_says_within_reason(cluster, server, waits, lasts_s, waited_s):
    server.written_by(THEIRS, lasts_s)
    with held(cluster, "kiva", "deploy"):
        pass
    assert waited_s <= waits.at_s <= waited_s + 2


def test_of_two_who_see_it_free_one_gets_it(cluster, server):
    def faster(asked):
        if asked.method == "POST" or server.holder == THEIRS:  # between our look and our write; from then on they are alive
            server.written_by(THEIRS)

    server.before = faster
    with pytest.raises(Taken), held(cluster, "kiva", "deploy"):
        pass
    assert server.holder == THEIRS


def test_of_two_who_see_it_run_out_one_gets_it(cluster, server, waits):
    server.written_by("nobody@gone", 2)

    def faster(asked):
        if asked.method == "PUT" and server.holder == "nobody@gone":
            server.written_by(THEIRS)  # between our look and our write
        elif waits.at_s > 5:
            server.written_by(THEIRS)

    server.before = faster
    with pytest.raises(Taken, match="anna@ops-1"), held(cluster, "kiva", "deploy"):
        pass


def test_an_answer_that_is_lost_is_no_second_holder(cluster, server, waits):
    lost = []

    def lose(asked):
        if asked.method in {"POST", "PUT"} and asked.method not in lost:
            lost.append(asked.method)
            server.answer(asked)
            return Reset()
        return None

    server.before = lose
    with held(cluster, "kiva", "deploy") as mine:
        assert server.holder == mine.holder
        mine.renew()
        mine.check()
    assert lost == ["POST", "PUT"]
    server.written_by("")
    lost.clear()
    with held(cluster, "kiva", "deploy") as mine:
        assert server.holder == mine.holder
    assert waits.at_s < 2


def test_who_has_lost_it_is_told_before_the_next_step(cluster, server, waits):
    with held(cluster, "kiva", "deploy") as mine:
        server.written_by(THEIRS)
        waits.at_s += LASTS_S
        with pytest.raises(Lost, match=r"the lock of kivactl-kiva was taken over by anna@ops-1 deploy"):
            mine.check()
        with pytest.raises(Lost):
            mine.check()
    assert server.holder == THEIRS


def test_who_could_not_renew_it_for_long_does_so_before_the_next_step(cluster, server, waits):
    with held(cluster, "kiva", "deploy") as mine:
        version = server.version
        mine.check()
        assert server.version == version
        waits.at_s += LASTS_S
        mine.check()
        assert server.version == version + 1
        waits.at_s += LASTS_S
        server.before = lambda _asked: status(503)
        with pytest.raises(Unreachable):
            mine.check()
        server.before = lambda _asked: None
        mine.check()


def test_a_cluster_that_is_gone_at_the_end_hides_nothing_and_holds_nobody_up(cluster, server, waits):
    def work():
        with held(cluster, "kiva", "deploy"):
            server.before = lambda _asked: Reset()
            raise CheckError("the work failed")

    with pytest.raises(CheckError, match="the work failed"):
        work()
    assert waits.at_s <= 3


def test_it_is_renewed_while_it_is_held(cluster, server, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.001)
    enough, trouble = threading.Event(), iter([status(503), Reset(), status(403, "Forbidden", 'User "a" cannot update resource "leases"')])

    def count(_asked):
        if server.version >= 10:
            enough.set()
        return next(trouble, None) if server.version >= 5 else None

    server.before = count
    with held(cluster, "kiva", "deploy") as mine:
        assert enough.wait(30)
        mine.check()
    assert server.holder == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["take", "renew", "check", "die", "give back"]), st.integers(0, 30)), max_size=25))
def test_two_never_hold_it_at_once(tmp_path_factory, steps):
    """Each step is done by one of two, seconds after the one before; a holder counts as one while `check` lets it go on."""
    server, waits, folder = Server(), Waits(), tmp_path_factory.mktemp("two")
    with scripted(server) as api:
        clusters = {who: opened(api, waits, folder) for who in "ab"}
        holders: dict[str, lease.Held] = {}
        for who, step, later_s in steps:
            waits.at_s += later_s
            with contextlib.suppress(Taken, Lost):
                match step:
                    case "take" if who not in holders:
                        holders[who] = lease._acquired(clusters[who], "kiva", f"{who}@host deploy ({waits.at_s})", None)
                    case "renew" if who in holders:
                        holders[who].renew()
                    case "give back" if who in holders:
                        holders.pop(who).release()
                    case "die":
                        holders.pop(who, None)
            sure = []
            for one, lent in holders.items():
                with contextlib.suppress(Lost):
                    lent.check()
                    sure.append(one)
            assert len(sure) <= 1
            assert all(server.holder == holders[one].holder for one in sure)

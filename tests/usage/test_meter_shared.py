"""Several gateways, each with a meter, one ledger: every request once, whoever's it is and whoever speaks of it first."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from chosen_inodes import Inodes
from generated import examples
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import NOON_S, access_line, append, count_line, orders, refused_line, until

from kivactl.errors import PreconditionError
from kivactl.usage.join import Sums
from kivactl.usage.ledger import Position, open_ledger
from kivactl.usage.meter import Meter, World

LIMITS = {"lab": {"cost_centre": "4711", "contact": None, "limits": {"chat": 300, "m": None}, "monthly_budget": None}}


class Gateway:
    """A gateway's files and its meter."""

    def __init__(self, folder: Path, name: str, address: str, platform: str, **changes):
        self.name, self.folder = name, folder / name
        self.orders = orders(self.folder, ledger=address, platform=platform, shared=True, engines=["kiva-chat-all"], **changes)
        self.path = self.folder / "meter.json"
        self.path.write_text(json.dumps(self.orders))
        self.access, self.now_s = Path(self.orders["access_log"]), NOON_S + 1
        self.start()

    def start(self):
        self.meter = Meter(self.path, World(lambda: self.now_s, lambda _: None, reopen_logs=lambda _: True, name=self.name))

    def restart(self):
        self.meter.close()
        self.start()

    def fetched(self, *lines):
        append(Path(self.orders["usage_folder"]) / "m-0-abc.jsonl", *lines)

    def run(self, passes=1):
        for _ in range(passes):
            self.now_s += 0.5
            while self.meter.run_pass(patient=False):
                pass

    def refused(self):
        return json.loads(Path(self.orders["quota"]).read_text())


@pytest.fixture
def gateways(tmp_path, place):
    made = [Gateway(tmp_path, name, *place) for name in ("gateway-a", "gateway-b")]
    yield made
    for gateway in made:
        gateway.meter.close()


def sums_by_tenant(place):
    found = {}
    with closing(open_ledger(*place, read_only=True)) as ledger:
        for key, sums in ledger.days():
            if any(sums):
                found[key.tenant] = found.get(key.tenant, Sums()).plus(sums)
    return found


@pytest.mark.parametrize("first", [0, 1])
def test_a_request_counts_once_and_is_its_gateways(gateways, place, first):
    for gateway in gateways:
        gateway.fetched(count_line("r1"))
    gateways[0].access.write_text(access_line("r1"))
    gateways[first].run()
    gateways[1 - first].run()
    assert sums_by_tenant(place) == {"lab": Sums(1, 0, 100, 20, 10)}


def test_until_its_own_meter_has_spoken_it_is_nobodys(gateways, place):
    for gateway in gateways:
        gateway.fetched(count_line("r1"))
    gateways[1].run()
    assert sums_by_tenant(place) == {"": Sums(0, 0, 100, 20, 10)}
    gateways[0].access.write_text(access_line("r1"))
    gateways[0].run()
    assert sums_by_tenant(place) == {"lab": Sums(1, 0, 100, 20, 10)}


def test_a_meter_that_starts_again_goes_on_where_it_was_and_leaves_the_others_alone(gateways, place):
    # Refused requests without a token have no entry by which a second reading would be noticed.
    for gateway in gateways:
        gateway.access.write_text("".join(refused_line(None, tenant=None, status=401) for _ in range(3)))
        gateway.run()
    for gateway in gateways:
        gateway.restart()
        gateway.run(2)
    assert sums_by_tenant(place) == {"": Sums(6, 6)}


def test_positions_are_a_readers_own(place):
    mine, its = Position("/var/kiva/logs/access.log", 17, 100, "1:a"), Position("/var/kiva/logs/access.log", 17, 200, "1:b")
    with closing(open_ledger(*place)) as ledger:
        ledger.keep_positions([mine], reader="a")
        ledger.keep_positions([its], reader="b")
        ledger.keep_positions([mine])
        assert (ledger.positions("a"), ledger.positions("b"), ledger.positions()) == ([mine], [its], [mine])
        ledger.keep_positions([], gone=[mine], reader="a")
        assert (ledger.positions("a"), ledger.positions("b"), ledger.positions()) == ([], [its], [mine])


def test_pods_whose_logs_have_the_same_path_and_inode(tmp_path, place, monkeypatch):
    """As in one cluster: each pod has its logs in `/var/kiva`, on a disk of its own. What nobody asked with a token has no entry to notice a second reading."""
    inodes, pods, here = Inodes(monkeypatch), [], tmp_path / "var"
    for name in ("gateway-a", "gateway-b"):
        gateway = Gateway(tmp_path, here.name, *place)
        gateway.meter.close()
        gateway.name = name
        gateway.start()
        gateway.access.write_text("")
        inodes.give(gateway.access, 7)
        pods.append(gateway)
        here.rename(tmp_path / name)
    for turn in range(6):
        gateway = pods[turn % 2]
        (tmp_path / gateway.name).rename(here)
        gateway.restart()
        append(gateway.access, *(refused_line(None, at_s=NOON_S + turn, tenant=None, status=401, client=gateway.name) for _ in range(1 + turn)))
        gateway.run(2)
        here.rename(tmp_path / gateway.name)
    for gateway in pods:
        gateway.meter.close()
    assert sums_by_tenant(place) == {"": Sums(21, 21)}


def test_positions_of_a_meter_that_is_no_more_go(place):
    log = Position("/var/kiva/logs/access.log", 17, 100, "1:a")
    with closing(open_ledger(*place)) as ledger:
        for reader, at_ms in (("a", 1000), ("a-b", 9000), ("c", 9000)):
            ledger.keep_positions([log], reader=reader)
            ledger.keep_reader(reader, at_ms, 0)
        ledger.keep_positions([log])
        ledger.keep_reader("c", 10_000, 5000)
        assert [bool(ledger.positions(reader)) for reader in ("a", "a-b", "c", "")] == [False, True, True, True]
        assert ledger.positions("c") == [log]


def test_tokens_a_minute_are_those_of_all_gateways(gateways, place):
    for gateway in gateways:
        gateway.orders["tenants"] = LIMITS
        gateway.path.with_suffix(".new").write_text(json.dumps(gateway.orders))
        gateway.path.with_suffix(".new").replace(gateway.path)
    for number, gateway in enumerate(gateways):
        lines = [f"r{number}-0", f"r{number}-1"]
        gateway.access.write_text("".join(access_line(name) for name in lines))
        for other in gateways:
            other.fetched(*(count_line(name) for name in lines))
    gateways[0].run()
    before = gateways[0].refused()
    gateways[1].run(8)
    gateways[0].run(8)
    assert gateways[0].refused() != before
    assert gateways[0].refused() == gateways[1].refused()


def test_a_new_pod_that_fetches_old_counts_again_changes_nothing(tmp_path, place):
    gateway = Gateway(tmp_path, "gateway-a", *place, keep_s=3600.0)
    gateway.access.write_text(access_line("r1"))
    gateway.fetched(count_line("r1"))
    gateway.run()
    gateway.meter.close()
    later = Gateway(tmp_path, "gateway-b", *place, keep_s=3600.0)
    later.now_s += 2 * 3600
    later.run(2)
    with closing(open_ledger(*place, read_only=True)) as ledger:
        assert ledger.entries(["r1"]) == {}
    later.fetched(count_line("r1"), count_line("r2", later.now_s))
    later.run(2)
    later.meter.close()
    assert sums_by_tenant(place) == {"lab": Sums(1, 0, 100, 20, 10), "": Sums(0, 0, 100, 20, 10)}


STEPS = st.one_of(
    st.tuples(st.just("access"), st.integers(0, 9)),
    st.tuples(st.just("count"), st.integers(0, 9), st.integers(0, 1)),
    st.tuples(st.just("run"), st.integers(0, 1)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
)


@examples(0.4)
@given(steps=st.lists(STEPS, max_size=40))
def test_in_whatever_order(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("shared")
    place = f"sqlite:{folder}/ledger.db", "kiva"
    gateways = [Gateway(folder, name, *place) for name in ("gateway-a", "gateway-b")]
    said, counted = set(), set()
    for step in steps:
        match step:
            case "access", number:
                append(gateways[number % 2].access, access_line(f"r{number}"))
                said.add(number)
            case "count", number, where:
                gateways[where].fetched(count_line(f"r{number}"))
                counted.add(number)
            case "run", which:
                gateways[which].run()
            case "restart", which:
                gateways[which].restart()
    for gateway in gateways:
        gateway.run(2)
        gateway.meter.close()
    with closing(open_ledger(*place, read_only=True)) as ledger:
        entries = ledger.entries([f"r{number}" for number in range(10)])
        total = Sums()
        for _, sums in ledger.days():
            total = total.plus(sums)
    assert {name: (entry.tenant, entry.counted) for name, entry in entries.items()} == {
        f"r{number}": ("lab" if number in said else None, "engine" if number in counted else "estimated") for number in said | counted
    }
    assert (total.requests, total.prompt_tokens) == (len(said), 100 * len(counted))


def attributed(place):
    try:
        return sums_by_tenant(place).get("lab", Sums()).requests
    except PreconditionError:  # no meter has come so far
        return 0


@pytest.mark.real
def test_two_meters_as_processes_killed_in_between(tmp_path, postgres):
    place = postgres, "kiva-two"
    made = [Gateway(tmp_path, name, *place) for name in ("gateway-a", "gateway-b")]
    for gateway in made:
        gateway.meter.close()

    def start(gateway):
        program = f"import sys, socket; socket.gethostname = lambda: {gateway.name!r}; from kivactl.usage import meter; sys.exit(meter.main(sys.argv[1:]))"
        return subprocess.Popen([sys.executable, "-c", program, gateway.path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    written = 0
    running = [start(gateway) for gateway in made]
    try:
        for turn in range(6):
            names = [f"r{number}" for number in range(written, written + 200)]
            written += len(names)
            for number, gateway in enumerate(made):
                gateway.fetched(*(count_line(name) for name in names))
                append(gateway.access, *(access_line(name) for name in names[number::2]))
            if turn > 1:  # the first ones die as they come up, the others in the middle of their work
                until(lambda at_least=written - 500: attributed(place) >= at_least, within_s=60)
            running[turn % 2].kill()
            running[turn % 2].communicate()
            running[turn % 2] = start(made[turn % 2])
        until(lambda: attributed(place) >= written, within_s=60)
        # The last one started may have found nothing left to do, and not be up yet: a meter that is writes this file when it is missing.
        quotas = [Path(gateway.orders["quota"]) for gateway in made]
        for quota in quotas:
            quota.unlink(missing_ok=True)
        until(lambda: all(quota.exists() for quota in quotas), within_s=60)
        for process in running:
            process.terminate()
            assert process.wait(timeout=30) == 0
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert sums_by_tenant(place) == {"lab": Sums(written, 0, 100 * written, 20 * written, 10 * written)}


def test_the_name_is_the_hosts():
    assert World().name == socket.gethostname()

"""The meter in this process: an own clock, a gateway that is asked nothing, real files, real ledgers."""

from __future__ import annotations

import itertools
import json
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest
from generated import examples
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import NOON_S, access_line, append, count_line, orders, refused_line

from kivactl.errors import PreconditionError
from kivactl.stack.gateway.quota import EVERY_MODEL, Reason, quota_for
from kivactl.usage.database import LedgerUnavailable, Sqlite
from kivactl.usage.join import Counted, Sums
from kivactl.usage.ledger import Ledger, open_ledger
from kivactl.usage.meter import Meter, World
from kivactl.usage.posting import REFUSALS_KEPT


class Site:
    """A platform's files, and a meter on them."""

    def __init__(self, folder: Path, **changes):
        self.orders = orders(folder, **changes)
        self.path = folder / "usage/meter.json"
        self.access, self.quota = Path(self.orders["access_log"]), Path(self.orders["quota"])
        self.now_s, self.events, self.reopened = NOON_S + 1, [], []
        self.open, self.gateway_answers = open_ledger, True
        self.order()
        self.start()

    def order(self, **changes):
        self.orders |= changes
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(self.orders))
        beside.replace(self.path)

    def start(self):
        self.meter = Meter(
            self.path, World(lambda: self.now_s, lambda line: self.events.append(json.loads(line)), lambda *where: self.open(*where), self._reopen)
        )

    def restart(self):
        self.meter.close()
        self.start()

    def engine(self, *lines, replica="m-0"):
        append(Path(self.orders["usage_folder"]) / f"{replica}.jsonl", *lines)

    def run(self, passes=1):
        for _ in range(passes):
            while self.meter.run_pass():
                pass
            self.now_s += 0.5

    def ledger(self):
        return open_ledger(self.orders["ledger"], self.orders["platform"], read_only=True)

    def entry(self, request_id="r1"):
        ledger = self.ledger()
        try:
            return ledger.entries([request_id]).get(request_id)
        finally:
            ledger.close()

    def total(self):
        ledger = self.ledger()
        total = Sums()
        for _, sums in ledger.days():
            total = total.plus(sums)
        ledger.close()
        return total

    def told(self, event):
        return [told for told in self.events if told["event"] == event]

    def _reopen(self, _):
        self.reopened.append(self.now_s)
        if self.gateway_answers:
            self.access.touch()
        return self.gateway_answers


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.meter.close()


def budget(amount):
    return {"lab": {"cost_centre": "4711", "contact": None, "limits": {"chat": None}, "monthly_budget": amount}}


def test_a_request_is_metered(site):
    append(site.access, access_line())
    site.engine(count_line())
    site.run()
    entry = site.entry()
    assert (entry.tenant, entry.cost_centre, entry.token_name, entry.model, entry.version) == ("lab", "4711", "ci", "chat", "m")
    assert (entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens, entry.counted) == (100, 20, 10, Counted.ENGINE)
    assert site.total() == Sums(1, 0, 100, 20, 10)
    assert site.events == []


def test_both_halves_may_come_far_apart_and_after_restarts(site):
    site.engine(count_line())
    site.run()
    assert site.entry().tenant is None
    site.restart()
    append(site.access, access_line(at_s=NOON_S - 86_400))
    site.run()
    assert site.entry().tenant == "lab"
    assert site.total() == Sums(1, 0, 100, 20, 10)
    ledger = site.ledger()
    assert {(key.day, key.tenant) for key, sums in ledger.days() if any(sums)} == {("2026-11-22", "lab")}
    ledger.close()


def test_duplicates_change_nothing(site):
    for _ in range(3):
        append(site.access, access_line())
        site.engine(count_line())
        site.run()
    assert site.total() == Sums(1, 0, 100, 20, 10)


def test_a_retry_on_another_replica_counts_once(site):
    site.engine(count_line(finished=False, completion_tokens=50), replica="m-0")
    append(site.access, access_line(attempts=2))
    site.run()
    site.engine(count_line(replica="m-1"), replica="m-1")
    site.run()
    assert (site.entry().replica, site.total()) == ("m-1", Sums(1, 0, 100, 20, 10))


def test_an_estimate_is_by_what_the_models_streams_were(site):
    append(site.access, access_line("a", sent_bytes=1000))
    site.engine(count_line("a"))
    site.run()
    site.restart()
    append(site.access, access_line("b", flags="UC", sent_bytes=500))
    site.run()
    assert (site.entry("b").completion_tokens, site.entry("b").counted) == (5, Counted.ESTIMATED)


def test_unreadable_lines_are_counted_and_told(site):
    append(site.access, "{}\n", "garbage\n", access_line())
    site.engine(count_line(), "nonsense\n")
    site.run()
    ledger = site.ledger()
    assert ledger.unreadable() == {str(site.access): 2, str(site.path.with_name("m-0.jsonl")): 1}
    ledger.close()
    assert site.total().requests == 1
    assert {(told["log"], told["lines"]) for told in site.told("unreadable")} == {(str(site.access), 2), (str(site.path.with_name("m-0.jsonl")), 1)}


def test_requests_without_a_token_are_only_summed_up(site):
    append(site.access, refused_line("x", 401, tenant=None, model=None), refused_line("y", 400, tenant=None), access_line(None, status=400))
    site.run()
    assert site.entry("x") is None
    assert site.total() == Sums(3, 3)


def test_a_client_that_hammers_does_not_fill_the_ledger(site):
    append(site.access, *(refused_line(f"r{number}", model=f"made-up-{number}") for number in range(REFUSALS_KEPT + 50)))
    site.run()
    assert (site.entry(f"r{REFUSALS_KEPT - 1}") is None, site.entry(f"r{REFUSALS_KEPT}") is None) == (False, True)
    assert site.total() == Sums(REFUSALS_KEPT + 50, REFUSALS_KEPT + 50)
    ledger = site.ledger()
    assert len(ledger.days()) == 1
    ledger.close()


def test_tokens_a_minute_close_and_open_the_gate(site):
    site.order(tenants={"lab": {"cost_centre": None, "contact": None, "limits": {"chat": 110, "m": 111}, "monthly_budget": None}})
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({})
    append(site.access, access_line())
    site.engine(count_line())
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({"lab": {"chat": Reason.TOKENS}})
    site.restart()
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({"lab": {"chat": Reason.TOKENS}})
    site.now_s = NOON_S + 62
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({})


def test_the_quota_is_written_only_when_it_changes_or_somebody_changed_it(site):
    site.run()
    before = site.quota.stat()
    site.run()
    assert (site.quota.stat().st_ino, site.quota.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    site.quota.write_text("{}")
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({})


def test_a_budget_is_warned_of_once_a_level_and_then_closes_the_gate(site):
    site.order(tenants=budget("0.125"))  # a request costs 0.08 + 0.002 + 0.02 = 0.102, which is 81.6 %
    append(site.access, access_line("a"))
    site.engine(count_line("a"))
    site.run(3)
    site.restart()
    site.run(2)
    (warned,) = site.told("budget")
    assert (warned["tenant"], warned["month"], warned["percent"], warned["spent"], warned["budget"], warned["currency"]) == (
        "lab",
        "2026-11",
        80,
        "0.102000",
        "0.125",
        "EUR",
    )
    assert json.loads(site.quota.read_text()) == quota_for({})
    append(site.access, access_line("b"))
    site.engine(count_line("b"))
    site.run(2)
    assert [told["percent"] for told in site.told("budget")] == [80, 90, 100]
    assert json.loads(site.quota.read_text()) == quota_for({"lab": {EVERY_MODEL: Reason.BUDGET}})
    ledger = site.ledger()
    assert [(warned.level, warned.spent) for warned in ledger.warnings("2026-11", "lab")] == [
        (80, Decimal("0.102")),
        (90, Decimal("0.204")),
        (100, Decimal("0.204")),
    ]
    ledger.close()


def test_a_new_month_opens_the_gate_and_a_new_budget_at_once(site):
    site.order(tenants=budget("0.01"))
    append(site.access, access_line())
    site.engine(count_line())
    site.run()
    closed = quota_for({"lab": {EVERY_MODEL: Reason.BUDGET}})
    assert json.loads(site.quota.read_text()) == closed
    site.order(tenants=budget("1000"))
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({})
    site.order(tenants=budget("0.01"))
    site.run()
    assert json.loads(site.quota.read_text()) == closed
    site.now_s += 8 * 86_400
    site.run()
    assert json.loads(site.quota.read_text()) == quota_for({})
    ledger = site.ledger()
    assert list(ledger.price_lists()) == ["2026-11", "2026-12"]
    ledger.close()


def test_a_month_keeps_its_prices(site):
    site.run()
    site.now_s += 8 * 86_400
    site.order(prices={"m": site.orders["prices"]["m"] | {"input": "5"}})
    site.run()
    ledger = site.ledger()
    assert [prices.tariffs["m"].input for prices in ledger.price_lists().values()] == [Decimal(1000), Decimal(5)]
    ledger.close()


def test_broken_orders_leave_the_old_ones_in_force(site):
    site.run()
    site.path.write_text("{")
    append(site.access, access_line())
    site.run(3)
    assert site.entry() is not None
    assert [told["what"] for told in site.told("trouble")] == ["orders"]
    site.path.unlink()
    site.run()
    site.order()
    site.run()
    assert site.told("recovered")[-1]["what"] == "orders"


def test_another_ledger_is_opened_when_ordered(site, tmp_path):
    site.run()
    site.order(ledger=f"sqlite:{tmp_path}/other.db")
    append(site.access, access_line())
    site.run()
    assert site.entry() is not None


def test_logs_are_rotated_above_their_size(site):
    site.order(rotate_bytes=1000)
    for number in range(12):
        append(site.access, *(access_line(f"{number}-{line}") for line in range(3)))
        site.engine(*(count_line(f"{number}-{line}") for line in range(6)))
        site.run()
    assert site.total().completion_tokens == 12 * 6 * 10
    assert len(site.reopened) == 12
    assert len(list(site.access.parent.glob("access.log.*"))) <= 5
    assert len(list(site.path.parent.glob("m-0.jsonl.*"))) <= 5
    site.restart()
    site.run()
    assert site.total().requests == 36


def test_a_gateway_that_does_not_answer_keeps_its_old_log(site):
    site.order(rotate_bytes=100)
    site.gateway_answers = False
    with site.access.open("a") as writer:
        for number in range(5):
            writer.write(access_line(f"r{number}"))
            writer.flush()
            site.run()
    assert site.total().requests == 5
    assert [told["what"] for told in site.told("trouble")] == ["rotation"]
    site.gateway_answers = True
    site.run()
    append(site.access, access_line("new"))
    site.run()
    assert site.total().requests == 6
    assert site.told("recovered")


def test_a_log_deleted_under_the_gateway_costs_no_request(site):
    with site.access.open("a") as writer:
        writer.write(access_line("a"))
        writer.flush()
        site.run()
        site.access.unlink()
        site.gateway_answers = False
        site.run()
        writer.write(access_line("b"))
        writer.flush()
        site.run()
        site.gateway_answers = True
        site.run()
    append(site.access, access_line("c"))
    site.run(2)
    assert site.total().requests == 3
    assert [told["what"] for told in site.told("recovered")] == ["rotation"]
    ledger = site.ledger()
    assert len(ledger.positions()) == 1
    ledger.close()


def test_old_requests_go_and_their_sums_stay(site):
    site.order(keep_s=86_400.0)
    append(site.access, access_line("old", at_s=NOON_S - 90_000), access_line("new"))
    site.engine(count_line("old"), count_line("new"))
    site.run(2)
    assert (site.entry("old"), site.entry("new") is None) == (None, False)
    assert site.total() == Sums(2, 0, 200, 40, 20)


def test_a_locked_ledger_is_tried_again(site, tmp_path):
    site.run()
    site.open = lambda address, platform: Ledger(Sqlite(Path(address.removeprefix("sqlite:")), patience_s=0))
    site.restart()
    other = sqlite3.connect(tmp_path / "usage/ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    append(site.access, access_line())
    site.engine(count_line())
    site.run(10)
    assert site.entry() is None
    assert [told["what"] for told in site.told("trouble")] == ["ledger"]
    other.execute("ROLLBACK")
    site.now_s += 60
    site.run()
    assert site.total() == Sums(1, 0, 100, 20, 10)
    assert [told["what"] for told in site.told("recovered")] == ["ledger"]


def test_a_full_disk_loses_nothing(site):
    def small(address, platform):
        open_ledger(address, platform).close()
        database = Sqlite(Path(address.removeprefix("sqlite:")))
        database.query("PRAGMA max_page_count = 30")
        return Ledger(database)

    site.open = small
    append(site.access, *(access_line(f"r{number}") for number in range(1000)))
    site.run(20)
    assert site.total() == Sums()
    assert "full" in site.told("trouble")[0]["why"]
    site.open = open_ledger
    site.now_s += 60
    site.run()
    assert site.total().requests == 1000


def test_a_ledger_that_fails_after_it_has_committed_counts_once(site):
    class Forgetful(Sqlite):
        def commit(self):
            super().commit()
            raise LedgerUnavailable("the answer to the commit was lost")

    site.run()
    site.open = lambda address, platform: Ledger(Forgetful(Path(address.removeprefix("sqlite:"))))
    site.restart()
    append(site.access, access_line(), refused_line("x", 401, tenant=None))
    site.engine(count_line())
    site.run()
    site.open = open_ledger
    site.now_s += 60
    site.run()
    assert site.total() == Sums(2, 1, 100, 20, 10)


def test_a_missing_folder_of_the_gateway_is_told_once(site):
    site.quota.parent.rmdir()
    site.run(3)
    assert [told["what"] for told in site.told("trouble")] == ["quota"]
    site.quota.parent.mkdir()
    site.run()
    assert site.quota.exists()


def test_two_meters_are_one_too_many(site):
    with pytest.raises(PreconditionError, match="another meter"):
        Meter(site.path)


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_without_orders_there_is_nothing_to_do(tmp_path, text):
    path = tmp_path / "meter.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PreconditionError, match="orders") as caught:
        Meter(path)
    assert caught.value.hint == "kivactl deploy"


@pytest.mark.real
def test_the_same_on_a_server(tmp_path, postgres):
    site = Site(tmp_path, ledger=postgres, platform="meter-here")
    append(site.access, *(access_line(f"r{number}", model='a\x00"\\é') for number in range(2500)))
    site.engine(*(count_line(f"r{number}") for number in range(2500)))
    site.run()
    site.restart()
    append(site.access, access_line("r0"))
    site.run()
    assert site.total() == Sums(2500, 0, 250_000, 50_000, 25_000)
    site.meter.close()


REQUESTS = st.lists(st.sampled_from(["finished", "retried", "gone", "died", "refused", "nobody's"]), min_size=1, max_size=25)
DISTURBANCES = st.lists(st.sampled_from(["pass", "restart", "rotate", "twice", "fail"]), max_size=25)


@examples(0.4)
@given(REQUESTS, DISTURBANCES, st.randoms(use_true_random=False), st.sampled_from([300, 2**26]))
def test_the_sums_are_always_those_of_the_entries(tmp_path_factory, requests, disturbances, random, rotate_bytes):
    """Whatever comes in whatever order, with whatever between: exactly once, and sums and entries agree."""
    site = Site(tmp_path_factory.mktemp("site"), rotate_bytes=rotate_bytes)
    # Names rise, and none is used twice: renamed onto another file, a log takes from it what nobody has read yet.
    lines, rotated = [], itertools.count(1)
    for number, kind in enumerate(requests):
        name = f"r{number}"
        if kind != "nobody's":
            flags = {"gone": "DC", "died": "UC"}.get(kind, "-")
            lines.append((site.access, refused_line(name) if kind == "refused" else access_line(name, flags=flags)))
        if kind in {"finished", "retried", "nobody's"}:
            lines.append((site.path.with_name("m-1.jsonl"), count_line(name, replica="m-1")))
        if kind in {"retried", "gone"}:
            lines.append((site.path.with_name("m-0.jsonl"), count_line(name, completion_tokens=3, finished=False)))
    random.shuffle(lines)
    steps = [*lines, *disturbances]
    random.shuffle(steps)
    for step in steps:
        match step:
            case "pass":
                site.run()
            case "restart":
                site.restart()
            case "rotate":
                for path in {path for path, _ in lines if path.exists()}:
                    path.rename(f"{path}.{next(rotated)}")
            case "twice":
                append(*random.choice(lines))
            case "fail":
                site.open = lambda *_: (_ for _ in ()).throw(LedgerUnavailable("not now"))
                site.restart()
                site.run()
                site.open = open_ledger
                site.now_s += 60
            case (path, line):
                append(path, line)
    site.run()
    expected = sum(kind != "nobody's" for kind in requests)
    sums, ledger = site.total(), site.ledger()
    entries = list(ledger.entries([f"r{number}" for number in range(len(requests))]).values())
    ledger.close()
    site.meter.close()
    assert (len(entries), sums.requests) == (len(requests), expected)
    assert sums.prompt_tokens == 100 * sum(kind not in {"died", "refused"} for kind in requests)
    assert sums.completion_tokens == sum(entry.completion_tokens for entry in entries)
    assert sorted(entry.counted for entry in entries) == sorted(
        {"gone": "engine at cancel", "died": "estimated", "refused": "none"}.get(kind, "engine") for kind in requests
    )

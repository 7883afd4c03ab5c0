"""The ledger, the same in both databases."""

import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest
from usage_lines import NOON_S, access_line, count_line

from kivactl.errors import PreconditionError
from kivactl.stack.metering import Tariff
from kivactl.usage.database import LedgerUnavailable, Sqlite
from kivactl.usage.join import DayKey, StreamAverages, Sums, joined
from kivactl.usage.ledger import Ledger, Position, Warned, open_ledger
from kivactl.usage.records import parse_access, parse_count

ENTRY = joined(None, parse_access(access_line(model="größe 🚀", path="/v1/\"q'uote")), parse_count(count_line()), "4711", StreamAverages({}))
KEY = DayKey("2026-11-23", "lab", "4711", "chat", "m")


@pytest.fixture
def ledger(place):
    ledger = open_ledger(*place)
    yield ledger
    ledger.close()


def test_entries_come_back_as_they_were(ledger):
    other = ENTRY._replace(request_id="r2", tenant=None, status=None, duration_ms=None)
    with ledger.transaction():
        ledger.keep([ENTRY, other])
    assert ledger.entries(["r1", "r2", "r3"]) == {"r1": ENTRY, "r2": other}
    assert ledger.entries([]) == {}


def test_an_entry_takes_the_place_of_the_one_before(ledger):
    ledger.keep([ENTRY])
    ledger.keep([ENTRY._replace(completion_tokens=99, tenant=None)])
    assert ledger.entries(["r1"])["r1"] == ENTRY._replace(completion_tokens=99, tenant=None)


def test_many_at_once(ledger):
    with ledger.transaction():
        ledger.keep([ENTRY._replace(request_id=f"r{number}") for number in range(5000)])
    assert len(ledger.entries([f"r{number}" for number in range(6000)])) == 5000


def test_sums_of_days_add_up(ledger):
    ledger.add_to_days({KEY: Sums(2, 1, 30, 3, 7)})
    ledger.add_to_days({KEY: Sums(-1, 0, -10, 0, 1), KEY._replace(day="2026-12-01"): Sums(1), KEY._replace(tenant=""): Sums()})
    assert ledger.days() == [(KEY, Sums(1, 1, 20, 3, 8)), (KEY._replace(day="2026-12-01"), Sums(1))]
    assert ledger.days("2026-12") == [(KEY._replace(day="2026-12-01"), Sums(1))]
    assert ledger.month("2026-11") == {("lab", "m"): Sums(1, 1, 20, 3, 8)}
    assert ledger.month("2027-01") == {}


def test_positions(ledger):
    first, second = Position("/a", 2**40, 7, "7:abc"), Position("/b", 2, 0, "")
    ledger.keep_positions([first, second])
    ledger.keep_positions([Position("/a", 2**40, 9, "9:def")], gone=[second])
    assert ledger.positions() == [Position("/a", 2**40, 9, "9:def")]


def test_a_month_keeps_the_prices_of_models_that_are_gone(ledger):
    dear, cheap = Tariff(Decimal("0.000000001"), Decimal(1), Decimal("1.50"), Decimal(3), 5), Tariff()
    ledger.keep_price_list("2026-11", "EUR", {"old": dear, "m": dear})
    ledger.keep_price_list("2026-11", "EUR", {"m": cheap})
    ledger.keep_price_list("2026-10", "CHF", {"m": dear})
    lists = ledger.price_lists()
    assert list(lists) == ["2026-10", "2026-11"]
    assert (lists["2026-11"].tariffs, lists["2026-10"].currency) == ({"old": dear, "m": cheap}, "CHF")


def test_a_warning_is_given_once(ledger):
    warned = Warned("lab", "2026-11", 80, 1000, Decimal("8.10"), Decimal("10.00"), "EUR")
    ledger.warn([warned])
    ledger.warn([Warned("lab", "2026-11", 80, 2000, Decimal(9), Decimal(10), "EUR"), Warned("hall", "2026-10", 80, 1, Decimal(1), Decimal(1), "EUR")])
    assert ledger.warnings("2026-11") == [warned]
    assert len(ledger.warnings()) == 2
    assert ledger.warnings(tenant="hall", month="2026-11") == []


def test_unreadable_lines_and_averages_add_up(ledger):
    ledger.add_unreadable({"/a": 2, "/b": 0})
    ledger.add_unreadable({"/a": 1})
    ledger.add_averages({"m": (100, 2)})
    ledger.add_averages({"m": (50, 1), "n": (5, 1)})
    assert ledger.unreadable() == {"/a": 3}
    assert ledger.averages() == {"m": (150, 3), "n": (5, 1)}


def test_tokens_of_the_last_minute(ledger):
    ledger.keep([ENTRY, ENTRY._replace(request_id="r2"), ENTRY._replace(request_id="r3", tenant=None), ENTRY._replace(request_id="r4", ended_ms=5)])
    assert ledger.recent_tokens(ENTRY.ended_ms) == [("lab", ENTRY.model, int(NOON_S), 220)]


def test_old_requests_go_a_few_at_a_time(ledger):
    ledger.keep([ENTRY._replace(request_id=f"r{number}", ended_ms=number) for number in range(5)])
    assert [ledger.forget_requests(3, 2), ledger.forget_requests(3, 2), ledger.forget_requests(3, 2)] == [2, 1, 0]
    assert set(ledger.entries([f"r{number}" for number in range(5)])) == {"r3", "r4"}


def test_all_or_nothing(ledger):
    def fail():
        with ledger.transaction():
            ledger.keep([ENTRY])
            ledger.keep_positions([Position("/a", 1, 1, "")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (ledger.entries(["r1"]), ledger.positions()) == ({}, [])


def test_a_reader_sees_what_is_committed_while_another_writes(place, ledger):
    reader = open_ledger(*place, read_only=True)
    with ledger.transaction():
        ledger.add_to_days({KEY: Sums(1)})
        assert reader.days() == []
    assert reader.days() == [(KEY, Sums(1))]
    reader.close()


def test_it_is_still_there_when_opened_again(place, ledger):
    ledger.keep([ENTRY])
    again = open_ledger(*place)
    assert again.entries(["r1"]) == {"r1": ENTRY}
    again.close()


def test_no_ledger_yet(place):
    with pytest.raises(PreconditionError, match="nothing has been metered") as caught:
        open_ledger(*place, read_only=True)
    assert caught.value.hint == "kivactl deploy"


def test_a_newer_ledger_is_left_alone(place, ledger):
    ledger._database.query("INSERT INTO ledger (version) VALUES (2)")
    with pytest.raises(PreconditionError, match="newer kivactl"):
        open_ledger(*place)


def test_the_file_is_its_owners_alone(tmp_path):
    open_ledger(f"sqlite:{tmp_path}/ledger.db", "kiva").close()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_a_locked_database_is_told(tmp_path):
    open_ledger(f"sqlite:{tmp_path}/ledger.db", "kiva").close()
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger = Ledger(Sqlite(tmp_path / "ledger.db", patience_s=0))
    with pytest.raises(LedgerUnavailable, match="database is locked"), ledger.transaction():
        pass
    other.execute("ROLLBACK")
    with ledger.transaction():
        ledger.keep([ENTRY])
    ledger.close()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("this is no database, whatever its name says" * 50)])
def test_what_is_no_database_is_told(tmp_path, make):
    make(tmp_path / "ledger.db")
    with pytest.raises(LedgerUnavailable, match=r"ledger\.db cannot be used") as caught:
        open_ledger(f"sqlite:{tmp_path}/ledger.db", "kiva")
    assert (caught.value.exit_code, str(tmp_path) in caught.value.hint) == (4, True)


def test_a_missing_folder_is_told():
    with pytest.raises(LedgerUnavailable, match="No such file"):
        open_ledger("sqlite:/nowhere/ledger.db", "kiva")


def test_a_path_with_odd_letters(tmp_path):
    path = Path(tmp_path / "a b?c#d%20.db")
    open_ledger(f"sqlite:{path}", "kiva").close()
    open_ledger(f"sqlite:{path}", "kiva", read_only=True).close()
    assert path.exists()

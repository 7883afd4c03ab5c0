"""A ledger in a volume is filled out of a backup's copy: once, beside a meter that writes, and only where nothing is lost by it."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usage_lines import NOON_S, access_line, append, count_line, orders

from kivactl.errors import CheckError
from kivactl.stack.metering import read_orders
from kivactl.usage import pieces, taking
from kivactl.usage.asked import REFUSED
from kivactl.usage.ledger import open_ledger
from kivactl.usage.meter import Meter, World
from kivactl.usage.refilling import Refilled, forget_replaced, refill, refill_back
from kivactl.usage.snapshot import snapshot, sums_of

DAY_S = 86_400.0
SINCE_MS = round(NOON_S * 1000)


class Pod:
    """A meter's files, and what is entered in them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.orders = folder / "meter.json"
        self.orders.write_text(json.dumps(orders(folder)))
        self.folder, self.ledger = folder, folder / "usage" / "ledger.db"

    def enter(self, *names: str, at_s: float = NOON_S, **changes: object) -> None:
        append(self.folder / "logs/access.log", *(access_line(name, at_s=at_s, **changes) for name in names))
        append(self.folder / "usage/m-0.jsonl", *(count_line(name, at_s=at_s) for name in names))
        with closing(Meter(self.orders, World(now_s=lambda: NOON_S + 60, say=lambda _: None, reopen_logs=lambda _: True))) as meter:
            meter.run_pass()

    def copy(self) -> Path:
        into = self.folder / "copy.db"
        snapshot(f"sqlite:{self.ledger}", "kiva", into)
        return into

    def refill(self, copy: Path, run: str = "run-1", *, replace: bool = False) -> Refilled:
        return refill(self.ledger, copy, "kiva", run=run, since_ms=SINCE_MS, replace=replace)

    @property
    def sums(self) -> dict:
        return sums_of(self.copy())

    @property
    def days(self) -> list:
        with closing(open_ledger(f"sqlite:{self.ledger}", "kiva", read_only=True)) as ledger:
            return ledger.days()


@pytest.fixture
def old(tmp_path):
    """The ledger that was lost: two days, and a line that could not be read."""
    pod = Pod(tmp_path / "old")
    pod.enter("a", "b", at_s=NOON_S - 2 * DAY_S)
    pod.enter("c", at_s=NOON_S - 60)
    append(pod.folder / "logs/access.log", "no line\n")
    pod.enter()
    return pod


@pytest.fixture
def new(tmp_path):
    return Pod(tmp_path / "new")


def added(one: dict, other: dict) -> dict:
    return {name: one[name] + other[name] for name in one if name != "days"}


def test_an_empty_one_becomes_what_was_backed_up(old, new):
    assert new.refill(old.copy()) is Refilled.FILLED
    assert new.sums == old.sums
    with closing(open_ledger(f"sqlite:{new.ledger}", "kiva")) as there, closing(open_ledger(f"sqlite:{old.ledger}", "kiva")) as lost:
        assert (there.price_lists(), there.averages(), there.unreadable()) == (lost.price_lists(), lost.averages(), lost.unreadable())
        assert there.positions() == [], "logs that are gone"


def test_what_was_asked_since_is_kept_beside_it_and_nothing_is_entered_twice(old, new):
    new.enter("d", "e", at_s=NOON_S + 1)
    both = added(old.sums, new.sums)
    for _ in range(3):
        assert new.refill(old.copy()) is Refilled.FILLED
        assert added(new.sums, dict.fromkeys(both, 0)) == both
    new.enter("f", at_s=NOON_S + 2)
    assert new.sums["requests"] == both["requests"] + 1, "the meter goes on where it was"


def test_another_run_finds_it_there(old, new):
    new.refill(old.copy())
    assert new.refill(old.copy(), "run-2") is Refilled.LEFT
    assert new.sums["requests"] == old.sums["requests"]


@pytest.mark.parametrize("at_s", [NOON_S - 1, NOON_S - 60 * DAY_S])
def test_one_from_before_stays(old, new, at_s):
    new.enter("x", at_s=at_s)
    before = new.sums
    assert new.refill(old.copy()) is Refilled.LEFT
    assert new.sums == before
    assert list(new.ledger.parent.glob("before-*")) == []


def test_one_that_went_on_stays_whatever_the_clocks_say(old, new):
    new.enter("c", at_s=NOON_S + 30)
    assert new.refill(old.copy()) is Refilled.LEFT


def test_one_whose_old_requests_are_forgotten_stays(old, new):
    new.enter("x", "y", at_s=NOON_S - DAY_S)
    with closing(open_ledger(f"sqlite:{new.ledger}", "kiva")) as ledger, ledger.transaction():
        ledger.forget_requests(SINCE_MS, 100)
    new.enter("z", at_s=NOON_S + 1)
    assert new.refill(old.copy()) is Refilled.LEFT


def test_it_is_replaced_when_that_is_said_and_comes_back(old, new):
    new.enter("x", "y", "z", at_s=NOON_S - DAY_S)
    before = new.sums
    for _ in range(2):
        assert new.refill(old.copy(), replace=True) is Refilled.REPLACED
        assert new.sums == old.sums
    new.enter("w", at_s=NOON_S + 1)
    assert new.sums["requests"] == old.sums["requests"] + 1
    assert refill_back(new.ledger, "run-2") is False
    assert refill_back(new.ledger, "run-1") is True
    assert new.sums == before
    assert refill_back(new.ledger, "run-1") is False
    assert new.refill(old.copy(), replace=True) is Refilled.REPLACED, "the same run may begin anew"
    forget_replaced(new.ledger, "run-1")
    assert refill_back(new.ledger, "run-1") is False
    assert new.sums == old.sums


def test_a_new_one_is_filled_also_when_it_might_be_replaced(old, new):
    new.enter("d", at_s=NOON_S + 1)
    assert new.refill(old.copy(), replace=True) is Refilled.FILLED
    assert new.sums["requests"] == old.sums["requests"] + 1
    assert list(new.ledger.parent.glob("before-*")) == []


def test_what_fails_half_way_leaves_it_as_it_was(old, new, monkeypatch):
    new.enter("d", at_s=NOON_S + 1)
    before = new.sums
    monkeypatch.setattr("kivactl.usage.refilling._add_prices", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        new.refill(old.copy())
    assert new.sums == before
    monkeypatch.undo()
    assert new.refill(old.copy()) is Refilled.FILLED


def test_what_is_no_ledger_is_refused(new, tmp_path):
    (tmp_path / "none.db").write_bytes(b"")
    with pytest.raises(CheckError, match=r"none\.db is no ledger"):
        new.refill(tmp_path / "none.db")


NAMES = st.lists(st.tuples(st.sampled_from(["lab", "hall"]), st.integers(0, 3)), max_size=8)


@settings(max_examples=25)
@given(before=NAMES, since=NAMES, times=st.integers(1, 3))
def test_sums_add_up_day_by_day(tmp_path_factory, before, since, times):
    folder = tmp_path_factory.mktemp("sums")
    old, new = Pod(folder / "old"), Pod(folder / "new")
    for number, (tenant, day) in enumerate(before):
        old.enter(f"o{number}", at_s=NOON_S - 1 - day * DAY_S, tenant=tenant)
    for number, (tenant, minute) in enumerate(since):
        new.enter(f"n{number}", at_s=NOON_S + minute, tenant=tenant)
    old.enter()
    new.enter()
    expected = {}
    for key, sums in [*old.days, *new.days]:
        expected[key] = tuple(map(sum, zip(expected.get(key, (0,) * len(sums)), sums, strict=True)))
    for _ in range(times):
        assert new.refill(old.copy()) is Refilled.FILLED
    assert {key: tuple(sums) for key, sums in new.days} == expected


# Piece by piece


def said(capsys, monkeypatch, *words, stdin=""):
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    code = taking.main([str(word) for word in words])
    told = capsys.readouterr()
    return code, json.loads(told.out)["did"] if code == 0 else told.err


def test_a_copy_comes_in_pieces_and_fills_it(old, new, capsys, monkeypatch):
    content = old.copy().read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    name, size = taking.name_of(sha256), 5000
    for again in (False, True):  # broken off and begun anew
        for offset in range(0, len(content) if again else 2 * size, size):
            text = pieces.piece_text(content[offset : offset + size])
            code, did = said(capsys, monkeypatch, "write", new.orders, name, offset, len(text), stdin=text + "what follows is nobody's")
            assert (code, did) == (0, min(offset + size, len(content)))
    assert said(capsys, monkeypatch, "fill", new.orders, name, sha256, "run-1", SINCE_MS) == (0, "filled")
    assert new.sums == old.sums
    assert list(new.ledger.parent.glob("taken-*")) == []


def test_pieces_that_do_not_follow_and_copies_that_are_not_whole_are_refused(old, new, capsys, monkeypatch):
    content = old.copy().read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    name, text = taking.name_of(sha256), pieces.piece_text(content[:100])
    assert said(capsys, monkeypatch, "write", new.orders, name, 0, len(text), stdin=text)[0] == 0
    assert "does not follow" in said(capsys, monkeypatch, "write", new.orders, name, 99, len(text), stdin=text)[1]
    assert "came damaged" in said(capsys, monkeypatch, "fill", new.orders, name, sha256, "run-1", SINCE_MS)[1]
    assert "there is no copy" in said(capsys, monkeypatch, "fill", new.orders, taking.name_of("f" * 64), sha256, "run-1", SINCE_MS)[1]
    assert said(capsys, monkeypatch, "write", new.orders, name, 0, 4, stdin="!!!!")[0] == REFUSED
    assert not new.ledger.exists()


@pytest.mark.parametrize(
    "words",
    [("write", "../ledger.db", 0, 0), ("fill", "taken-1.db", "", "run", 0), ("back", "../../x"), ("forget", ""), ("fill",), ("none",), ()],
)
def test_what_means_no_copy_and_no_run_is_refused(new, capsys, monkeypatch, words):
    arguments = [*words[:1], new.orders, *words[1:]] if words else []
    code, told = said(capsys, monkeypatch, *arguments)
    assert code == REFUSED
    assert told.count("\n") == 1


def test_one_on_a_server_is_not_filled(new, capsys, monkeypatch):
    new.orders.write_text(json.dumps(orders(new.folder, ledger="postgresql://kiva@db/kiva")))
    assert read_orders(new.orders).ledger.startswith("postgresql")
    assert "it has backups of its own" in said(capsys, monkeypatch, "back", new.orders, "run")[1]

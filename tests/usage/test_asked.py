"""A ledger that only a program beside it can read tells the same as one that is read here; and hands over a whole copy."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from contextlib import closing, redirect_stderr, redirect_stdout

import pytest
from usage_lines import NOON_S, access_line, append, count_line, orders, refused_line

from kivactl.errors import PreconditionError
from kivactl.stack.layout import Layout
from kivactl.stack.metering import read_orders
from kivactl.usage import asked, handing, pieces
from kivactl.usage.ledger import open_ledger
from kivactl.usage.meter import Meter, World
from kivactl.usage.snapshot import sums_of


@pytest.fixture
def layout(tmp_path):
    state = tmp_path / ".kiva"
    layout = Layout(state, state)
    account = {"cost_centre": "4711", "contact": None, "limits": {"chat": None}, "monthly_budget": "0.12"}
    layout.meter_orders.parent.mkdir(parents=True, exist_ok=True)
    layout.meter_orders.write_text(json.dumps(orders(state, tenants={"lab": account})))
    append(layout.access_log, access_line("a"), access_line("b"), access_line("c", at_s=NOON_S - 30 * 86_400), refused_line("d", 503), "garbage\n")
    append(layout.usage / "m-0.jsonl", count_line("a"), count_line("b"), count_line("c"))
    meter = Meter(layout.meter_orders, World(now_s=lambda: NOON_S, say=lambda _: None, reopen_logs=lambda _: True))
    meter.run_pass()
    meter.close()
    return layout


def run(main, *words):
    out, said = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        code = main([str(word) for word in words])
    return code, out.getvalue(), said.getvalue()


@pytest.mark.parametrize("month", [None, "2026-11", "2026-10", "2025-01"])
def test_what_is_told_is_what_is_there(layout, month):
    code, text, said = run(asked.main, layout.meter_orders, json.dumps({"book": month}))
    assert (code, said) == (0, "")
    told = asked.parse_book(json.loads(text))
    with closing(open_ledger(read_orders(layout.meter_orders).ledger, "kiva", read_only=True)) as ledger:
        assert told.days(month) == ledger.days(month)
        assert told.price_lists() == ledger.price_lists()
        assert told.unreadable() == ledger.unreadable() != {}
        assert told.warnings(month) == ledger.warnings(month)
    if month is None:
        assert len(told.days("2026-11")) < len(told.days())
        assert [one.level for one in told.warnings("2026-11")]
        assert told.warnings("2026-09") == []


def test_other_questions(layout):
    def told(question):
        return json.loads(run(asked.main, layout.meter_orders, json.dumps(question))[1])

    assert told({"counted": True}) == {"counted": 4}
    assert told({"failures_since_ms": 0}) == {"requests": 4, "failed": 1}
    assert told({"failures_since_ms": round((NOON_S + 60) * 1000)}) == {"requests": 0, "failed": 0}
    assert told({"faults": True}) == {"faults": []}


@pytest.mark.parametrize(
    "data", [{}, {"days": 3}, {"days": [[1]], "price_lists": {}, "unreadable": {}, "warnings": []}, [], {"days": [], "price_lists": {"a": 1}}]
)
def test_what_no_ledger_tells(data):
    with pytest.raises(ValueError, match=r"not what a ledger tells"):
        asked.parse_book(data)


@pytest.mark.parametrize("main", [asked.main, handing.main])
@pytest.mark.parametrize("words", [(), ("make",), ("x", "y", "z", "zz"), ("make", "/nowhere"), ("/nowhere", "{}")])
def test_a_wrong_call_is_one_sentence(main, words):
    code, text, said = run(main, *words)
    assert (code, text, said.count("\n")) == (asked.REFUSED, "", 1)


def test_no_ledger_is_one_sentence(layout):
    layout.ledger.unlink()
    for question in ({"book": None}, {"counted": True}):
        code, _, said = run(asked.main, layout.meter_orders, json.dumps(question))
        assert (code, said) == (asked.REFUSED, "nothing has been metered for 'kiva' yet: there is no ledger\n")
    assert run(handing.main, "make", layout.meter_orders)[0] == asked.REFUSED


def copied(layout):
    made = json.loads(run(handing.main, "make", layout.meter_orders)[1])
    content = b""
    while len(content) < made["bytes"]:
        content += pieces.piece_of(run(handing.main, "read", layout.meter_orders, made["name"], len(content))[1])
    return made, content


def test_a_copy_is_handed_over_in_pieces(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(handing, "PIECE_BYTES", 4096)
    made, content = copied(layout)
    copy = tmp_path / "copy.db"
    copy.write_bytes(content)
    assert sums_of(copy)["requests"] == 4
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    run(handing.main, "drop", layout.meter_orders, made["name"])
    assert [path.name for path in layout.usage.glob("handed-*")] == []
    assert run(handing.main, "read", layout.meter_orders, made["name"], 0)[2].startswith("there is no copy")
    assert run(handing.main, "drop", layout.meter_orders, made["name"]) == (0, "", ""), "it is gone already"


@pytest.mark.parametrize("name", ["../ledger.db", "ledger.db", "/etc/passwd", "handed-zz.db", "handed-0000000000000000.db"])
def test_nothing_but_copies_is_handed_over(layout, name):
    code, text, _ = run(handing.main, "read", layout.meter_orders, name, 0)
    assert (code, text) == (asked.REFUSED, "")
    run(handing.main, "drop", layout.meter_orders, name)
    assert layout.ledger.exists()


def test_copies_that_were_forgotten_go(layout):
    old, young, other = (layout.usage / name for name in (f"handed-{'0' * 16}.db", f"handed-{'1' * 16}.db", "handed-mine.db"))
    for path in (old, young, other):
        path.write_text("x")
    for path in (old, other):
        os.utime(path, (0, 0))
    copied(layout)
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


def test_a_copy_that_would_fill_the_volume_is_not_made(layout, monkeypatch):
    real = os.statvfs(layout.usage)
    full = os.statvfs_result([*real[:4], 100, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(PreconditionError, match="no room for a copy of the ledger beside it"):
        handing.make(read_orders(layout.meter_orders))
    assert list(layout.usage.glob("handed-*")) == []


@pytest.mark.parametrize("text", ["", "!", "AAAA"])
def test_what_is_no_piece(text):
    with pytest.raises(ValueError, match=r".*"):
        pieces.piece_of(text)

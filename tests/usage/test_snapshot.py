"""A copy of a ledger in one file, and the way back into an empty one; the same in both databases."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
from usage_lines import access_line, count_line

from kivactl.errors import CheckError, PreconditionError
from kivactl.usage.join import DayKey, StreamAverages, Sums, joined
from kivactl.usage.ledger import open_ledger
from kivactl.usage.records import parse_access, parse_count
from kivactl.usage.snapshot import fill, snapshot, sums_of

ENTRY = joined(None, parse_access(access_line()), parse_count(count_line()), "4711", StreamAverages({}))
KEY = DayKey("2026-11-23", "lab", "4711", "chat", "m")


def filled(place, count=3):
    with closing(open_ledger(*place)) as ledger, ledger.transaction():
        ledger.keep([ENTRY._replace(request_id=f"r{number}") for number in range(count)])
        ledger.add_to_days({KEY: Sums(count, 1, 10 * count, 0, 7 * count)})
        ledger.add_averages({"m": (100, 10)})


def test_a_copy_adds_up_to_the_same_and_an_unchanged_one_keeps_its_time(place, tmp_path):
    filled(place)
    copy = tmp_path / "copy.db"
    snapshot(*place, copy)
    sums, inode = sums_of(copy), copy.stat().st_ino
    assert (sums["requests"], sums["failed"], sums["prompt_tokens"], sums["completion_tokens"]) == (3, 1, 30, 21)
    snapshot(*place, copy)
    assert copy.stat().st_ino == inode
    filled(place, 1)
    snapshot(*place, copy)
    assert sums_of(copy)["requests"] == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".copy", "copy"))] == ["copy.db"]


def test_an_empty_ledger_is_filled_and_one_with_entries_stays_as_it_is(place, tmp_path):
    source = f"sqlite:{tmp_path}/source.db", place[1]
    filled(source)
    copy = tmp_path / "copy.db"
    snapshot(*source, copy)
    assert fill(*place, copy)
    with closing(open_ledger(*place, read_only=True)) as ledger:
        assert ledger.days() == [(KEY, Sums(3, 1, 30, 0, 21))]
        assert ledger.entries(["r0", "r1", "r2"])["r2"] == ENTRY._replace(request_id="r2")
        assert ledger.averages() == {"m": (100, 10)}
    assert not fill(*place, copy), "a second time nothing is added"
    filled(source)
    snapshot(*source, copy)
    assert not fill(*place, copy)
    with closing(open_ledger(*place, read_only=True)) as ledger:
        assert ledger.days() == [(KEY, Sums(3, 1, 30, 0, 21))]


def test_a_copy_made_while_others_write_is_of_one_moment(place, tmp_path):
    filled(place, 0)
    stop = threading.Event()

    def write():
        number = 0
        with closing(open_ledger(*place)) as ledger:
            while not stop.is_set():
                with ledger.transaction():
                    ledger.keep([ENTRY._replace(request_id=f"w{number}")])
                    ledger.add_to_days({KEY: Sums(1, 0, 10, 0, 7)})
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            snapshot(*place, tmp_path / "copy.db")
            sums = sums_of(tmp_path / "copy.db")
            assert sums["prompt_tokens"] == 10 * sums["requests"]
            assert sums["completion_tokens"] == 7 * sums["requests"]
            with closing(open_ledger(f"sqlite:{tmp_path}/copy.db", place[1], read_only=True)) as copy:
                assert len(copy.entries([f"w{number}" for number in range(sums["requests"] + 5)])) == sums["requests"]
    finally:
        stop.set()
        thread.join()


def test_what_is_no_ledger_or_damaged_is_told(tmp_path):
    path: Path = tmp_path / "copy.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(CheckError, match="is damaged"):
        sums_of(path)
    with pytest.raises(PreconditionError, match="there is no ledger"):
        snapshot(f"sqlite:{tmp_path}/none.db", "kiva", tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()

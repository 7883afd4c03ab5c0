"""Which runbooks there are, and which of a name is meant."""

from __future__ import annotations

from own_runbooks import GOOD, SPEC, spec, written

from kivactl.runbooks.listing import folders, listing


def rows(loaded, language="en"):
    return {row.name: row for row in listing(loaded, language)}


def test_shipped_ones_are_listed_without_a_spec_in_both_languages():
    english, german = rows(None), rows(None, "de")
    assert english["stop"].title == "Stop the platform"
    assert german["stop"].title == "Plattform stoppen"
    assert all(row.shipped and row.title and row.purpose and row.hides is None for row in english.values())


def test_ones_own_hide_shipped_ones_and_say_so(tmp_path):
    path = written(tmp_path, GOOD, "stop")
    row = rows(spec(tmp_path))["stop"]
    assert (row.path, row.shipped, row.title) == (path, False, "Greet")
    assert row.hides is not None
    assert row.as_dict()["hides"].endswith("/runbooks/stop.yaml")


def test_folders_of_the_spec_are_searched_once_and_missing_ones_left_out(tmp_path):
    (tmp_path / "more").mkdir()
    written(tmp_path, GOOD)
    text = SPEC.replace("runbooks: {", "runbooks: {folders: [more, ./more, absent, runbooks], ")
    assert [folder.name for folder in folders(spec(tmp_path, text))] == ["runbooks", "more", "runbooks"]


def test_one_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    (written(tmp_path, GOOD)).write_bytes(b"\xff")
    written(tmp_path, "title: {en: [\n", "torn")
    found = rows(spec(tmp_path))
    assert (found["greet"].title, found["torn"].title) == ("", "")
    assert found["start"].title

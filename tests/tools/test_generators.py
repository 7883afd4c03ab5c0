"""Generators that yield what happens and return what came of it."""

from __future__ import annotations

import pytest

from kivactl.tools.generators import drained, watched


def counting(ended: list[str], until: int = 3):
    try:
        yield from range(until)
        return "done"
    finally:
        ended.append("closed")


def test_what_is_watched_is_passed_on_and_so_is_the_result():
    seen, ended, results = [], [], []

    def outer():
        results.append((yield from watched(counting(ended), seen.append)))

    assert list(outer()) == [0, 1, 2]
    assert (seen, results, ended) == ([0, 1, 2], ["done"], ["closed"])


@pytest.mark.parametrize("leave", ["close", "throw"])
def test_who_leaves_early_closes_what_runs(leave: str):
    ended: list[str] = []
    run = watched(counting(ended), lambda _: None)
    assert next(run) == 0
    if leave == "close":
        run.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            run.throw(KeyboardInterrupt())
    assert ended == ["closed"]


def test_what_is_drained_tells_its_result():
    seen: list[int] = []
    assert drained(counting([], 2), seen.append) == "done"
    assert seen == [0, 1]


def test_an_error_of_the_watcher_is_the_callers():
    def refuse(_: int) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        drained(counting([]), refuse)

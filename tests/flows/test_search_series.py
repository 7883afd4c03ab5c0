"""What whoever watches a search is told of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from loadtest_material import probe

from kivactl.flows.search import _interval_words, _Series


@pytest.mark.parametrize(
    ("known", "met", "missed"),
    [
        ([], None, None),
        ([(2, True), (4, None)], 2, None),
        ([(2, True), (4, True), (8, False)], 4, 8),
        ([(2, True), (4, True), (8, False), (4, False)], 2, 4),
        ([(2, False)], None, 2),
    ],
)
def test_between_which_loads_the_answer_lies(known: list[tuple[float, bool | None]], met: float | None, missed: float | None) -> None:
    series = _Series(cast("Any", None), (), Path(), cast("Any", None), probes=[probe(load, kept) for load, kept in known])
    assert series._place(3.0, "requests/s") == {"number": len(known) + 1, "of": None, "load": 3.0, "unit": "requests/s", "met": met, "missed": missed}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (2.0, 2.38, "between 2 and 2.38"),
        (0.0, 2.38, "surely below 2.38"),
        (2.0, None, "at least 2"),
        (0.0, None, "too few requests to be sure of any rate"),
    ],
)
def test_how_sure_a_capacity_is(low: float, high: float | None, words: str) -> None:
    assert _interval_words(low, high) == words

"""Which deploy is meant by "back"."""

from __future__ import annotations

import pytest

from kivactl.errors import UsageError
from kivactl.targets.kubernetes.history import deploy_of
from kivactl.targets.kubernetes.record import Deploy, Record, Unfinished


def record(*numbers, unfinished=""):
    begun = Unfinished(unfinished, "a@b", "2026-11-29T12:00:00+00:00") if unfinished else None
    return Record("kiva", deploys=tuple(Deploy(number, "") for number in numbers), unfinished=begun)


@pytest.mark.parametrize(
    ("there", "number", "meant"),
    [
        (record(1, 2, 3), None, 2),
        (record(1, 2, 3), 1, 1),
        (record(1, 2, 3), 3, 3),
        (record(1, 2, 3, unfinished="deploy"), None, 3),
        (record(1, unfinished="deploy"), None, 1),
        (record(1, 2, 3, unfinished="rollback to 1"), None, 1),
        (record(1, 2, 3, unfinished="rollback to 1"), 2, 2),
    ],
)
def test_back_is_where_it_served_last(there, number, meant):
    assert deploy_of(there, number).number == meant


@pytest.mark.parametrize(
    ("there", "number", "message", "hint"),
    [
        (record(), None, "there is no deploy to go back to", "kivactl deploy"),
        (record(unfinished="deploy"), None, "there is no deploy to go back to", "kivactl deploy"),
        (record(1), None, "there is no deploy to go back to", "kivactl history"),
        (record(), 1, "there is no deploy 1", "kivactl deploy"),
        (record(2, 3), 1, "there is no deploy 1", "one of: 2, 3"),
        (record(2, 3, unfinished="rollback to 1"), None, "there is no deploy 1", "one of: 2, 3"),
    ],
)
def test_where_there_is_none_the_hint_leads_on(there, number, message, hint):
    with pytest.raises(UsageError) as failure:
        deploy_of(there, number)
    assert (failure.value.message, failure.value.hint) == (message, hint)

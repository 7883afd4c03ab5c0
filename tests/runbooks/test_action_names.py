"""Names of actions and probes are given once, and what a runbook may hand on is declared."""

from __future__ import annotations

from collections import Counter

import pytest

from kivactl.runbooks import actions
from kivactl.runbooks.actions import model


@pytest.mark.parametrize("kind", ["ACTIONS", "PROBES"])
def test_no_name_is_given_twice(kind):
    names = Counter(name for subject in actions._SUBJECTS for name in getattr(subject, kind))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_action_and_probe_says_what_it_does():
    for name, one in {**actions.ACTIONS, **actions.PROBES}.items():
        assert one.summary.endswith("."), name
        assert one.params.__doc__, name


@pytest.mark.parametrize(
    "given",
    [
        {"alias": "chat"},
        {"alias": "chat", "model": "v1"},
        {"alias": "chat", "percent": 5},
        {"alias": "chat", "shares": "v1=1", "model": "v1", "percent": 5},
        {"alias": "chat", "shares": "v1"},
        {"alias": "chat", "shares": ""},
        {"alias": "chat", "model": "v1", "percent": 101},
    ],
)
def test_shares_are_given_in_one_way(given):
    with pytest.raises(ValueError, match=r"shares|percent"):
        model.SharesParams(**given)


def test_shares_may_be_the_text_of_an_earlier_step():
    assert model.SharesParams(alias="chat", shares="v1=90, v2=10").shares == {"v1": 90, "v2": 10}

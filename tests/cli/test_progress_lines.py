"""Which ended steps are worth a line on a terminal."""

import pytest

from kivactl.cli.progress import unremarkable
from kivactl.plan import Outcome, Status


@pytest.mark.parametrize(
    ("outcome", "hidden"),
    [
        (Outcome("a", Status.DONE, "ready"), False),
        (Outcome("a", Status.DONE, "changed", data={"changed": True}), False),
        (Outcome("a", Status.DONE, "ok", data={"changed": False}), True),
        (Outcome("a", Status.SKIPPED, "skipped"), True),
        (Outcome("a", Status.SKIPPED, "unchanged since yesterday"), False),
        (Outcome("a", Status.FAILED, "no", data={"changed": False}), False),
    ],
)
def test_what_did_nothing_gets_no_line(outcome, hidden):
    assert unremarkable(outcome) is hidden

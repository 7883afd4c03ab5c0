"""A plan as a person reads it."""

from __future__ import annotations

from kivactl.cli.plan_text import lines_for
from kivactl.plan import Change, Difference, Plan, Verb


def _shown(*differences: Difference) -> list[str]:
    plan = Plan("deploy", (Change(Verb.UPDATE, "one: rules", differences),), basis="b")
    return [line for line, _ in lines_for(plan)][2:-1]


def test_differences_of_a_line_stand_in_one():
    assert _shown(Difference("a", "1", "2"), Difference("long", None, "x"), Difference("", "y", None)) == [
        "        a     1 -> 2",
        "        long  x",
        "              y -> (removed)",
    ]


def test_differences_of_several_lines_have_their_sides():
    assert _shown(Difference("", "a\nb", "c")) == ["          - a", "          - b", "          + c"]
    assert _shown(Difference("spec", None, "c\n\nd")) == ["        spec", "          + c", "          +", "          + d"]


def test_of_a_long_text_the_beginning_is_shown():
    shown = _shown(Difference("", None, "\n".join(f"line {number}" for number in range(50))))
    assert (len(shown), shown[0], shown[-1]) == (9, "          + line 0", "          + ... and 42 more lines, which --output json has")
    assert len(_shown(Difference("", None, "\n".join("123456789")))) == 9, "a line that says so would take as much room"

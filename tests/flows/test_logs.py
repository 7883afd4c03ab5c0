"""The last lines of the logs, and those that come."""

import pytest

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.logs import followed, last_lines
from kivactl.stack.layout import Layout


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path, tmp_path)
    layout.logs.mkdir()
    layout.log("gateway").write_text("a\nb\nc\n")
    layout.log("m-0").write_text("x\n")
    return layout


def test_the_last_lines_of_all(layout):
    assert last_lines(layout, None, 2) == {"gateway": ["b", "c"], "m-0": ["x"]}


def test_a_mistyped_name_gets_the_nearest(layout):
    with pytest.raises(UsageError) as caught:
        last_lines(layout, "gatway", 1)
    assert caught.value.hint == "kivactl logs gateway"


def test_no_logs_yet(tmp_path):
    with pytest.raises(PreconditionError, match="no logs"):
        last_lines(Layout(tmp_path, tmp_path), None, 1)


def test_following_goes_on_through_a_rotation_and_half_lines(layout):
    path = layout.log("gateway")
    writes = iter(
        [
            lambda: path.open("a").write("d\nhal"),
            lambda: path.open("a").write("f\n"),
            lambda: (path.rename(path.with_suffix(".log.1")), path.write_text("new\n")),
        ]
    )
    seen = []
    lines = followed(layout, ["gateway"], lambda _: next(writes)())
    for name, line in lines:
        seen.append((name, line))
        if line == "new":
            break
    assert seen == [("gateway", "d"), ("gateway", "half"), ("gateway", "new")]

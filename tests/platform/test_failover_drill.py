"""The failover drill as an operator runs it: two real replicas under load, one of them killed.

The figures that are printed (`pytest -s`) are measurements of this machine; asserted is that nothing is lost, and that
what is said to have passed was measured.
"""

import json
import xml.etree.ElementTree as ET

import pytest

pytestmark = pytest.mark.drills


def drilled(operator):
    """The run's folder and what was said. A machine too busy to measure on makes a drill invalid: as an operator would, it is done again."""
    for _ in range(3):
        out, err = operator.run("runbook", "failover-killed", "--yes", "--set", "users=2", code=None)
        folder = max((operator.layout.state / "runs").glob("failover-killed-*"), key=lambda path: path.stat().st_mtime)
        if json.loads((folder / "measurements" / "summary.json").read_text())["invalid"] is None:
            break
    return folder, out, err


def test_a_killed_replica_loses_no_request_that_was_not_yet_streaming(operator):
    operator.write()
    operator.run("deploy", "--yes")
    folder, out, err = drilled(operator)
    summary = json.loads((folder / "measurements" / "summary.json").read_text())
    figures = summary["figures"]
    print(f"failover-killed: {figures}; generator {summary['generator']}")

    end = json.loads((folder / "journal.jsonl").read_text().splitlines()[-1])
    assert (end["event"], end["verdict"]) == ("closed", "passed"), f"{out}\n{err}"
    assert summary["invalid"] is None
    assert figures["lost_requests"] == 0
    assert figures["cut_streams"] <= 2, "streams that had begun on the killed replica, one for each user at most"
    assert 0 < figures["detection"] <= figures["recovery"]
    before, during, after = summary["phases"]
    assert min(before["answered"], during["answered"], after["answered"]) > 0
    for language in ("en", "de"):
        assert ET.parse(folder / "measurements" / f"load.{language}.svg").getroot().tag.endswith("svg")
    assert operator.status["health"] == "serving"

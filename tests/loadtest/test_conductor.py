"""The conductor begins; what it does in a run is tested by runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BEGIN = """
import sys, time
from pathlib import Path
from kivactl.loadtest.assignment import Folder
from kivactl.loadtest.catalogue import load_scenario
from kivactl.loadtest.conductor import Conductor
from kivactl.loadtest.scenario import assignment_for
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret

told = []
work = assignment_for(load_scenario("capacity"), Endpoint("http://127.0.0.1/v1", Secret(""), None, ""))
conductor = Conductor(Folder(Path(sys.argv[1])), work, lambda kind, facts: told.append((kind, facts)), lambda: None)
before_ns = time.perf_counter_ns()
conductor.begin(1)
(kind, facts), = told
print("\\nbegins", kind, facts["start_ns"] - before_ns >= 300_000_000)
"""


def test_one_process_too_has_time_to_get_ready(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _BEGIN, tmp_path], capture_output=True, text=True, check=True)  # gevent belongs to Locust's processes
    assert done.stdout.splitlines()[-1] == "begins begin True"

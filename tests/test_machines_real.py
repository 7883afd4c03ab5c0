"""The tests' own machines: what a killed session leaves is cleared away by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import machines
import pytest

pytestmark = pytest.mark.machines

SESSION = """
import machines, sys, time
with machines.open_site() as site:
    site.machine("lost", "16.11")
    print(site.mark, flush=True)
    time.sleep(600)
"""


def _traces(mark: str) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f"/{mark}/" in line]
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{mark}-*")]
    spaces = [str(path) for path in Path("/run/netns").glob(f"{mark}-*")]
    return [*mounts, *groups, *spaces, *([mark] if f"{mark} " in links else []), *map(str, Path(machines._CACHE).glob(mark))]


@pytest.mark.skipif(bool(machines.lacking()), reason=machines.lacking() or "never")
def test_what_a_killed_session_left_is_cleared_away():
    script = [sys.executable, "-c", SESSION]
    with subprocess.Popen(script, env={**os.environ, "PYTHONPATH": str(Path(machines.__file__).parent)}, stdout=subprocess.PIPE, text=True) as session:
        mark = session.stdout.readline().strip()
        assert len(_traces(mark)) >= 5
        session.send_signal(signal.SIGKILL)
        session.wait()
    machines.clear_stale()
    assert _traces(mark) == []  # a group of processes can only go when none of them is left

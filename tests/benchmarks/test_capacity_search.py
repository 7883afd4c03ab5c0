"""The benchmark of the search for the capacity: it runs, and says what it found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "capacity_search.py"


def test_it_searches_and_prints_a_line_for_each_length_of_a_probe() -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--searches", "2", "--probes", "4", "8"], capture_output=True, text=True, check=True)
    head, _, *lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, probe in zip(lines, ("4", "8"), strict=True):
        cells = dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
        assert cells["probe, s"] == probe
        assert abs(float(cells["error"].rstrip("%"))) < 20
        assert int(cells["requests"].replace(",", "")) > 1000

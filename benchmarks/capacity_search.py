"""How near the search for the capacity comes, and how many requests it takes: before a simulated queue whose capacity is known.

Run: python benchmarks/capacity_search.py [--searches 400] [--probes 8 40] [--precision 0.03]

Nothing is sent; the search is kivactl's own, with the seeds 0, 1, 2... For each length of a probe in seconds: the mean error of what is found and its
standard deviation, how many are within the precision, how many intervals hold the truth, and how many requests and seconds of load a search takes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean, pstdev

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from queueing import Searched, searched  # noqa: E402

_WARM_UP_S = 1.0
"""What a search takes in test E of `benchmarks/generators`, where answers are no longer."""


def line_for(probe_s: float, precision: float, found: list[Searched]) -> str:
    """A line of the table."""
    errors = [one.error for one in found]
    within = mean(abs(error) <= precision for error in errors)
    costs = f"{mean(one.requests for one in found):,.0f} | {mean(one.seconds for one in found):.0f}"
    return f"| {probe_s:g} | {mean(errors):+.1%} | {pstdev(errors):.1%} | {within:.0%} | {mean(one.holds for one in found):.0%} | {costs} |"


def main() -> None:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--probes", type=float, nargs="+", default=[8.0, 40.0], help="lengths of a probe, in seconds")
    parser.add_argument("--precision", type=float, default=0.03)
    options = parser.parse_args()
    print(f"| probe, s | error | its deviation | within {options.precision:.0%} | intervals that hold | requests | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for probe_s in options.probes:
        print(line_for(probe_s, options.precision, [searched(seed, probe_s, options.precision, _WARM_UP_S) for seed in range(options.searches)]))


if __name__ == "__main__":
    main()

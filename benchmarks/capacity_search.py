"""How near the search for the capacity comes, and how many requests it takes: before a simulated queue whose capacity is known.

Run: python benchmarks/capacity_search.py [--searches 400] [--probes 8 40] [--precision 0.03]

Nothing is sent; the search is kivactl's own, with the seeds 0, 1, 2... For each length of a probe in seconds: the mean error of what is found and its
standard deviation, how many are within the precision, how many intervals hold the truth, and how many requests and seconds of load a search takes.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from queueing import CAPACITY_RPS, in_time  # noqa: E402

from kivactl.loadtest.capacity import Search, Share  # noqa: E402
from kivactl.loadtest.intervals import parts_of  # noqa: E402

_ATTAINMENT, _START_RPS, _LIMIT_RPS, _WARM_UP_S = 0.95, 4.0, 256.0, 1.0
"""As in test E of `benchmarks/generators`; the warm-up is what a search takes there, for answers are not shorter."""


@dataclass(frozen=True)
class Searched:
    """What came of one search.

    Attributes:
        error: Of the rate that was found, relative.
        holds: Whether the truth lies in its interval.
        requests: That were measured.
        seconds: Of load, warm-ups included.
    """

    error: float
    holds: bool
    requests: int
    seconds: float


def searched(seed: int, probe_s: float, precision: float) -> Searched:
    """One search."""
    source, search = random.Random(seed), Search(_START_RPS, _LIMIT_RPS, precision)
    requests, seconds = 0, 0.0
    while (probe := search.next_probe()) is not None:
        rate_rps, length = probe
        good = in_time(rate_rps, probe_s * length, source, _WARM_UP_S)
        requests, seconds = requests + len(good), seconds + _WARM_UP_S + probe_s * length
        search.take([Share("ttft_p95", sum(good), len(good), _ATTAINMENT, parts_of(good))])
    holds = search.surely_met_rps <= CAPACITY_RPS <= (search.surely_missed_rps or math.inf)
    return Searched(search.met_rps / CAPACITY_RPS - 1, holds, requests, seconds)


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
        print(line_for(probe_s, options.precision, [searched(seed, probe_s, options.precision) for seed in range(options.searches)]))


if __name__ == "__main__":
    main()

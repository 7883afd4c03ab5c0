"""Compares load generators for LLMs on one mock engine whose answers come at known times.

Run: .venv/bin/python benchmarks/generators [--tests A,B,C,D,E,F] [--contenders kivactl,vllm-bench,...] [--repeats 5] [--seconds 8]
                                            [--tolerance 0.08] [--cache FOLDER] [--json FILE] [--markdown FILE]

The mock engine has the first core for itself, each generator the second one: all figures are those of one core. Generators take
turns in every repeat, beginning with another one. A run in which the mock engine's own events were late (99th percentile
above 0.5 ms) does not count and is repeated. As root, the mock engine runs before everything else on its core, and generators are
preferred to the machine's other work; a busy machine's delays are in the 99th percentiles all the same. The other generators are
installed from the package index into environments below the cache folder. What has hours to go can be done in parts: rounds that are in
the file of --json already are not run again, so a run that was interrupted, or that asks for more repeats or tests, goes on.

  A   Four streams, answers in every manner in which an engine gives them: error of the reported medians; requests wrongly told good.
  B   The most streams at 50 tokens/s each with a TTFT p99 within 5 ms and an ITL p99 within 2 ms of the truth. Streams start one after
      another where the generator can do that, within the time of one answer.
  C   Poisson arrivals, answers of 16 tokens: the highest rate of which 99 % is kept, as the mock engine saw the arrivals.
  D   50 requests/s, evenly; in their midst the engine stands still for 2 s: are the requests sent, and does the TTFT's p99 say so?
  E   A generator's own search for the capacity of an engine that serves 16 requests at a time: 95 % of the first tokens within 0.4 s.
  F   64 prompts of 50,000 tokens at once: all are answered, TTFT p99 and ITL p50 are within a tenth of the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

from generators import mock, protocol  # noqa: E402
from generators.contenders import Contender, all_contenders  # noqa: E402
from generators.environments import CACHE, PACKAGES, MissingError, programs_of, tokenizer_in  # noqa: E402
from generators.protocol import Result  # noqa: E402
from generators.report import report  # noqa: E402
from generators.running import Bench, progress  # noqa: E402
from kivactl.targets.release import write_json  # noqa: E402

Results = dict[str, list[dict[str, Result]]]
"""For each test its rounds, for each round what every contender showed."""

Measurement = Callable[[Bench, Contender, float, float, int], Result]
TESTS: dict[str, tuple[str, Measurement]] = {
    "A": ("closed", protocol.accuracy),
    "B": ("closed", protocol.streams),
    "C": ("poisson", protocol.rate),
    "D": ("constant", protocol.frozen),
    "E": ("search", protocol.capacity),
    "F": ("closed", protocol.prompts),
}
"""The load that a test needs, or a search of one's own; and the test."""


def main() -> None:
    known = all_contenders()
    options = _options(known)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing it started outlives it
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        progress("one core only: the mock engine and the generators share it, and no figure is to be believed")
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="kiva-bench-", dir=place) as name:
        scratch = Path(name)
        chosen = _installed([known[one] for one in options.contenders], options.cache)
        if not chosen:
            sys.exit("no contender is left")
        programs = {one.name: folder for one, folder in chosen.items()}
        bench = Bench(mock.build(scratch), tokenizer_in(scratch), programs, cores[0] if cores[1:] else None, frozenset(cores[1:2] or cores), scratch)
        results = _measured(bench, list(chosen), options)
    text = report(results, {name: one.remark for name, one in known.items() if any(name in each for rounds in results.values() for each in rounds)})
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


def _measured(bench: Bench, contenders: list[Contender], options: argparse.Namespace) -> Results:
    """All tests, but for the rounds that are there."""
    versions = {one.name: PACKAGES[one.package][0] if one.package else "beside this Python" for one in contenders}
    before = _kept(options, versions)
    results: Results = before["results"]
    for number in range(options.repeats):
        turn = number % len(contenders)
        for test in options.tests:
            kind, measure = TESTS[test]
            taking_part = [one for one in contenders[turn:] + contenders[:turn] if (one.search if kind == "search" else kind in one.kinds)]
            rounds = results.setdefault(test, [])
            whole = [one for one in rounds if {each.name for each in taking_part} <= set(one)]
            if len(whole) > number:
                continue
            progress(f"{test}, round {number + 1} of {options.repeats}")
            near = {name: result.get("most", 0) for one in rounds for name, result in one.items()}
            rounds.append({one.name: measure(bench, one, options.seconds, options.tolerance, near.get(one.name, 0)) for one in taking_part})
            if options.json:  # what is measured so far is not lost with the rest
                write_json(options.json, {**before, "load_average": os.getloadavg()})
    return results


def _kept(options: argparse.Namespace, versions: dict[str, str]) -> dict[str, Any]:
    """What the file for figures has already, or nothing; ends the program where that was measured in another way."""
    how = {"seconds": options.seconds, "tolerance": options.tolerance}
    if not options.json or not options.json.exists():
        return {**how, "versions": versions, "results": {}}
    try:
        before: dict[str, Any] = json.loads(options.json.read_text())
        other = [key for key, value in how.items() if before[key] != value]
        other += [name for name, version in versions.items() if before["versions"].get(name, version) != version]
        counts = ", ".join(f"{test} {len(rounds)}" for test, rounds in sorted(before["results"].items()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f"{options.json} is no file of these benchmarks ({error!r}): name another one")
    if other:
        sys.exit(f"{options.json} was measured with other {', '.join(other)}: name another file, or repeat what made it")
    progress(f"{options.json} has rounds already: {counts}")
    return {**before, "versions": before["versions"] | versions}


def _installed(contenders: list[Contender], cache: Path) -> dict[Contender, Path]:
    """Those that can be had here, each with its folder of programs; says why others cannot."""
    found = {}
    for one in contenders:
        try:
            found[one] = programs_of(one.package, cache)
        except MissingError as error:
            progress(f"{one.name} takes no part: {error}")
    return found


def _options(known: dict[str, Contender]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/generators", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", default=",".join(TESTS), help=f"of {', '.join(TESTS)}")
    parser.add_argument("--contenders", default=",".join(known), help=f"of {', '.join(known)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8, help="of load in each run")
    parser.add_argument("--tolerance", type=float, default=0.08, help="of a search for the most: the width of its last bracket, relative")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for the generators' environments")
    parser.add_argument("--json", type=Path, help="file for every figure of every run; goes on from what is there")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    options = parser.parse_args()
    for key, names in (("tests", tuple(TESTS)), ("contenders", tuple(known))):
        asked = tuple(getattr(options, key).split(","))
        if unknown := set(asked) - set(names):
            parser.error(f"--{key}: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
        setattr(options, key, asked)
    if options.repeats < 1:
        parser.error("--repeats: at least 1")
    return options


if __name__ == "__main__":
    main()

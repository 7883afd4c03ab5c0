"""Results as Markdown: a table for each test, contenders in rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from generators.protocol import KS_LIMIT, LAG_LIMIT_MS, MODES, TTFT_LIMIT_MS

Rounds = Sequence[Mapping[str, Any]]
"""Of one test: for each round, each contender's result."""


def report(results: Mapping[str, Rounds], remarks: Mapping[str, str]) -> str:
    """The tables of all tests.

    Args:
        results: By the test's letter.
        remarks: By contender.
    """
    makers = {"A": _accuracy, "B": _streams, "C": _rate, "D": _frozen, "E": _capacity, "F": _prompts}
    parts = [makers[test](rounds) for test, rounds in sorted(results.items()) if rounds]
    notes = "\n".join(f"- {name}: {remark}" for name, remark in remarks.items())
    return "\n\n".join([*parts, notes]) + "\n"


def _names(rounds: Rounds) -> list[str]:
    return list(dict.fromkeys(name for one in rounds for name in one))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _middle(values: Sequence[float | None], form: str) -> str:
    """The median; with the least and the greatest where there are several."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    text = format(median(known), form)
    return text if len(known) == 1 else f"{text} ({format(known[0], form)} to {format(known[-1], form)})"


def _accuracy(rounds: Rounds) -> str:
    head = ["A: error of TTFT p50 / ITL p50 in ms; requests told wrongly good", *_names(rounds)]
    rows = []
    for mode in MODES:
        cells = []
        for name in _names(rounds):
            runs = [one[name][mode] for one in rounds if name in one and mode in one[name]]
            good = [run["errors"] for run in runs if "errors" in run]
            if not good:
                cells.append(runs[0]["broken"].split(":")[0] if runs else "-")
                continue
            cell = f"{_middle([errors['ttft_p50'] for errors in good], '+.2f')} / {_middle([errors['itl_p50'] for errors in good], '+.2f')}"
            missed = max(errors["missed"] for errors in good)
            cells.append(f"{cell}; {missed}" if missed else cell)
        rows.append([mode, *cells])
    return _table(head, rows)


def _streams(rounds: Rounds) -> str:
    head = ["B", "most streams at 50 tokens/s on one core", "TTFT p99 error there", "gap p99 error there", "rounds", "runs"]
    rows = []
    for name in _names(rounds):
        results = [one[name] for one in rounds if name in one]
        best = [run for result in results for run in result["tries"] if run["passes"] and run["streams"] == result["most"]]
        error = {key: _middle([run["errors"][key] for run in best], "+.1f") for key in ("ttft_p99", "gap_p99")}
        cells = [_middle([result["most"] for result in results], ".0f"), error["ttft_p99"], error["gap_p99"]]
        rows.append([name, *cells, str(len(results)), str(sum(len(result["tries"]) for result in results))])
    return _table(head, rows)


def _rate(rounds: Rounds) -> str:
    right = f"highest tried in any round with a TTFT p99 within {TTFT_LIMIT_MS:g} ms, "
    right += f"a send lag p99 within {LAG_LIMIT_MS:g} ms where it is told, and KS p >= {KS_LIMIT:g}"
    head = ["C", "highest Poisson rate kept on one core, 1/s", right, "TTFT p99 error at the highest, ms", "KS p of the gaps", "variation of the gaps", "runs"]
    rows = []
    for name in _names(rounds):
        results = [one[name] for one in rounds if name in one]
        best = [run for result in results for run in result["tries"] if run["passes"] and run["per_s"] == result["most"]]
        cells = [_middle([result["most"] for result in results], ".0f")]
        # Later rounds begin near the highest rate and try none of the low ones, at which most are right.
        cells += [str(max((run["per_s"] for result in results for run in result["tries"] if run.get("right")), default=0))]
        cells += [_middle([run["errors"]["ttft_p99"] for run in best], "+.1f")]
        cells += [_middle([run["ks_p"] for run in best], ".3f"), _middle([run["variation"] for run in best], ".2f")]
        rows.append([name, *cells, str(sum(len(result["tries"]) for result in results))])
    return _table(head, rows)


def _frozen(rounds: Rounds) -> str:
    head = ["D", "arrivals issued, %", "TTFT p99 against what users saw, %", "remarks"]
    rows = []
    for name in _names(rounds):
        results = [one[name] for one in rounds if name in one]
        good = [run for run in results if not run["broken"]]
        issued = _middle([100 * run["issued"] for run in good], ".1f")
        off = _middle([100 * run["p99_off"] for run in good if run["p99_off"] is not None], "+.1f")
        rows.append([name, issued, off, "; ".join(sorted({run["broken"] for run in results if run["broken"]}))])
    return _table(head, rows)


def _capacity(rounds: Rounds) -> str:
    head = ["E", "capacity found", "the truth", "error, %", "requests", "seconds", "remarks"]
    rows = []
    for name in _names(rounds):
        results = [one[name] for one in rounds if name in one]
        good = [run for run in results if not run["broken"]]
        unit = {run["domain"] for run in good}
        cells = [_middle([run["found"] for run in good], ".0f") + (f" {unit.pop()}" if len(unit) == 1 else ""), _middle([run["true"] for run in good], ".1f")]
        cells += [_middle([100 * (run["found"] / run["true"] - 1) for run in good], "+.1f")]
        cells += [_middle([run["sent"] for run in good], ".0f"), _middle([run["wall_s"] for run in good], ".0f")]
        rows.append([name, *cells, "; ".join(sorted({run["broken"] for run in results if run["broken"]}))])
    return _table(head, rows)


def _prompts(rounds: Rounds) -> str:
    head = ["F", "error of TTFT p50, ms", "of TTFT p99, ms", "of ITL p50, ms", "kB a prompt", "CPU seconds", "verdict"]
    rows = []
    for name in _names(rounds):
        results = [one[name] for one in rounds if name in one]
        good = [run for run in results if "errors" in run]
        cells = [_middle([run["errors"][key] for run in good], "+.1f") for key in ("ttft_p50", "ttft_p99", "itl_p50")]
        cells += [_middle([run["bytes"] / 1000 for run in good], ".0f"), _middle([run["cpu_s"] for run in good], ".1f")]
        passed = sum(bool(run.get("passes")) for run in results)
        broken = sorted({run["broken"] for run in results if run["broken"]})
        rows.append([name, *cells, "; ".join([f"passes {passed} of {len(results)}", *broken])])
    return _table(head, rows)

"""The generators that are compared: for each a command line for a load and a parser of what it wrote. All of it pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generators.loads import Command, Figures, Found, Goal, Kind, Load, Target


@dataclass(frozen=True)
class Contender:
    """A load generator.

    Attributes:
        name: On the command line and in tables.
        package: In which environment it lives; None: beside this Python.
        command: How it is run; gets the environment's folder of programs.
        parse: Reads its figures from the folder where it ran. Raises `ValueError` or `OSError` where it left none.
        kinds: The loads it knows.
        remark: How it is run, for the table.
        ahead: How many requests it sends before those it counts.
        search: How its own search for a capacity is run; None where it has none.
        found: Reads what that found.
    """

    name: str
    package: str | None
    command: Callable[[Load, Target, Path], Command]
    parse: Callable[[Path], Figures]
    kinds: frozenset[Kind] = frozenset({"closed", "poisson", "constant"})
    remark: str = ""
    ahead: int = 0
    search: Callable[[Goal, Target, Path], Command] | None = None
    found: Callable[[Path], Found] | None = None


def all_contenders() -> dict[str, Contender]:
    """Every contender by its name, kivactl first."""
    from generators.contenders import aiperf, genai_bench, guidellm, inference_perf, kivactl, mlcommons, stock_locust, vllm_bench

    others = (vllm_bench.VLLM_BENCH, aiperf.AIPERF, guidellm.GUIDELLM, inference_perf.INFERENCE_PERF, genai_bench.GENAI_BENCH, mlcommons.MLCOMMONS)
    known = (kivactl.KIVACTL, *others, stock_locust.HTTP_USER, stock_locust.FAST_HTTP_USER)
    return {contender.name: contender for contender in known}

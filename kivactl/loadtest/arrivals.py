"""When requests arrive in an open loop; pure and seeded.

A process of unit rate (one arrival a second on average) is stretched by a profile, the rate over time: with Λ the rate's
integral, an arrival at u of the unit process is one at Λ⁻¹(u). So each kind of process has each profile, and exactly.

The schedule is one, however many processes generate the load: each takes every n-th arrival of it. So workers cannot draw
alike, and the same seed gives the same arrivals on one processor and on sixteen.

Source: Çinlar, "Introduction to Stochastic Processes" (1975), for the change of time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Process(StrEnum):
    """How arrivals follow each other."""

    CONSTANT = "constant"
    """Equal gaps."""
    POISSON = "poisson"
    """Exponential gaps: people who do not know of each other."""
    GAMMA = "gamma"
    """Gamma-distributed gaps: burstier than Poisson below a burstiness of 1, more regular above, as in `vllm bench serve`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of time in which the rate goes evenly from one value to another.

    Attributes:
        duration_s: Its length; more than 0.
        from_rps: Requests per second at its beginning.
        until_rps: And at its end.
    """

    duration_s: float
    from_rps: float
    until_rps: float

    @property
    def arrivals(self) -> float:
        """How many requests arrive in it, on average."""
        return self.duration_s * (self.from_rps + self.until_rps) / 2

    def moment_s(self, arrivals: float) -> float:
        """When so many (0..`arrivals`) have arrived on average, in seconds from its beginning."""
        slope = (self.until_rps - self.from_rps) / self.duration_s
        # The positive root of slope/2 t² + from t = arrivals, in the form that is exact for a slope of nought, too.
        root = math.sqrt(max(0.0, self.from_rps**2 + 2 * slope * arrivals))
        return min(self.duration_s, 2 * arrivals / (self.from_rps + root)) if arrivals > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """The rate over time, piece by piece; nothing arrives after the last."""

    pieces: tuple[Piece, ...]

    @property
    def duration_s(self) -> float:
        return sum(piece.duration_s for piece in self.pieces)

    @property
    def arrivals(self) -> float:
        """How many requests arrive, on average."""
        return sum(piece.arrivals for piece in self.pieces)

    def rate_rps(self, at_s: float) -> float:
        """The rate at a moment; 0 after the last piece."""
        begins_s = 0.0
        for piece in self.pieces:
            if at_s < begins_s + piece.duration_s:
                return piece.from_rps + (piece.until_rps - piece.from_rps) * (at_s - begins_s) / piece.duration_s
            begins_s += piece.duration_s
        return 0.0


def unit_process(process: Process, seed: int, burstiness: float = 1.0) -> Iterator[float]:
    """Arrivals at one a second on average, in seconds, ascending and without end.

    Args:
        process: How they follow each other.
        seed: The same seed gives the same arrivals.
        burstiness: Shape of the gamma distribution; the gaps' coefficient of variation is 1 over its root.
    """
    if process is Process.CONSTANT:
        number = 0.5  # half a gap at each end: as many arrivals as the rate says in any whole number of seconds
        while True:
            yield number
            number += 1.0
    draw = random.Random(f"arrivals:{seed}")  # noqa: S311  (load, not cryptography)
    shape = 1.0 if process is Process.POISSON else burstiness
    at = 0.0
    while True:
        at += draw.expovariate(1.0) if shape == 1.0 else draw.gammavariate(shape, 1 / shape)
        yield at


def arrivals_s(profile: Profile, units: Iterator[float]) -> Iterator[float]:
    """When requests arrive, in seconds from the beginning, ascending.

    Args:
        profile: The rate over time.
        units: Of `unit_process`.
    """
    begins_s, before = 0.0, 0.0
    pieces = iter(profile.pieces)
    piece = next(pieces, None)
    for unit in units:
        while piece is not None and unit >= before + piece.arrivals:
            begins_s, before = begins_s + piece.duration_s, before + piece.arrivals
            piece = next(pieces, None)
        if piece is None:
            return
        yield begins_s + piece.moment_s(unit - before)


def share_of(schedule: Iterator[float], worker: int, workers: int) -> Iterator[tuple[int, float]]:
    """The numbers and moments that one of several workers sees to.

    Args:
        schedule: The same for all of them.
        worker: Which one, from 0.
        workers: How many there are.
    """
    for number, at_s in enumerate(schedule):
        if number % workers == worker:
            yield number, at_s

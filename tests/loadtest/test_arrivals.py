"""Arrival processes against what statistics says of them."""

from __future__ import annotations

import math
import statistics
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.arrivals import Piece, Process, Profile, arrivals_s, share_of, unit_process

SEEDS = range(5)
COUNT = 20_000


def gaps(process: Process, seed: int, burstiness: float = 1.0) -> list[float]:
    moments = [0.0, *islice(unit_process(process, seed, burstiness), COUNT)]
    return [later - earlier for earlier, later in pairwise(moments)]


def largest_distance(values: list[float], distribution) -> float:
    """Of the values' own distribution function from another (Kolmogorov and Smirnov)."""
    ordered, count = sorted(values), len(values)
    return max(max(abs((number + 1) / count - distribution(value)), abs(number / count - distribution(value))) for number, value in enumerate(ordered))


def allowed_distance(count: int) -> float:
    """What a true sample exceeds once in a thousand times."""
    return math.sqrt(-math.log(0.001 / 2) / (2 * count))


@pytest.mark.parametrize("seed", SEEDS)
def test_poisson_gaps_are_exponential(seed: int) -> None:
    found = gaps(Process.POISSON, seed)
    assert largest_distance(found, lambda gap: 1 - math.exp(-gap)) < allowed_distance(COUNT)
    assert statistics.stdev(found) / statistics.mean(found) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("seed", SEEDS)
def test_poisson_counts_vary_as_much_as_they_are(seed: int) -> None:
    moments = list(islice(unit_process(Process.POISSON, seed), COUNT))
    seconds = int(moments[-1]) // 10
    counts = [0] * seconds
    for moment in moments:
        if moment < seconds * 10:
            counts[int(moment // 10)] += 1
    dispersion = statistics.variance(counts) / statistics.mean(counts)
    assert dispersion == pytest.approx(1, abs=4 * math.sqrt(2 / seconds))


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 2.0, 4.0])
def test_gamma_gaps_have_their_variation(burstiness: float) -> None:
    found = gaps(Process.GAMMA, 3, burstiness)
    assert statistics.mean(found) == pytest.approx(1, abs=0.05)
    assert statistics.stdev(found) / statistics.mean(found) == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)


def test_gamma_of_shape_one_is_exponential() -> None:
    assert largest_distance(gaps(Process.GAMMA, 1), lambda gap: 1 - math.exp(-gap)) < allowed_distance(COUNT)


def test_constant_gaps_are_equal() -> None:
    profile = Profile((Piece(10, 4, 4),))
    moments = list(arrivals_s(profile, unit_process(Process.CONSTANT, 0)))
    assert len(moments) == 40
    assert all(later - earlier == pytest.approx(0.25) for earlier, later in pairwise(moments))
    assert moments[0] == pytest.approx(0.125)


def test_seeds_repeat_and_differ() -> None:
    first, again, other = (list(islice(unit_process(Process.POISSON, seed), 10)) for seed in (1, 1, 2))
    assert first == again
    assert not set(first) & set(other)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ramp_stretched_back_is_poisson_again(seed: int) -> None:
    profile = Profile((Piece(100, 1, 99),))
    moments = list(arrivals_s(profile, unit_process(Process.POISSON, seed)))
    assert len(moments) == pytest.approx(5000, abs=4 * math.sqrt(5000))
    # Given how many there were, they are as if drawn one by one from the rate.
    assert largest_distance(moments, lambda at_s: (at_s + 98 * at_s**2 / 200) / 5000) < allowed_distance(len(moments))


pieces = st.builds(Piece, st.floats(0.1, 20), st.floats(0.5, 50), st.floats(0.5, 50))


@given(st.lists(pieces, min_size=1, max_size=4), st.sampled_from(Process), st.integers(0, 100))
def test_arrivals_ascend_and_stay_within_their_profile(parts: list[Piece], process: Process, seed: int) -> None:
    profile = Profile(tuple(parts))
    moments = list(arrivals_s(profile, unit_process(process, seed, 0.7)))
    assert all(earlier <= later for earlier, later in pairwise(moments))
    assert all(0 <= moment <= profile.duration_s + 1e-6 for moment in moments)
    if process is Process.CONSTANT:
        assert abs(len(moments) - profile.arrivals) <= 1


@given(pieces, st.floats(0, 1))
def test_a_moment_is_when_so_many_have_arrived(piece: Piece, ratio: float) -> None:
    at_s = piece.moment_s(ratio * piece.arrivals)
    slope = (piece.until_rps - piece.from_rps) / piece.duration_s
    assert piece.from_rps * at_s + slope * at_s**2 / 2 == pytest.approx(ratio * piece.arrivals, rel=1e-6, abs=1e-9)


@given(st.integers(1, 7), st.integers(0, 60))
def test_several_processes_have_the_schedule_of_one(workers: int, count: int) -> None:
    schedule = list(islice(unit_process(Process.POISSON, 9), count))
    shares = [list(share_of(iter(schedule), worker, workers)) for worker in range(workers)]
    assert sorted(part for share in shares for part in share) == list(enumerate(schedule))


@pytest.mark.parametrize(("at_s", "rate_rps"), [(0, 2), (9.9, 2), (10, 2), (15, 5), (20, 8), (21, 1), (30, 0)])
def test_the_rate_at_a_moment(at_s: float, rate_rps: float) -> None:
    profile = Profile((Piece(10, 2, 2), Piece(10, 2, 8), Piece(1, 8, 8), Piece(5, 1, 1)))
    assert profile.rate_rps(at_s) == pytest.approx(rate_rps)

from __future__ import annotations

import pytest

from kivactl.loadtest.levels import PRESETS, Level, levels_from, thresholds_from


def test_a_level_knows_what_it_is_about() -> None:
    assert (Level("ttft_p95", 2).metric, Level("ttft_p95", 2).percent, Level("ttft_p95", 2).is_time) == ("ttft", 95, True)
    assert (Level("error_ratio", 0).metric, Level("error_ratio", 0).percent, Level("error_ratio", 0).is_time) == ("error_ratio", None, False)


def test_an_attainment_is_the_only_one_that_must_be_high() -> None:
    assert Level("attainment", 0.9).holds(0.95)
    assert not Level("attainment", 0.9).holds(0.85)
    assert Level("error_ratio", 0.1).holds(0.05)
    assert not Level("ttft_p95", 1).holds(1.1)


def test_levels_come_in_one_order() -> None:
    names = ["error_ratio", "e2e_p50", "ttft_p99", "attainment", "ttft_p50", "tpot_p95"]
    assert [level.name for level in levels_from(dict.fromkeys(names, 1.0))] == ["ttft_p50", "ttft_p99", "tpot_p95", "e2e_p50", "attainment", "error_ratio"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_limit_the_99th_percentile(name: str) -> None:
    levels = levels_from({}, name)
    assert [level.name for level in levels] == ["ttft_p99", "tpot_p99"]
    assert all(level.limit > 0 for level in levels)


def test_a_request_is_held_against_the_limit_of_the_highest_percentile() -> None:
    assert thresholds_from(levels_from({"ttft_p50": 0.1, "ttft_p99": 2.0, "tpot_p90": 0.05, "error_ratio": 0.1})) == {"ttft": 2.0, "tpot": 0.05}

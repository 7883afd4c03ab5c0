"""What is seen of a version: which requests count, which failed, and the log that is set aside meanwhile."""

import json
import math

import pytest

from kivactl.flows.canary import Figures, _Tail, _Watch
from kivactl.spec.platform import ServiceLevels
from kivactl.usage.records import parse_access

LEVELS = ServiceLevels(ttft_p95="1s", tpot_p95="100ms", error_ratio=0.1)


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        (Figures(100, 10, 1.0, 0.1), []),
        (Figures(100, 11, 1.0, 0.1), ["error_ratio"]),
        (Figures(100, 0, 1.1, 0.1), ["ttft_p95"]),
        (Figures(100, 0, 0.1, 0.2), ["tpot_p95"]),
        (Figures(100, 0, math.inf, None), ["ttft_p95"]),
        (Figures(0, 0, None, None), []),
        (Figures(5, 5, None, None), ["error_ratio"]),
    ],
)
def test_service_levels(figures, missed):
    assert [line.partition(":")[0] for line in figures.missed(LEVELS)] == missed
    json.dumps(figures.as_dict(), allow_nan=False)


def access(status, flags="-", version="v2"):
    return parse_access(json.dumps({"at": "2026-01-01T00:00:00Z", "status": status, "flags": flags, "version": version, "model": "chat"}))


@pytest.mark.parametrize(
    ("status", "flags", "counted"),
    [
        (200, "-", (1, 0, 1)),
        (500, "-", (1, 1, 0)),
        (503, "UO", (1, 1, 0)),
        (200, "UC", (1, 1, 0)),
        (200, "DC", (0, 0, 0)),
        (0, "DC", (0, 0, 0)),
        (400, "-", (1, 0, 0)),
        (504, "DC,UT", (1, 1, 0)),
    ],
)
def test_which_requests_count_and_which_failed(status, flags, counted):
    watch = _Watch.__new__(_Watch)
    watch.requests = watch.failed = watch._finished = 0
    watch._count(access(status, flags))
    assert (watch.requests, watch.failed, watch._finished) == counted


def test_a_log_is_followed_from_now_on_and_through_rotation(tmp_path):
    log = tmp_path / "access.log"
    log.write_text("before\n")
    tail = _Tail(log)
    with log.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert tail.lines() == ["one"]
        file.write("o\nthree\n")
    log.rename(tmp_path / "access.log.1")
    log.write_text("four\n")
    assert tail.lines() == ["two", "three", "four"]
    assert tail.lines() == []


def test_a_log_that_is_not_there_yet(tmp_path):
    tail = _Tail(tmp_path / "access.log")
    assert tail.lines() == []
    (tmp_path / "access.log").write_text("one\n")
    assert tail.lines() == ["one"]

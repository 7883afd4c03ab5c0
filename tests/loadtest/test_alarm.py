"""Waking at a moment, while others run."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path

import gevent

from kivactl.loadtest.alarm import Alarm


def test_nobody_wakes_too_early_and_others_run_meanwhile() -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    other = gevent.spawn(count)
    with closing(Alarm()) as alarm:
        for after_ns in (1, 1_000, 300_000, 300_001, 2_000_000):
            moment_ns, before = time.perf_counter_ns() + after_ns, turns
            alarm.sleep_until(moment_ns)
            assert time.perf_counter_ns() >= moment_ns
        assert turns > before
    other.kill()


def test_what_is_past_is_not_waited_for() -> None:
    others_ran = []
    gevent.spawn(others_ran.append, True)
    with closing(Alarm()) as alarm:
        alarm.sleep_until(time.perf_counter_ns() - 1)
        alarm.sleep_until(0)
    assert not others_ran
    gevent.sleep(0)
    assert others_ran


def test_who_is_killed_while_it_sleeps_leaves_the_timer_to_be_closed() -> None:
    def sleep() -> None:
        with closing(Alarm()) as alarm:
            alarm.sleep_until(time.perf_counter_ns() + 3600 * 10**9)

    before = timers()
    sleeper = gevent.spawn(sleep)
    gevent.sleep(0)
    assert timers() == before + 1
    sleeper.kill()
    assert timers() == before


def timers() -> int:
    """How many timers of the kernel this process has."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself
            count += "timerfd" in str(descriptor.readlink())
    return count

"""Wakes at a moment of the monotonic clock, not at the next millisecond.

gevent's loop waits in `epoll_wait`, whose timeout is in whole milliseconds: requests due within one would leave together at its end,
and gaps between some hundred arrivals a second would no longer be distributed as asked for.
"""

from __future__ import annotations

import ctypes
import os
import time

import gevent

_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("it_interval", _TimeSpec), ("it_value", _TimeSpec))


class Alarm:
    """A timer of the kernel that gevent's loop watches. Source: https://man7.org/linux/man-pages/man2/timerfd_create.2.html

    Python has `os.timerfd_create` from 3.13 on.

    Raises:
        OSError: The process has no descriptor left.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        self._watcher = gevent.get_hub().loop.io(self._fd, 1)

    def sleep_until(self, moment_ns: float) -> None:
        """Let others run until a moment of `time.perf_counter_ns`; returns at once when it is past.

        Args:
            moment_ns: The moment, which is `CLOCK_MONOTONIC`'s on Linux.
        """
        if moment_ns <= time.perf_counter_ns():
            return
        seconds, rest_ns = divmod(round(moment_ns), _NS)
        setting = _TimerSpec(it_value=_TimeSpec(seconds, rest_ns))
        self._checked(self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None))
        gevent.get_hub().wait(self._watcher)
        os.read(self._fd, 8)  # or it would stay readable

    def close(self) -> None:
        """Give the timer back; nobody may sleep by it any more."""
        self._watcher.close()
        os.close(self._fd)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

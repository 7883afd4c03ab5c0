"""Looks again and again while steps run, each look in a thread of its own; what was seen is kept until somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.bound import BoundCheck
from kivactl.runbooks.checks import Seen, look
from kivactl.runbooks.figures import Look
from kivactl.targets.breaking import Breaking
from kivactl.tools.clock import Clock

_EVERY_S = 0.2
_ENDS_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """A continuous check that says something else than before.

    Attributes:
        check: Which.
        seen: What it saw.
        at_s: When, in seconds of the monotonic clock.
    """

    check: BoundCheck
    seen: Seen
    at_s: float


class _Stopped(Exception):
    """Ends a thread that waits."""


class Sampler:
    """The components' health, several times a second.

    Args:
        read: One look.
        every_s: Time between two.
    """

    def __init__(self, read: Callable[[], Look], every_s: float = _EVERY_S) -> None:
        self.looks: list[Look] = []
        self.trouble = ""
        self._read = read
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it looks."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_ENDS_WITHIN_S)

    def _run(self) -> None:
        while True:
            # A look that fails is one less; a long time without any counts against the platform, a very long one makes the measurement invalid.
            try:
                self.looks.append(self._read())
            except Exception as error:  # noqa: BLE001
                self.trouble = f"{type(error).__name__}: {error}"
            if self._stop.wait(self._every_s):
                return


class Watcher:
    """One continuous check.

    Args:
        site: What its probe looks at.
        check: Which.
        tell: Gets each change, and what it saw first.
    """

    def __init__(self, site: Site, check: BoundCheck, tell: Callable[[Change], None]) -> None:
        self._site = site
        self._check = check
        self._tell = tell
        self._stop = threading.Event()
        self._clock = replace(site.deployment.clock, sleep=self._sleep)
        self._thread = threading.Thread(target=self._run, name=f"check {check.check.probe}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a probe that hangs is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_ENDS_WITHIN_S)

    def _run(self) -> None:
        before: Seen | None = None
        try:
            while True:
                seen = self._seen()
                if before is None or (seen.met, seen.message) != (before.met, before.message):
                    self._tell(Change(self._check, seen, self._clock.now_s()))
                before = seen
                self._sleep(self._check.check.every)
        except _Stopped:
            return

    def _seen(self) -> Seen:
        try:
            return look(self._site, self._check, self._clock)
        except _Stopped:
            raise
        except Exception as error:  # noqa: BLE001  # a check that ends unseen would look like one that is met
            return Seen(None, met=False, message=f"{type(error).__name__}: {error}")

    def _sleep(self, duration_s: float) -> None:
        if self._stop.wait(duration_s):
            raise _Stopped


def components_of(opened: Callable[[], Breaking], clock: Clock) -> Look:
    """The platform's components now; the moment is that before the look, when nothing was known yet.

    Args:
        opened: What runs.
        clock: Time.
    """
    at_s = clock.now_s()
    return Look(at_s, {part.name: (part.health.value, part.process) for part in opened().parts()})

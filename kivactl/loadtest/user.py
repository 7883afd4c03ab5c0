"""The Locust file: wires the generator's processes to each other. Runs in Locust's processes only; importing it here would patch this process.

With one process it is its own master. With several, Locust's master conducts and the workers generate. They are forked
from it, so the clock is the same for all; or they run on other machines, whose clocks it compares with its own first.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from gevent import monkey
from locust import User, constant, events
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from kivactl.loadtest.assignment import FOLDER_VARIABLE, MACHINE_VARIABLE, TOKENS_VARIABLE, Folder, parse_assignment
from kivactl.loadtest.conductor import Conductor
from kivactl.loadtest.generator import Generator
from kivactl.loadtest.record import Record

_MESSAGE = "kiva-loadtest"
_SILENT_S = 15.0
"""A master on another machine that gives no sign of life for so long is gone, or the way to it is."""
_PRECEDENCE = Path("/proc/self/autogroup"), "-10"
"""Linux shares processors out between sessions first, whatever the niceness within; this is the session's own niceness."""

# Locust reads its options from LOCUST_* too, after it has loaded this file; an operator's master or processes would
# change what is measured.
for _name in [name for name in os.environ if name.startswith("LOCUST_")]:
    del os.environ[_name]

_FOLDER = Folder(Path(os.environ[FOLDER_VARIABLE]))
_WORK = parse_assignment(_FOLDER.scenario.read_text())
_TOKENS: dict[str, str] = json.loads(os.environ.pop(TOKENS_VARIABLE))
_MACHINE = os.environ.get(MACHINE_VARIABLE, "")


def _stand_by() -> None:
    """End when the standard input does, a pipe that ends with whoever started this process; nobody will ask for these records."""

    def wait() -> None:
        os.read(0, 1)
        shutil.rmtree(_FOLDER.path, ignore_errors=True)
        os._exit(1)

    monkey.get_original("_thread", "start_new_thread")(wait, ())  # a real thread: it has to see it while Locust connects, too


if _MACHINE:
    _stand_by()
    os.register_at_fork(after_in_child=_stand_by)


class _Process:
    """What this process does: it conducts, generates, or both."""

    def __init__(self, environment: Any) -> None:
        self.environment, self.runner = environment, environment.runner
        self._parent = os.getppid()
        conducts = not isinstance(self.runner, WorkerRunner)
        generates = not isinstance(self.runner, MasterRunner)
        self.conductor = Conductor(_FOLDER, _WORK, self._tell, self._leave) if conducts else None
        self.generator = Generator(_FOLDER, _WORK, _TOKENS, self._post, self._heed if _WORK.has_page else None) if generates else None
        if not isinstance(self.runner, LocalRunner):
            self.runner.register_message(_MESSAGE, self._hear)
        self._heard_at_s = time.monotonic()

    def heard(self) -> None:
        """The master gave a sign of life."""
        self._heard_at_s = time.monotonic()

    def _leave(self) -> None:
        self.runner.quit()
        if self.environment.web_ui is not None:  # else Locust would go on for the sake of its page
            self.environment.web_ui.stop()

    def _post(self, kind: str, facts: dict[str, Any]) -> None:
        """From a generator to the conductor."""
        if self.conductor is not None:
            self.conductor.take(kind, facts)
        elif os.getppid() != self._parent:
            # Who started this process is gone, and with it whoever wanted this load; Locust itself would notice after a minute.
            os._exit(1)
        elif _MACHINE and time.monotonic() - self._heard_at_s > _SILENT_S:
            os._exit(1)
        else:
            self.runner.send_message(_MESSAGE, {"kind": kind, **facts})

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        """From the conductor to all generators."""
        if self.generator is not None:
            self._obey(kind, facts)
        else:
            self.runner.send_message(_MESSAGE, {"kind": kind, **facts})

    def _hear(self, msg: Any, **_: Any) -> None:
        facts = dict(msg.data)
        kind = facts.pop("kind")
        if self.conductor is not None:
            self.conductor.take(kind, facts)
        else:
            self._obey(kind, facts)

    def _obey(self, kind: str, facts: dict[str, Any]) -> None:
        assert self.generator is not None
        worker = max(0, self.runner.worker_index)
        match kind:
            case "ping":
                self._post("pong", {"worker": worker, "sent_ns": facts["sent_ns"], "there_ns": time.perf_counter_ns(), "machine": _MACHINE})
            case "begin":
                self.generator.begin(facts["start_ns"] + facts["offsets_ns"][worker], worker, facts["workers"])
            case "end":
                self.generator.end(facts["end_ns"] + facts["offsets_ns"][worker])
            case "finish":
                gevent.spawn(self.generator.finish)

    def _heed(self, record: Record) -> None:
        """For Locust's own page, which knows requests only."""
        first = record.ttft_s
        common = {"request_type": record.group or "chat", "response_length": record.tokens, "context": {}, "exception": record.reason or None}
        self.environment.events.request.fire(name="whole answer", response_time=(record.e2e_s or 0.0) * 1e3, **common)
        if first is not None:
            self.environment.events.request.fire(name="first token", response_time=first * 1e3, **{**common, "exception": None})


_process: _Process | None = None


class ChatUser(User):  # type: ignore[misc]  # Locust is not followed by mypy
    """Asks, reads the answer to its end, asks again; in an open loop it only keeps Locust's process going."""

    wait_time = constant(0)

    def _ask(self) -> None:
        if _WORK.is_open or _process is None or _process.generator is None:
            gevent.sleep(3600)
            return
        try:
            _process.generator.converse()
        except Exception as error:  # noqa: BLE001  # Locust would log it and go on with a request less
            _process.generator.fail(repr(error))
            gevent.sleep(3600)

    tasks = [_ask]


def _on_init(environment: Any, **_: Any) -> None:
    global _process  # noqa: PLW0603  # Locust's events are the only way in, and they are functions
    _process = _Process(environment)
    is_alone = isinstance(environment.runner, LocalRunner)
    if is_alone == _WORK.is_conducted:
        _process._post("failed", {"reason": "a Locust configuration file (~/.locust.conf) makes this process a master or a worker"})
        sys.exit(1)


def _on_test_start(**_: Any) -> None:
    # Engines that compute on all processors would keep the clock from being looked at. Only root may; others measure as they are.
    with suppress(OSError):
        _PRECEDENCE[0].write_text(_PRECEDENCE[1])


def _on_spawning_complete(**_: Any) -> None:
    if _process is not None and _process.conductor is not None:
        _process.conductor.begin(_WORK.processes)


def _on_heartbeat(**_: Any) -> None:
    if _process is not None:
        _process.heard()


def _on_test_stop(**_: Any) -> None:
    if _process is not None and _process.generator is not None:
        _process.generator.cut()


def _on_quitting(**_: Any) -> None:
    if _process is None:
        return
    if _process.generator is not None:
        _process.generator.cut()
    if _process.conductor is not None:
        _process.conductor.ended()


events.init.add_listener(_on_init)
events.test_start.add_listener(_on_test_start)
events.spawning_complete.add_listener(_on_spawning_complete)
events.heartbeat_received.add_listener(_on_heartbeat)
events.test_stop.add_listener(_on_test_stop)
events.quitting.add_listener(_on_quitting)

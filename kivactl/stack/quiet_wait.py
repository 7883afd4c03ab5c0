"""Plugin of vLLM: on CPUs an engine's processes sleep until they are told that there is something for them.

vLLM's processes pass work to each other through shared memory. Who waits there looks again and again for a second, with `sched_yield` between
two looks, before it sleeps until the writer's notice, which comes with every message. That saves some microseconds where a GPU computes and
cores are idle. On CPUs the core it looks with is one of those that compute; and since Linux 6.18 tasks that yield to each other can carry the
scheduler's measure of fairness away with them ("sched/fair: Fix zero_vruntime tracking fix" tells how; that fix is not in every such kernel):
whatever else was due on their cores, the API server, the gateway or a shell, was seen to wait for up to twelve seconds. Declared in
`pyproject.toml`, loaded by vLLM in each of its processes.
"""

from __future__ import annotations

import inspect
from functools import partialmethod
from importlib import import_module
from typing import Any


def register() -> None:
    """What vLLM calls, maybe several times in a process. Does nothing on GPUs, or to a vLLM that waits otherwise."""
    if not import_module("vllm.platforms").current_platform.is_cpu():
        return
    condition: Any = getattr(import_module("vllm.distributed.device_communicators.shm_broadcast"), "SpinCondition", None)
    if condition is None or not hasattr(condition, "notify") or getattr(condition.notify, "is_sure", False):
        return
    if "busy_loop_s" in inspect.signature(condition).parameters:
        condition.__init__ = partialmethod(condition.__init__, busy_loop_s=0)
        condition.notify = _sure(condition.notify, import_module("zmq").EVENTS)


def _sure(notify: Any, events: int) -> Any:
    """The same, without losing a notice.

    A socket holds one notice here and drops those that come before it has learned that the last one is gone, for which it looks once in some
    million cycles of the processor, about a millisecond; who asks for its events makes it look. Without that the second of two messages in a
    millisecond is found by vLLM's own look after five seconds.
    """

    def notify_surely(self: Any) -> None:
        self.local_notify_socket.getsockopt(events)
        notify(self)

    notify_surely.is_sure = True  # type: ignore[attr-defined]
    return notify_surely

"""Faults that tests order: answers that the API gives instead of its own, a number of times."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from kube_api.answers import Refusal


@dataclass
class Fault:
    """One order.

    Attributes:
        verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, or `*`.
        kind: Such as `Deployment`, or `*`; requests that are not of a kind (discovery) are meant by `*` only.
        name: Of the object; any when empty.
        times: How often it happens; without end when None.
        after: How many fitting requests go through before.
        answer: A code of HTTP; `denied` by an admission webhook; `slow`; `disconnect` before anything is done; `lost`: done, and the answer is never sent.
        message: What the server says; what the real one says when empty.
        seconds: How long `slow` takes, or `Retry-After` of 429 and 503.
        seen: How many requests it met.
    """

    verb: str = "*"
    kind: str = "*"
    name: str = ""
    times: int | None = 1
    after: int = 0
    answer: int | str = 500
    message: str = ""
    seconds: float = 1.0
    seen: int = 0
    happened: threading.Event = field(default_factory=threading.Event)

    def refusal(self, resource: str, name: str) -> Refusal | None:
        """The answer to a request for an object, of those that are one."""
        match self.answer:
            case "denied":
                return Refusal(403, f'admission webhook "policy.example.org" denied the request: {self.message or "not allowed here"}')
            case 409:
                said = "the object has been modified; please apply your changes to the latest version and try again"
                return Refusal(409, self.message or f'Operation cannot be fulfilled on {resource} "{name}": {said}')
            case 410:
                return Refusal(410, self.message or "The resourceVersion for the provided list is too old.")
            case 429:
                return Refusal(
                    429, self.message or "the server has received too many requests and has asked us to try again later", retry_after_s=int(self.seconds)
                )
            case 500:
                return Refusal(500, self.message or "Internal error occurred: etcdserver: leader changed")
            case 503:
                said = "the server is currently unable to handle the request"
                return Refusal(503, self.message or said, retry_after_s=int(self.seconds))
            case int(code):
                return Refusal(code, self.message or "the server does not do this now")
            case _:
                return None


class Faults:
    """All orders, the oldest first."""

    def __init__(self) -> None:
        self._orders: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        verb: str = "*",
        kind: str = "*",
        name: str = "",
        *,
        times: int | None = 1,
        after: int = 0,
        answer: int | str = 500,
        message: str = "",
        seconds: float = 1.0,
    ) -> Fault:
        """Order a fault; arguments as of `Fault`."""
        fault = Fault(verb, kind, name, times, after, answer, message, seconds)
        with self._lock:
            self._orders.append(fault)
        return fault

    def clear(self) -> None:
        """Take all orders back."""
        with self._lock:
            self._orders.clear()

    def met_by(self, verb: str, kind: str, name: str) -> Fault | None:
        """The fault that a request meets; it counts as having happened once more."""
        with self._lock:
            for fault in self._orders:
                if fault.verb not in {"*", verb} or fault.kind not in {"*", kind} or fault.name not in {"", name}:
                    continue
                if fault.times is not None and fault.seen >= fault.after + fault.times:
                    continue
                fault.seen += 1
                if fault.seen > fault.after:
                    fault.happened.set()
                    return fault
        return None

"""Requests to an API server, each tried until it has an answer or patience is over.

All of them may be sent twice: what is applied or patched says what should be, and what is replaced names the version it replaces.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

from kivactl.errors import KivaError, ToolError
from kivactl.tools.clock import Clock
from kivactl.tools.kube_access import Access
from kivactl.tools.kube_connections import pool_for
from kivactl.tools.kube_errors import AlreadyThere, Missing, Unreachable
from kivactl.tools.kube_failure import Question, fault_for, refusal_for, told
from kivactl.tools.kube_objects import Json

T = TypeVar("T")

FIRST_S = 5.0
"""Patience with a server that has never answered: most likely its address is wrong."""
FAILING_S = 15.0
"""Patience with a server that answers, and fails (status 500)."""
GONE_S = 60.0
"""Patience with one that has answered before: it is being restarted, or busy."""

_CONNECT_S = 5.0
SILENCE_S = 60.0
"""Longest wait for an answer; admission webhooks may take up to 30 s."""
_LONGEST_PAUSE_S = 5.0
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
_PASSING = frozenset(
    {0, *(int(code) for code in (HTTPStatus.TOO_MANY_REQUESTS, *(status for status in HTTPStatus if status >= HTTPStatus.INTERNAL_SERVER_ERROR)))}
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a try has failed.

    Attributes:
        code: The HTTP status; 0 without an answer.
        retry_after_s: Seconds the server asks us to wait; None when it does not say.
    """

    code: int
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server gave. `warnings` are sentences for people."""

    content: Json
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method: `GET`, `POST`, `PUT`, `PATCH`, `DELETE`.
        path: On the server.
        query: Empty values are left out.
        body: JSON; none when absent. Never shown.
        form: Media type of the body.
        silence_s: Longest silence of the server, in seconds.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json | None = None
    form: str = "application/json"
    silence_s: float = SILENCE_S

    @property
    def target(self) -> str:
        """Path and query."""
        words = {key: value for key, value in self.query.items() if value}
        return f"{self.path}?{urlencode(words)}" if words else self.path


class Cut(Exception):
    """A stream ended before its end."""


def pause_s(trouble: Trouble, attempt: int, spent_s: float, *, answered: bool, longest_s: float = GONE_S) -> float | None:
    """How long to wait before the next try.

    Args:
        trouble: Why this one has failed.
        attempt: 1 for the first.
        spent_s: Seconds since the first.
        answered: Whether the server has ever answered.
        longest_s: Patience in any case, in seconds.

    Returns:
        Seconds; None when it is no use, or patience is over.
    """
    if trouble.code not in _PASSING:
        return None
    patience_s = FAILING_S if trouble.code == HTTPStatus.INTERNAL_SERVER_ERROR else GONE_S if answered or trouble.code else FIRST_S
    wait_s = max(min(0.2 * 2 ** min(attempt - 1, 10), _LONGEST_PAUSE_S), trouble.retry_after_s or 0.0)
    return wait_s if spent_s + wait_s <= min(patience_s, longest_s) else None


def parse_retry_after(text: str | None) -> float | None:
    """Seconds of a `Retry-After`; None when there is none, or it is a date (which is of another machine's clock)."""
    return float(text) if text and text.strip().isdigit() else None


class Calls:
    """The connections to one API server.

    Args:
        access: Where and as whom.
        clock: For waiting between tries.
        open_pool: Makes the connections.
    """

    def __init__(self, access: Access, clock: Clock, open_pool: Callable[[Access], Any] = pool_for) -> None:
        self.access = access
        self._clock = clock
        self._open_pool = open_pool
        self._pool = open_pool(access)
        self._certificate = access.credentials.certificate
        self._answered = False
        self._patience_s = GONE_S

    def impatient(self, patience_s: float) -> Self:
        """The same connections, given up sooner: after so many seconds."""
        other = copy.copy(self)
        other._patience_s = patience_s
        return other

    def ask(self, question: Question, request: Request) -> Answer:
        """Send a request and read the answer.

        Raises:
            KivaError: As `refusal_for` and `fault_for`.
        """

        def once() -> Answer:
            response = self._sent(question, request)
            warnings = tuple(told(text) for line in response.headers.getlist("warning") for text in _WARNING.findall(line))
            return Answer(_parsed(question, self._body(question, response)), warnings)

        return self._until_answered(once)

    def text(self, question: Question, request: Request) -> str:
        """Send a request and read an answer that is no JSON.

        Raises:
            KivaError: As `ask`.
        """
        return self._until_answered(lambda: self._body(question, self._sent(question, request))).decode(errors="replace")

    @contextmanager
    def lines(self, question: Question, request: Request) -> Iterator[Iterator[bytes]]:
        """Open a stream of lines; leaving the block closes it.

        Raises:
            KivaError: It does not begin.
            Cut: In the reader, when it breaks off.
        """
        response = self._until_answered(lambda: self._sent(question, request))
        try:
            yield _lines(response)
        finally:
            response.close()  # not back to the others: its rest is still on the way
            response.release_conn()

    def _until_answered(self, once: Callable[[], T]) -> T:
        start_s = self._clock.now_s()
        attempt, lost, renewed = 0, False, False
        while True:
            attempt += 1
            try:
                found = once()
            except _Failed as failed:
                trouble, error = failed.trouble, failed.error
            else:
                self._answered = True
                return found
            self._answered = self._answered or trouble.code != 0
            if trouble.code == HTTPStatus.UNAUTHORIZED and not renewed and self.access.credentials.renewable:
                renewed = True
                self.access.credentials.renew()
                continue
            spent_s = self._clock.now_s() - start_s
            passing = isinstance(error, Unreachable)
            wait_s = pause_s(trouble, attempt, spent_s, answered=self._answered, longest_s=self._patience_s) if passing else None
            if wait_s is None:
                if isinstance(error, AlreadyThere | Missing):
                    error.perhaps_ours = lost
                raise error from None
            lost = lost or trouble.code in {0, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY}
            self._clock.sleep(wait_s)

    def _sent(self, question: Question, request: Request) -> Any:
        """One try: a response that is no refusal, not yet read."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "User-Agent": "kivactl", **self.access.credentials.headers()}
        self._take_new_certificate()
        content = None
        if request.body is not None:
            headers["Content-Type"] = request.form
            content = json.dumps(request.body, separators=(",", ":")).encode()
        try:
            response = self._pool.request(
                request.method,
                self.access.server + request.target,
                body=content,
                headers=headers,
                timeout=Timeout(connect=min(_CONNECT_S, self._patience_s), read=min(request.silence_s, self._patience_s)),
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except (HTTPError, OSError) as error:
            raise _Failed(Trouble(0), fault_for(question, error)) from None
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response
        trouble = Trouble(response.status, parse_retry_after(response.headers.get("retry-after")))
        raise _Failed(trouble, refusal_for(question, response.status, self._body(question, response)))

    @staticmethod
    def _body(question: Question, response: Any) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            body: bytes = response.read()
        except (HTTPError, OSError) as error:
            raise _Failed(Trouble(0), fault_for(question, error)) from None
        response.release_conn()
        return body

    def _take_new_certificate(self) -> None:
        """Connections made with a client certificate that has been renewed are of no use any more."""
        if self.access.credentials.certificate is not self._certificate:
            self._certificate = self.access.credentials.certificate
            self._pool = self._open_pool(self.access)


class _Failed(Exception):
    """One try has failed."""

    def __init__(self, trouble: Trouble, error: KivaError) -> None:
        super().__init__()
        self.trouble = trouble
        self.error = error


def _parsed(question: Question, body: bytes) -> Json:
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ToolError(
            f"{question.server} (cluster '{question.context}') does not answer as an API server does",
            "is `server` in the kubeconfig right, and no proxy in between?",
        )
    return content


def _lines(response: Any) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for received in response.read_chunked() if response.chunked else iter(lambda: response.read1(65536), b""):
            *whole, rest = (rest + received).split(b"\n")
            yield from whole
    except (HTTPError, OSError):
        raise Cut from None
    if rest:
        yield rest

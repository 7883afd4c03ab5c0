"""One request under way: what its answer's bytes say, at which moment, and the record that is left of it; pure.

Most events of an answer differ in nothing but a word. What stands around the word is learned from the first such event;
those that follow are compared with it, and only what differs elsewhere is read as JSON. So the figures are those of a
client that reads everything, at a tenth of the cost.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import Enum, auto

from kivactl.loadtest.http1 import AnswerParser, MalformedAnswerError
from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.sse import Chunk, EventParser, created_span, error_text_of, parse_chunk, text_of, word_span

_QUOTE, _BACKSLASH = b'"', 0x5C
_LONGEST_REFUSAL_BYTES = 1 << 16


class Progress(Enum):
    """What the client has to do about an answer."""

    GOES_ON = auto()
    DONE_SAID = auto()
    """`[DONE]` has come: the answer is whole, and only the connection's next use depends on what follows."""
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Order:
    """A request to send.

    Attributes:
        index: Its number in the run.
        request: Head and body, encoded.
        timeout_s: Seconds for everything, from when it is turned to.
        scheduled_ns: When it was to be sent, by the monotonic clock; None in a closed loop.
        group: Which of the scenario's kinds of requests it is.
        is_streamed: Whether the answer comes in events.
        keeps_text: Whether the answer's text is wanted, for the next turn of a conversation.
        turn: Of a conversation, from 0.
    """

    index: int
    request: bytes
    timeout_s: float
    scheduled_ns: int | None = None
    group: str = ""
    is_streamed: bool = True
    keeps_text: bool = False
    turn: int = 0


class Answer:
    """What is known of a request so far.

    Args:
        order: The request.
        start_ns: When the generator turned to it.
    """

    __slots__ = (
        "_aligned", "_around", "_counted", "_created", "_events", "_framed", "_http", "_kept", "_plain", "_sse", "_token_counts", "by_kernel", "cached_tokens",
        "completion_tokens", "connect_ns", "deadline_ns", "failure", "finish_reason", "first_output_ns", "has_body", "is_cut", "is_done", "order",
        "prompt_tokens", "reason", "sent_ns", "start_ns", "token_ns",
    )  # fmt: skip

    def __init__(self, order: Order, start_ns: int) -> None:
        self.order = order
        self.start_ns = start_ns
        self.deadline_ns = start_ns + round(order.timeout_s * 1e9)
        self.sent_ns: int | None = None
        self.connect_ns = 0
        self.token_ns: array[int] = array("q")
        self.first_output_ns: int | None = None
        self.completion_tokens: int | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.finish_reason: str | None = None
        self.failure: FailureKind | None = None
        self.reason = ""
        self.is_cut = False
        self.is_done = False
        self.has_body = False
        self.by_kernel = True
        self._http = AnswerParser()
        self._sse = EventParser()
        self._plain = b""  # a body that is not streamed, or a refusal
        self._token_counts: list[int] = []
        self._counted = 0
        self._events: list[bytes] = []
        self._kept = order.keeps_text
        self._aligned = False  # whether the next byte begins a chunk and an event
        self._around: tuple[bytes, bytes] | None = None  # of an event with one word
        self._created: tuple[int, int] | None = None  # where in what stands before the word the digits of `created` are
        self._framed: tuple[bytes, bytes] | None = None  # the same, with what stands around the event in a chunk

    @property
    def status(self) -> int | None:
        return self._http.status

    @property
    def can_keep_connection(self) -> bool:
        return self.failure is None and not self.is_cut and self._http.keeps_connection

    @property
    def text(self) -> str:
        """The answer's text, where it was to be kept."""
        return "".join(text_of(event) for event in self._events)

    def fail(self, kind: FailureKind, reason: str) -> None:
        """Note a failure; the first one counts."""
        if self.failure is None:
            self.failure, self.reason = kind, reason

    def feed(self, received: bytes, stamp_ns: int) -> Progress:
        """Take what has come.

        Args:
            received: Of the connection, at least a byte.
            stamp_ns: When, by the monotonic clock.
        """
        if self._aligned and self._is_one_word(received):
            self.token_ns.append(stamp_ns)
            return Progress.GOES_ON
        try:
            pieces = self._http.feed(received)
        except MalformedAnswerError as error:
            self.fail(FailureKind.MALFORMED, str(error))
            return Progress.ENDED
        if pieces:
            self.has_body = True
            if self.order.is_streamed and self._is_success:
                for piece in pieces:
                    for event in self._sse.feed(piece):
                        self._take(event, stamp_ns)
            elif len(self._plain) < _LONGEST_REFUSAL_BYTES or self._is_success:
                self._plain += b"".join(pieces)
                if self._is_success and not self.token_ns:
                    self.token_ns.append(stamp_ns)
        if self._http.is_whole:
            self._conclude(stamp_ns)
            return Progress.ENDED
        self._aligned = self._framed is not None and self._http.is_between_chunks and not self._sse.is_inside_event
        return Progress.DONE_SAID if self.is_done else Progress.GOES_ON

    def connection_ended(self, stamp_ns: int, reason: str = "") -> None:
        """The other side has closed the connection, or it broke."""
        if self._http.end() or self.is_done:
            self._conclude(stamp_ns)
        elif self.has_body:
            self.fail(FailureKind.TRUNCATED, "the connection ended inside the answer")
        elif self.sent_ns is None:
            self.fail(FailureKind.CONNECTION, f"no connection: {reason}")
        else:
            self.fail(FailureKind.CONNECTION, f"the connection ended: {reason or 'before the answer began'}")

    def timed_out(self) -> None:
        """There is no time left."""
        self.fail(FailureKind.TIMEOUT, f"no whole answer within {self.order.timeout_s:g} s")

    def record(self, end_ns: int) -> Record:
        """What is left of the request."""
        return Record(
            index=self.order.index,
            start_ns=self.start_ns,
            end_ns=end_ns,
            sent_ns=self.sent_ns,
            connect_ns=self.connect_ns,
            token_ns=tuple(self.token_ns),
            completion_tokens=self.completion_tokens,
            prompt_tokens=self.prompt_tokens,
            status=self.status,
            finish_reason=self.finish_reason,
            failure=self.failure,
            reason=self.reason,
            is_cut=self.is_cut,
            has_body=self.has_body,
            scheduled_ns=self.order.scheduled_ns,
            group=self.order.group,
            is_streamed=self.order.is_streamed,
            token_counts=tuple(self._token_counts) if len(self._token_counts) == len(self.token_ns) else (),
            first_output_ns=self.first_output_ns if self.first_output_ns is not None or not self.token_ns else self.token_ns[0],
            cached_tokens=self.cached_tokens,
            turn=self.order.turn,
            by_kernel=self.by_kernel and bool(self.token_ns),
        )

    @property
    def _is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    def _is_one_word(self, received: bytes) -> bool:
        """Whether this is a whole chunk with a whole event that differs from those before in its word alone."""
        before, after = self._framed  # type: ignore[misc]  # asked only when there is one
        size_end = received.find(b"\r\n", 0, 10)
        begin, end = size_end + 2 + len(before), len(received) - len(after)
        if size_end <= 0 or begin >= end or not received.startswith(before, size_end + 2) or not received.endswith(after):
            return False
        try:
            is_whole = int(received[:size_end], 16) == len(received) - size_end - 4
        except ValueError:
            return False
        return is_whole and received.find(_QUOTE, begin, end) < 0 and received[end - 1] != _BACKSLASH

    def _take(self, event: bytes, stamp_ns: int) -> None:
        if self._is_alike(event) or (self._is_of_another_second(event) and self._is_alike(event)):
            self.token_ns.append(stamp_ns)
            return
        if self._kept:
            self._events.append(event)
        chunk = parse_chunk(event)
        if chunk.has_tokens:
            self.token_ns.append(stamp_ns)
            if chunk.is_output and self.first_output_ns is None:
                self.first_output_ns = stamp_ns
            if chunk.completion_tokens is not None:
                self._token_counts.append(chunk.completion_tokens - self._counted)
                self._counted = chunk.completion_tokens
            if chunk.completion_tokens is None and chunk.finish_reason is None and not self._kept:
                self._learn(event)
        self._note(chunk)

    def _is_alike(self, event: bytes) -> bool:
        """Whether an event differs from the one that was learned from in its word alone."""
        if self._around is None:
            return False
        before, after = self._around
        begin, end = len(before), len(event) - len(after)
        is_alike = begin < end and event.startswith(before) and event.endswith(after)
        return is_alike and event.find(_QUOTE, begin, end) < 0 and event[end - 1] != _BACKSLASH

    def _is_of_another_second(self, event: bytes) -> bool:
        """Whether an event differs, before its word, in the digits of `created` alone; then it is what others are compared with from now on.

        vLLM says with each event when the answer began; some engines say when the event was made.
        """
        if self._around is None or self._created is None:
            return False
        before, after = self._around
        begin, end = self._created
        digits = event[begin:end]
        if not digits.isdigit() or digits.startswith(b"0") or event[:begin] != before[:begin] or event[end : len(before)] != before[end:]:
            return False
        self._compare_with(event[: len(before)], after)
        return True

    def _note(self, chunk: Chunk) -> None:
        if chunk.malformed:
            self.fail(FailureKind.MALFORMED, "an event of the stream is not the JSON it should be")
        if chunk.error:
            self.fail(FailureKind.ERROR_EVENT, chunk.error)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        if chunk.completion_tokens is not None:
            self.completion_tokens = chunk.completion_tokens
        if chunk.prompt_tokens is not None:
            self.prompt_tokens = chunk.prompt_tokens
        if chunk.cached_tokens is not None:
            self.cached_tokens = chunk.cached_tokens
        self.is_done = self.is_done or chunk.done

    def _learn(self, event: bytes) -> None:
        span = word_span(event)
        if span is None:
            return
        self._created = created_span(event, span[0])
        self._compare_with(event[: span[0]], event[span[1] :])

    def _compare_with(self, before: bytes, after: bytes) -> None:
        self._around = before, after
        self._framed = b"data: " + before, after + b"\n\n\r\n"

    def _conclude(self, stamp_ns: int) -> None:
        """Judge an answer that has ended as it should."""
        content_type = self._http.headers.get("content-type", "")
        if not self._is_success:
            self.fail(FailureKind.STATUS, f"status {self.status}: {error_text_of(self._plain[:_LONGEST_REFUSAL_BYTES])}")
        elif not self.order.is_streamed:
            self._conclude_plain(stamp_ns)
        elif not self.token_ns and self.finish_reason is None and "text/event-stream" not in content_type:
            self.fail(FailureKind.MALFORMED, f"the answer is no event stream (content-type '{content_type}')")
        elif self.finish_reason is None:
            inside = self._sse.is_inside_event
            self.fail(FailureKind.NO_FINISH, "the stream ended inside an event" if inside else "the stream ended without a finish reason")
        elif not self.token_ns:
            self.fail(FailureKind.NO_TOKENS, "the answer has no token")

    def _conclude_plain(self, stamp_ns: int) -> None:
        """An answer that came in one piece: its first byte and its last stand for its tokens' times."""
        chunk = parse_chunk(self._plain)
        self._note(chunk)
        self.is_done = True
        if self.token_ns:
            self.token_ns = array("q", (stamp_ns,))
            self.first_output_ns = stamp_ns
        if self._kept:
            self._events.append(self._plain)
        if self.failure is None and chunk.finish_reason is None:
            self.fail(FailureKind.NO_FINISH, "the answer has no finish reason")
        elif not chunk.has_tokens:
            self.fail(FailureKind.NO_TOKENS, "the answer has no token")

"""Conversations: the requests of one, each with all that was said before; pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from kivactl.loadtest.answer import Order
from kivactl.loadtest.assignment import Assignment
from kivactl.loadtest.prompts import Prompts
from kivactl.loadtest.server import Server, request_for


class Conversations:
    """Begins conversations.

    Args:
        assignment: Of the run.
        server: Whom they are held with.
        tokens: Bearer token by tenant; that of the endpoint under the empty name.
    """

    def __init__(self, assignment: Assignment, server: Server, tokens: Mapping[str, str]) -> None:
        self.work = assignment
        self.prompts = Prompts(assignment)
        self._server = server
        self._tokens = tokens
        self._path = f"{urlsplit(assignment.url).path}/chat/completions"

    def begin(self, index: int) -> Conversation:
        """The conversation that the request with this number begins."""
        return Conversation(self, index)

    def request(self, tenant: str, body: bytes, *, is_streamed: bool) -> bytes:
        """A request with the token of a tenant."""
        return request_for(self._server, self._path, self._tokens[tenant], body, is_streamed=is_streamed)


class Conversation:
    """One conversation.

    Args:
        all_: Where it belongs.
        index: Number of its first request.
    """

    def __init__(self, all_: Conversations, index: int) -> None:
        self._all, self._index = all_, index
        self._source = all_.prompts.source(index)
        self.kind = all_.prompts.kind(self._source)
        trace = all_.work.trace
        _, prompt_tokens, self._output_tokens = trace[index] if trace else (0.0, 0, 0)
        self._messages = all_.prompts.messages(self.kind, index, self._source, prompt_tokens)
        self._turns = self.kind.turns.draw(self._source)
        self._turn = 0

    @property
    def is_over(self) -> bool:
        return self._turn + 1 >= self._turns

    def order(self, due_ns: int | None = None) -> Order:
        """The request of this turn, due at a moment or, in a closed loop, when it is sent."""
        kind = self.kind
        body = self._all.prompts.body(kind, self._messages, self._source, self._output_tokens)
        return Order(
            index=self._index,
            request=self._all.request(kind.tenant, body, is_streamed=kind.is_streamed),
            timeout_s=self._all.work.timeout_s,
            scheduled_ns=due_ns,
            group=kind.name,
            is_streamed=kind.is_streamed,
            keeps_text=not self.is_over,
            turn=self._turn,
        )

    def answered(self, text: str) -> None:
        """Go on to the next turn."""
        self._turn += 1
        more = self._all.prompts.messages(self.kind, self._index + self._turn, self._source)
        self._messages = [*self._messages, {"role": "assistant", "content": text}, *(message for message in more if message["role"] != "system")]

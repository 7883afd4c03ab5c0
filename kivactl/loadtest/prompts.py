"""The prompts of a load test; pure, so that the same seed gives the same prompts on every machine.

A synthetic prompt is a few words of its own, which no engine has in its prefix cache, and then a stretch of one long text:
cutting it out costs next to nothing, however long the prompt is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kivactl.loadtest.assignment import Assignment, Kind

_TEXT = """
river stone cloud garden letter window market bridge engine forest silver morning paper winter signal harbour
teacher island candle mountain station orange copper village shadow number planet circle basket feather museum
kitchen thunder valley mirror journey pencil season castle desert farmer ribbon spring ticket corner meadow
anchor button camera dragon finger guitar hammer jacket ladder magnet needle pocket rabbit saddle tunnel velvet
wagon yellow quiet narrow gentle ancient simple distant bright hollow steady broken hidden careful golden rapid
walks carries follows opens builds crosses answers gathers measures remembers paints watches borrows returns
before after under over beside between toward without because although while until then there where every
several another nothing always seldom perhaps together apart again
"""
_WORDS = _TEXT.split()
_OWN_WORDS = 6
"""Begin each prompt: with over a hundred words to choose from, no two prompts of a run begin alike."""
_STOCK_WORDS = 1 << 16

Messages = list[dict[str, Any]]


class Text:
    """A long random text, and stretches of it.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def words(self, count: int, source: random.Random) -> str:
        """So many words, with a beginning of their own."""
        own = " ".join(source.choices(_WORDS, k=min(_OWN_WORDS, count)))
        return own if count <= _OWN_WORDS else f"{own} {self._stretch(source.randrange(_STOCK_WORDS), count - _OWN_WORDS)}"

    def shared(self, count: int, number: int) -> str:
        """So many words that are the same for each prompt with this number."""
        return self._stretch(number * 7919 % _STOCK_WORDS, count)

    def _stretch(self, begin: int, count: int) -> str:
        text, ends = self._stock
        if count <= 0:
            return ""
        parts = []
        while count > 0:
            taken = min(count, _STOCK_WORDS - begin)
            parts.append(text[ends[begin] : ends[begin + taken] - 1])
            begin, count = 0, count - taken
        return " ".join(parts)

    @cached_property
    def _stock(self) -> tuple[str, list[int]]:
        """The text, and where each word begins; one more for the end."""
        chosen = random.Random(f"text:{self._seed}").choices(_WORDS, k=_STOCK_WORDS)  # noqa: S311  # load, not cryptography
        begins = [0]
        for word in chosen:
            begins.append(begins[-1] + len(word) + 1)
        return " ".join(chosen) + " ", begins


class Prompts:
    """What is asked, by number of the request.

    Args:
        assignment: Of the run.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._work = assignment
        self._text = Text(assignment.seed)
        self._weights = [kind.share for kind in assignment.kinds]
        self._chats = {kind.chats: read_chats(Path(kind.chats)) for kind in assignment.kinds if kind.chats}

    def source(self, index: int) -> random.Random:
        """All that is random about a request."""
        return random.Random(self._work.seed * 1_000_000_007 + index)  # noqa: S311  # load, not cryptography

    def kind(self, source: random.Random) -> Kind:
        """Of which kind a request is."""
        kinds = self._work.kinds
        return kinds[0] if len(kinds) == 1 else source.choices(kinds, self._weights)[0]

    def messages(self, kind: Kind, index: int, source: random.Random, tokens: int = 0) -> Messages:
        """How a conversation begins.

        Args:
            kind: Its kind.
            index: Number of the request.
            source: Of `source`.
            tokens: Length of the prompt, instead of the kind's; 0 for that.
        """
        if kind.chats:
            chats = self._chats[kind.chats]
            return list(chats[index % len(chats)])
        text = kind.texts[index % len(kind.texts)] if kind.texts else self._synthetic(kind, source, tokens)
        system = [{"role": "system", "content": kind.system}] if kind.system else []
        return [*system, {"role": "user", "content": text}]

    def body(self, kind: Kind, messages: Messages, source: random.Random, tokens: int = 0) -> bytes:
        """The encoded request.

        Args:
            kind: Its kind.
            messages: What is asked.
            source: Of `source`.
            tokens: Length of the answer, instead of the kind's; 0 for that.
        """
        longest = tokens or kind.output.draw(source)
        fields: dict[str, Any] = {"model": kind.model, "messages": messages, "max_tokens": longest, "temperature": kind.temperature}
        if kind.is_exact:
            fields |= {"min_tokens": longest, "ignore_eos": True}
        if kind.is_streamed:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(fields).encode()

    def _synthetic(self, kind: Kind, source: random.Random, tokens: int) -> str:
        if not tokens:
            assert kind.prompt is not None
            tokens = kind.prompt.draw(source)
        has_prefix = kind.prefix and source.random() < kind.prefix_ratio
        number = source.randrange(kind.prefixes) if has_prefix else 0
        own = self._words(tokens - self._work.overhead_tokens - (kind.prefix if has_prefix else 0))
        text = self._text.words(own, source)
        return f"{self._text.shared(self._words(kind.prefix), number)}\n\n{text}" if has_prefix else text

    def _words(self, tokens: int) -> int:
        return max(1, round(tokens / (self._work.tokens_per_word or 1.0)))


def read_chats(path: Path) -> Sequence[Messages]:
    """Conversations from a file: JSON lines with `messages` as in a request, or with a `prompt`.

    Raises:
        ValueError: A line is neither; the message names it.
        OSError: The file cannot be read.
    """
    found: list[Messages] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            messages = fields["messages"] if "messages" in fields else [{"role": "user", "content": str(fields["prompt"])}]
            if not (isinstance(messages, list) and messages and all(isinstance(message, dict) and "role" in message for message in messages)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            msg = f"{path}:{number}: is no line of JSON with 'messages' or 'prompt'"
            raise ValueError(msg) from None
        found.append(messages)
    if not found:
        msg = f"{path}: holds no conversation"
        raise ValueError(msg)
    return found

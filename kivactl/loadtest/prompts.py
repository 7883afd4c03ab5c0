"""The prompts of a load test; pure, so that the same seed gives the same prompts on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

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


def prompt_for(prompts: Sequence[str], prompt_words: int | None, seed: int, index: int) -> str:
    """The prompt of one request.

    Args:
        prompts: Given texts, taken in turn; empty for synthetic ones.
        prompt_words: Length of a synthetic prompt, in words; None with given texts.
        seed: Of the run.
        index: Number of the request; each has a synthetic prompt of its own, which no engine has in its prefix cache.
    """
    if prompts:
        return prompts[index % len(prompts)]
    if not prompt_words or prompt_words < 1:
        msg = "a load test needs prompts or their number of words"
        raise ValueError(msg)
    chosen = random.Random(f"{seed}:{index}")  # noqa: S311  # load, not cryptography
    return " ".join(chosen.choice(_WORDS) for _ in range(prompt_words))

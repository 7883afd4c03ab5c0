"""How many generated cases a test has: the profile says it for all of them, a test only how many times as many."""

from __future__ import annotations

from hypothesis import settings


def examples(ratio: float) -> settings:
    """So many times the examples of the profile: more where each is quick and they are many kinds, fewer where each takes long."""
    return settings(max_examples=max(1, round(ratio * settings().max_examples)))

"""Generators that yield what happens and return what came of it: looked at on the way, or run to their end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def watched(run: Generator[Item, None, Result], watch: Callable[[Item], object]) -> Generator[Item, None, Result]:
    """Pass on what a generator yields, which `watch` sees first; closing this one, or an error in it, closes that one.

    Returns:
        What the generator returns.
    """
    try:
        while True:
            try:
                item = next(run)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # whatever it is typed to return
            watch(item)
            yield item
    finally:
        run.close()


def drained(run: Generator[Item, None, Result], watch: Callable[[Item], object]) -> Result:
    """Run a generator to its end; `watch` sees what it yields.

    Returns:
        What the generator returns.
    """
    while True:
        try:
            watch(next(run))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

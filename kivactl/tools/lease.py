"""One operator at a time per platform: a Lease in the cluster that is renewed while its holder lives.

Clocks of different machines are never compared: a lease has run out when we have watched it unchanged for as long as it is given for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kivactl.errors import PreconditionError
from kivactl.tools.kube import Cluster


class Taken(PreconditionError):
    """Someone else holds the lease; `holder` is who."""

    holder: str = ""


class Lost(PreconditionError):
    """The lease we held is someone else's, or could not be renewed in time."""


class Held:
    """A lease that we hold."""

    def check(self) -> None:
        """Ask before each step that changes something.

        Raises:
            Lost: It is not ours any more.
        """
        raise NotImplementedError


@contextmanager
def held(cluster: Cluster, platform: str, verb: str) -> Iterator[Held]:
    """Hold the lease `kivactl-<platform>`.

    A lease whose holder shows no life is waited for until it has run out, 30 s at most, and taken over.

    Args:
        cluster: Whose namespace it lies in.
        platform: What is locked.
        verb: What we do, for the other one's message.

    Raises:
        Taken: Someone else holds it and is alive.
        KivaError: As every method of `Cluster`.
    """
    raise NotImplementedError
    yield Held()


def holder_of(cluster: Cluster, platform: str) -> str:
    """Who has the lease (alive or not); empty when nobody does."""
    raise NotImplementedError

"""What runs of a platform, to be broken on purpose and mended: what drills ask of a target, wherever it runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kivactl.errors import UsageError
from kivactl.targets.status import Health


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be broken: a process of this machine, or a pod.

    Attributes:
        name: As `kivactl status` names it.
        model: The model that it serves; empty for what is no engine.
        health: How it is.
        process: Which process it is, another after each start; empty while there is none.
        uptime_s: Seconds since its last start.
    """

    name: str
    model: str
    health: Health
    process: str
    uptime_s: float = 0.0


def no_replica(name: str, names: Sequence[str]) -> UsageError:
    """The refusal for a name that no replica has; the hint has the nearest, or all."""
    near = difflib.get_close_matches(name, names, n=1)
    return UsageError(f"there is no replica named '{name}'", f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(names) or 'none'}")


class Breaking(Protocol):
    """The parts of a deployed platform."""

    def parts(self) -> Sequence[Part]:
        """All of them; what should be there and is not is told as a part that starts.

        Raises:
            KivaError: They cannot be seen.
        """

    def victim(self, replica: str | None, model: str) -> str:
        """The replica that is meant: the one given, else the first of a model.

        Raises:
            UsageError: There is no such replica.
            PreconditionError: Nothing is deployed.
        """

    def meant(self, replica: str | None, model: str) -> str:
        """The name by which `mates` and `wake` know what a drill broke, even when that is gone: as `victim`, but nothing is refused."""

    def model(self, replica: str) -> str:
        """The model of a replica; empty where nobody knows any more."""

    def gateway(self) -> str:
        """The part that is broken where the gateway is meant.

        Raises:
            PreconditionError: Nothing is deployed.
        """

    def mates(self, name: str) -> Sequence[Part]:
        """The parts that have to serve for a part, or what took its place, to be back; none when nothing of it is deployed.

        Args:
            name: Of a part, `gateway`, or what `meant` gives.
        """

    def kill(self, part: Part) -> str:
        """End it without warning, as a crash does; says what was done.

        Raises:
            PreconditionError: It ended by itself.
            KivaError: We may not, or cannot reach it.
        """

    def hang(self, part: Part) -> str:
        """Let it live and do nothing any more; says what was done. Errors as of `kill`."""

    def wake(self, name: str) -> None:
        """Let go on what hangs among the `mates`; what does not hang does not mind."""

    def revive(self, part: Part) -> None:
        """Start one that is stopped for good; called again and again until it serves."""

    def outage(self, part: Part) -> str:
        """What nobody can do until it is back, where nothing takes over from it; empty where something does."""

"""Where a restore keeps what it works on. All of it lies within the state folder, so that putting back is nothing but renaming."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kivactl.stack.layout import Layout

KEPT = frozenset({"lock", "runs", "backup", "reserve"})
"""What of a state folder stays where it is: the lock and the run that restores, the backups' own files."""

LEFT_IN_CLUSTER = KEPT | {"usage"}
"""What of a backup's state is not put back into the folder where the platform runs in a cluster: its ledger lies there."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a restore.

    Attributes:
        folder: Of all of them.
    """

    folder: Path

    @property
    def fetched(self) -> Path:
        """The backup's tree, as it came."""
        return self.folder / "fetched"

    @property
    def new(self) -> Path:
        """The state that is about to be put in place."""
        return self.folder / "new"

    @property
    def record(self) -> Path:
        """How far putting back is."""
        return self.folder / "exchange.json"

    @property
    def back(self) -> Path:
        """The same once it is to be undone: nothing may go forward from there."""
        return self.folder / "going-back.json"

    @property
    def before(self) -> Path:
        """How the platform was before."""
        return self.folder / "before.json"

    def aside(self, run: str) -> Path:
        """The state that was replaced by a run."""
        return self.folder / f"before-{run}"


def places_for(layout: Layout) -> Places:
    """Where a platform's restore works."""
    return Places(layout.state / "backup" / "restore")


def trial_of(layout: Layout) -> Path:
    """Where a backup is tried: an empty place."""
    return layout.state / "backup" / "trial"


def fetched_of(layout: Layout, place: str) -> Path:
    """Where a fetched backup lies: one to be put back (`restore`), or one that is tried (`trial`)."""
    return trial_of(layout) / "fetched" if place == "trial" else places_for(layout).fetched


def verified_of(layout: Layout) -> Path:
    """Which backups were tried, by their id."""
    return layout.state / "backup" / "verified.json"

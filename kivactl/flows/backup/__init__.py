"""Backups of all state: a tree of copies, given to restic. A backup counts as good only once `flows.restore` has tried it."""

from __future__ import annotations

from kivactl.flows.backup.making import age_s, backups, check, make, prune
from kivactl.flows.backup.store import open_store, open_store_by_name

__all__ = ["age_s", "backups", "check", "make", "open_store", "open_store_by_name", "prune"]

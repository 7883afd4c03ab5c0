"""Restore: fetch a backup, examine it, try it in an empty place, put it back. Nothing is overwritten before all of it was found sound."""

from __future__ import annotations

from kivactl.flows.restore.recovery import recover_spec

__all__ = ["recover_spec"]

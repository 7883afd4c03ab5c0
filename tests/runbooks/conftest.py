"""What the tests of this folder share."""

from staged_runbooks import stage

__all__ = ["stage"]

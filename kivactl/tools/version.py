"""How old a program is: its version as numbers, which can be compared; and which version of a package is installed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Of a program."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def package_version(package: str) -> str | None:
    """The version of an installed Python package, by its metadata: nothing of it is imported; None when it is not installed."""
    from importlib import metadata  # most commands ask for none

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

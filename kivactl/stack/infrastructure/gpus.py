"""NVIDIA's data-centre GPUs: memory, driver branches that know them, and the slices (MIG) they can be cut into.

Sources, at docs.nvidia.com: datacenter/tesla/mig-user-guide (deployment considerations, supported profiles),
datacenter/tesla/drivers (branches and their ends of life), and the release notes of the first branch that names a GPU. The 580 branch is
the last one for Volta. The lowest branches are those of the driver; MIG may need a later one, which the table then names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kivactl.spec.infrastructure import Infrastructure

BRANCHES = (450, 470, 525, 535, 550, 570, 575, 580, 590, 595, 610, 620)
"""Branches of the driver for data centres, long-term and production ones and the newest features'."""

_PROFILE = re.compile(r"(?:all-)?(?P<profile>\d+g\.\d+gb)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: As specs name it.
        architecture: NVIDIA's name of the generation.
        memory_gb: Its memory, in the product's gigabytes.
        lowest: First branch of the driver that knows it.
        highest: Last one; None when it goes on.
        profiles: How many slices of each profile fit; empty without MIG.
    """

    name: str
    architecture: str
    memory_gb: int
    lowest: int
    highest: int | None = None
    profiles: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def branches(self) -> tuple[int, ...]:
        """The known branches that fit."""
        return tuple(branch for branch in BRANCHES if self.fits(branch))

    @property
    def open_modules(self) -> bool:
        """Whether the open kernel modules drive it: they need a processor that GPUs have since Turing, and Blackwell has no others."""
        return self.architecture != "Volta"

    def fits(self, branch: int) -> bool:
        """Whether a branch of the driver knows it."""
        return self.lowest <= branch and (self.highest is None or branch <= self.highest)


def _sevenths(one: int, double: int, half: int, whole: int) -> Mapping[str, int]:
    """The profiles of a GPU in seven parts: memory of one part, of two, of three or four, and of all, in GB."""
    return MappingProxyType({f"1g.{one}gb": 7, f"1g.{double}gb": 4, f"2g.{double}gb": 3, f"3g.{half}gb": 2, f"4g.{half}gb": 1, f"7g.{whole}gb": 1})


def _quarters(one: int) -> Mapping[str, int]:
    return MappingProxyType({f"1g.{one}gb": 4, f"2g.{2 * one}gb": 2, f"4g.{4 * one}gb": 1})


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            Gpu("V100", "Volta", 32, 450, 580),
            Gpu("T4", "Turing", 16, 450),
            Gpu("A10", "Ampere", 24, 470),
            Gpu("A30", "Ampere", 24, 470, profiles=_quarters(6)),
            Gpu("A40", "Ampere", 48, 470),
            Gpu("A100-40GB", "Ampere", 40, 450, profiles=_sevenths(5, 10, 20, 40)),
            Gpu("A100-80GB", "Ampere", 80, 470, profiles=_sevenths(10, 20, 40, 80)),
            Gpu("L4", "Ada Lovelace", 24, 525),
            Gpu("L40", "Ada Lovelace", 48, 525),
            Gpu("L40S", "Ada Lovelace", 48, 535),
            Gpu("H100-80GB", "Hopper", 80, 525, profiles=_sevenths(10, 20, 40, 80)),
            Gpu("H100-NVL", "Hopper", 94, 535, profiles=_sevenths(12, 24, 47, 94)),
            Gpu("H200", "Hopper", 141, 550, profiles=_sevenths(18, 35, 71, 141)),
            Gpu("B200", "Blackwell", 180, 570, profiles=_sevenths(23, 45, 90, 180)),
            Gpu("RTX-PRO-6000", "Blackwell", 96, 575, profiles=_quarters(24)),
        )
    }
)
"""GPUs by name."""

_ALSO: Mapping[str, str] = MappingProxyType({"A100": "A100-40GB", "H100": "H100-80GB", "H100-94GB": "H100-NVL", "TESLA-T4": "T4", "TESLA-V100": "V100"})


def gpu_of(name: str) -> Gpu | None:
    """The GPU of a name, however it is written (`a100 80gb`, `NVIDIA H200`, `RTX PRO 6000`); None for one that is unknown."""
    written = re.sub(r"[\s_-]+", "-", name.strip().upper().removeprefix("NVIDIA").strip(" -"))
    return GPUS.get(_ALSO.get(written, written))


def gpu_fault(name: str) -> str | None:
    """What is wrong with a GPU's name, with the names that are near; None when it is known."""
    if gpu_of(name) is not None:
        return None
    near = difflib.get_close_matches(name.upper().replace(" ", "-"), GPUS, n=3, cutoff=0.5)
    return f"'{name}' is no GPU that kivactl knows; {'near are' if near else 'it knows'}: {', '.join(near or GPUS)}"


def driver_fault(gpu: Gpu, branch: str) -> str | None:
    """What is wrong with a branch of the driver for a GPU, with the branches that fit; None when it does."""
    if branch.isdigit() and gpu.fits(int(branch)):
        return None
    return f"driver branch {branch} does not fit the {gpu.name} ({gpu.architecture}); these do: {_said(gpu)}"


def mig_fault(gpu: Gpu, layout: str) -> str | None:
    """What is wrong with a MIG layout for a GPU, with the profiles it has; None when it can be cut so."""
    if not gpu.profiles:
        able = ", ".join(other.name for other in GPUS.values() if other.profiles)
        return f"the {gpu.name} cannot be cut into slices (MIG), so not into {layout}; these can: {able}"
    if slices_for(gpu, layout):
        return None
    profiles = ", ".join(f"all-{profile} ({count})" for profile, count in gpu.profiles.items())
    return f"the {gpu.name} has no MIG layout {layout}; it has, with the slices that fit: {profiles}"


def slices_for(gpu: Gpu, layout: str) -> tuple[str, ...]:
    """The profiles that a GPU is cut into: as many as fit for `all-PROFILE`, one for a bare profile; empty for a layout it does not have."""
    match = _PROFILE.fullmatch(layout)
    if match is None or match["profile"] not in gpu.profiles:
        return ()
    return (match["profile"],) * (gpu.profiles[match["profile"]] if layout.startswith("all-") else 1)


def gpu_faults(infrastructure: Infrastructure) -> tuple[str, ...]:
    """What is wrong with driver and MIG layout for the GPUs of the groups, each thing once, with the group it is about."""
    wishes = [(group.name, group.gpu.type) for group in infrastructure.groups if group.gpu is not None]
    return tuple(dict.fromkeys(f"group '{group}': {fault}" for group, name in wishes for fault in _faults(name, infrastructure)))


def _faults(name: str, infrastructure: Infrastructure) -> Iterable[str]:
    gpu, software = gpu_of(name), infrastructure.gpu
    if gpu is None:
        return filter(None, [gpu_fault(name)])
    return filter(None, [driver_fault(gpu, software.driver), mig_fault(gpu, software.mig) if software.mig is not None else None])


def _said(gpu: Gpu) -> str:
    return ", ".join(map(str, gpu.branches)) + (" and later" if gpu.highest is None else "")

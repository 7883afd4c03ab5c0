"""Which size of machine a group gets on a cloud, when the spec names GPUs and a role but no flavour.

Sources: https://aws.amazon.com/ec2/instance-types/, https://learn.microsoft.com/azure/virtual-machines/sizes/overview. OpenStack has no
common names; StackIT's are not recorded here as long as nobody checked them: both need `flavour`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from kivactl.errors import SpecError
from kivactl.spec.infrastructure import NodeGroup, Provider

_AWS_SIZES = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")
_AWS_GPUS = {
    "T4": {1: "g4dn.4xlarge", 4: "g4dn.12xlarge", 8: "g4dn.metal"},
    "V100": {1: "p3.2xlarge", 4: "p3.8xlarge", 8: "p3.16xlarge"},
    "A10G": {1: "g5.4xlarge", 4: "g5.24xlarge", 8: "g5.48xlarge"},
    "L4": {1: "g6.4xlarge", 4: "g6.24xlarge", 8: "g6.48xlarge"},
    "L40S": {1: "g6e.4xlarge", 4: "g6e.24xlarge", 8: "g6e.48xlarge"},
    "A100-40GB": {8: "p4d.24xlarge"},
    "A100-80GB": {8: "p4de.24xlarge"},
    "H100": {1: "p5.4xlarge", 8: "p5.48xlarge"},
    "H200": {8: "p5en.48xlarge"},
    "B200": {8: "p6-b200.48xlarge"},
}
_AZURE_GPUS = {
    "T4": {1: "Standard_NC16as_T4_v3", 4: "Standard_NC64as_T4_v3"},
    "V100": {1: "Standard_NC6s_v3", 2: "Standard_NC12s_v3", 4: "Standard_NC24s_v3", 8: "Standard_ND40rs_v2"},
    "A10": {1: "Standard_NV36ads_A10_v5", 2: "Standard_NV72ads_A10_v5"},
    "A100-40GB": {8: "Standard_ND96asr_v4"},
    "A100-80GB": {1: "Standard_NC24ads_A100_v4", 2: "Standard_NC48ads_A100_v4", 4: "Standard_NC96ads_A100_v4", 8: "Standard_ND96amsr_A100_v4"},
    "H100": {1: "Standard_NC40ads_H100_v5", 2: "Standard_NC80adis_H100_v5", 8: "Standard_ND96isr_H100_v5"},
    "H200": {8: "Standard_ND96isr_H200_v5"},
}
_GPUS: Mapping[str, Mapping[str, Mapping[int, str]]] = {"aws": _AWS_GPUS, "azure": _AZURE_GPUS}

_PLAIN: Mapping[str, Mapping[str, str]] = {
    "aws": {"server": "m7i.xlarge", "gateway": "c7i.xlarge", "storage": "m7i.xlarge", "engine": "m7i.4xlarge", "host": "m7i.4xlarge"},
    "azure": {
        "server": "Standard_D4s_v5",
        "gateway": "Standard_D4s_v5",
        "storage": "Standard_D4s_v5",
        "engine": "Standard_D16s_v5",
        "host": "Standard_D16s_v5",
    },
}
"""Machines without GPUs: what each role needs at least to work well."""

_AWS_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "m7i": _AWS_SIZES,
    "m6i": (*_AWS_SIZES[:7], "24xlarge", "32xlarge", "metal"),
    "c7i": _AWS_SIZES,
    "r7i": _AWS_SIZES,
    "g4dn": ("xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "metal"),
    "g5": _AWS_SIZES[1:],
    "g6": _AWS_SIZES[1:],
    "g6e": _AWS_SIZES[1:],
    "p3": ("2xlarge", "8xlarge", "16xlarge"),
    "p4d": ("24xlarge",),
    "p4de": ("24xlarge",),
    "p5": ("4xlarge", "48xlarge"),
    "p5e": ("48xlarge",),
    "p5en": ("48xlarge",),
    "p6-b200": ("48xlarge",),
}

_PATTERNS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "aws": (re.compile(r"[a-z][a-z0-9-]*\.(?:metal(?:-\w+)?|nano|micro|small|medium|large|\d{0,3}xlarge)"), "FAMILY.SIZE such as g6e.4xlarge"),
    "azure": (re.compile(r"(?:Standard|Basic)_\w+"), "Standard_... such as Standard_NC24ads_A100_v4"),
}


def flavour_for(provider: Provider, group: NodeGroup) -> str:
    """The flavour of a group's machines: what the spec says, or what its GPUs and role need.

    Raises:
        SpecError: The cloud cannot have such a flavour, or none is known for these GPUs.
    """
    if group.flavour is not None:
        _check(provider, group.flavour, group.name)
        return group.flavour
    if provider not in _PLAIN:
        raise SpecError(
            f"the group '{group.name}' needs `flavour`: which ones {provider} has differs from place to place",
            "ask your cloud for its flavours, then kiva.yaml",
        )
    if group.gpu is None:
        return _PLAIN[provider][group.role]
    kinds = _GPUS[provider]
    kind = next((name for name in kinds if name.casefold() == group.gpu.type.casefold()), None)
    if kind is None:
        raise SpecError(
            f"no flavour of {provider} with a GPU '{group.gpu.type}' is known to kivactl; known are {', '.join(kinds)}",
            f"write `flavour` for the group '{group.name}', or another `gpu.type`",
        )
    if group.gpu.count not in kinds[kind]:
        counts = " or ".join(str(count) for count in kinds[kind])
        raise SpecError(
            f"{provider} has {kind} in machines with {counts} GPUs, not {group.gpu.count}", f"write `gpu.count: {next(iter(kinds[kind]))}`, or name a `flavour`"
        )
    return kinds[kind][group.gpu.count]


def known(provider: Provider) -> tuple[str, ...]:
    """Flavours of a cloud that kivactl knows by name; there are more."""
    listed = [*_PLAIN.get(provider, {}).values(), *(name for sizes in _GPUS.get(provider, {}).values() for name in sizes.values())]
    if provider == "aws":
        listed += [f"{family}.{size}" for family, sizes in _AWS_FAMILIES.items() for size in sizes]
    return tuple(dict.fromkeys(listed))


def nearest(provider: Provider, flavour: str) -> tuple[str, ...]:
    """Up to three known flavours that are written alike, the nearest first."""
    return tuple(difflib.get_close_matches(flavour, known(provider), n=3, cutoff=0.6))


def _check(provider: Provider, flavour: str, group: str) -> None:
    """Refuse what cannot be a flavour. One that could be, of a family not known here, is left to the cloud."""
    if provider not in _PATTERNS:
        return
    pattern, form = _PATTERNS[provider]
    family, _, size = flavour.partition(".")
    if pattern.fullmatch(flavour) and (provider != "aws" or size in _AWS_FAMILIES.get(family, (size,))):
        return
    near = nearest(provider, flavour)
    raise SpecError(
        f"{provider} has no flavour '{flavour}' (group '{group}')", f"did you mean {' or '.join(near)}?" if near else f"a flavour of {provider} is {form}"
    )

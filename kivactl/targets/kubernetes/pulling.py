"""Why an image is not there, from what the container runtimes say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kivactl.targets.kubernetes.trouble import Cause, one_line, tail

_IMAGE = (
    (
        Cause.IMAGE_DENIED,
        re.compile(
            r"unauthorized|authentication required|access denied|403 Forbidden|401 Unauthorized|no basic auth|insufficient_scope|denied:", re.IGNORECASE
        ),
        "the registry does not let it have the image {image}",
        "name a Secret that may pull it in `kubernetes.pull_secrets`: {secrets}",
        True,
    ),
    (
        Cause.REGISTRY,
        re.compile(r"x509|certificate|tls: ", re.IGNORECASE),
        "the node does not trust the certificate of the registry of {image}",
        "give the nodes the registry's CA, then delete the pod: {delete}",
        True,
    ),
    (
        Cause.REGISTRY,
        re.compile(
            r"no such host|i/o timeout|connection refused|connection reset|no route to host|TLS handshake timeout|context deadline exceeded|EOF", re.IGNORECASE
        ),
        "the node cannot reach the registry of {image}: {why}",
        "check name resolution, proxy and mirrors of the node: {describe}",
        False,
    ),
    (
        Cause.REGISTRY,
        re.compile(r"toomanyrequests|429|rate limit", re.IGNORECASE),
        "the registry of {image} lets it pull no more for now: too many requests",
        "wait, or use a mirror in `kubernetes.images`: {describe}",
        False,
    ),
    (
        Cause.IMAGE_MISSING,
        re.compile(
            r"manifest unknown|not found|does not exist|manifest for|no such image|not present with pull policy|InvalidImageName|couldn't parse image",
            re.IGNORECASE,
        ),
        "there is no image {image}",
        "push it, or correct `kubernetes.images` in kiva.yaml: {describe}",
        True,
    ),
    (
        Cause.EVICTED,
        re.compile(r"no space left on device", re.IGNORECASE),
        "the node's disk is too full for the image {image}",
        "free space on the node, or add disk: {describe}",
        False,
    ),
)
IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"})
"""Of containers that wait for their image."""


@dataclass(frozen=True, slots=True)
class NotPulled:
    """As `trouble.Trouble` has it."""

    cause: Cause
    sentence: str
    hint: str
    hopeless: bool = False


def why_not_pulled(image: str, text: str, commands: Mapping[str, str]) -> NotPulled:
    """What keeps an image from being pulled.

    Args:
        image: Its name.
        text: All that was said about it.
        commands: For the hints: `describe`, `delete`, `secrets`.
    """
    words = {"image": image, "why": _network_word(text), **commands}
    for cause, pattern, said, hint, hopeless in _IMAGE:
        if pattern.search(text):
            return NotPulled(cause, said.format(**words), hint.format(**words), hopeless)
    return NotPulled(Cause.IMAGE_MISSING, f"the image {image} cannot be pulled: {one_line(tail(text))}", commands["describe"])


def _network_word(text: str) -> str:
    found = re.search(
        r"no such host|i/o timeout|connection refused|connection reset|no route to host|TLS handshake timeout|context deadline exceeded|EOF",
        text,
        re.IGNORECASE,
    )
    return found[0] if found else "it does not answer"

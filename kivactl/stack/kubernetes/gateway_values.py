"""The values of the chart kiva-gateway: Envoy, its configuration files, the meter beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kivactl.spec.platform import Platform

Json = dict[str, Any]


def gateway_values_for(platform: Platform, *, jwks: Mapping[str, Any], revoked: Iterable[str] = ()) -> Json:
    """The values of the gateway's release.

    Args:
        platform: The spec, with `target: kubernetes`.
        jwks: Public keys that sign tokens.
        revoked: Ids of tokens that are no longer good.
    """
    raise NotImplementedError

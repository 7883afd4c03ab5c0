"""Who has used up tokens or money: the one part of the configuration that the meter writes.

Imports no spec, for the meter is a process of its own that stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from kivactl.stack.gateway.files import Json, discoverable
from kivactl.stack.gateway.matching import RBAC, allow, by_header, by_metadata, by_presence, deny

NAME = "kiva.quota"

EVERY_MODEL = "*"


class Reason(StrEnum):
    """What is used up; also the name of the rule that refuses, by which the refusal is worded."""

    TOKENS = "tokens"
    BUDGET = "budget"


def quota_for(exceeded: Mapping[str, Mapping[str, Reason]]) -> Json:
    """The content of the quota file.

    Args:
        exceeded: By tenant, then by model or alias (`EVERY_MODEL` for all), what is used up.
    """
    tenants = {tenant: _refused(models) for tenant, models in exceeded.items() if models}
    return discoverable(NAME, RBAC, {"matcher": by_header("x-kiva-tenant", tenants, otherwise=allow())})


def _refused(models: Mapping[str, Reason]) -> Json:
    if EVERY_MODEL in models:  # what names no model, such as the list of models, costs nothing
        return {"matcher": by_presence("model", deny(models[EVERY_MODEL]), otherwise=allow())}
    by_reason: dict[Reason, list[str]] = {}
    for model, reason in models.items():
        by_reason.setdefault(reason, []).append(model)
    entries: Iterable[tuple[list[str], Json]] = ((names, deny(reason)) for reason, names in by_reason.items())
    return {"matcher": by_metadata("model", entries, otherwise=allow())}

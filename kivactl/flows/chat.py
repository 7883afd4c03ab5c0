"""`chat`: one question on behalf of a tenant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from kivactl.errors import UsageError
from kivactl.flows.deployment import Deployment, endpoint_for


def ask(deployment: Deployment, prompt: str, *, model: str | None = None, tenant: str | None = None, max_tokens: int = 256) -> Iterator[str]:
    """Yield the pieces of the answer as they come.

    Raises:
        UsageError: The spec has no such model or tenant.
        KivaError: The platform does not answer; the leaf says how.
    """
    from kivactl.tools.http import open_client

    models = [one.name for one in deployment.platform.models]
    if tenant is not None:
        known("tenant", tenant, [one.name for one in deployment.platform.gateway.tenants])
    endpoint = endpoint_for(deployment, tenant=tenant, lifetime=timedelta(minutes=10), name="kivactl-chat")
    if model is not None:
        endpoint = replace(endpoint, model=known("model", model, models))
    with open_client(endpoint) as client:
        yield from client.chat(prompt, max_tokens=max_tokens, temperature=0)


def known(what: str, name: str, names: list[str]) -> str:
    """The name, when the spec has it.

    Raises:
        UsageError: It has not; the hint says what it has.
    """
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    raise UsageError(f"the spec has no {what} named '{name}'", f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(names)}")

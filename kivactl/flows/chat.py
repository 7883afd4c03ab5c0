"""`chat`: one question on behalf of a tenant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from kivactl.errors import UsageError
from kivactl.flows.deploy import Deployment, endpoint_for
from kivactl.stack.endpoint import Endpoint


def ask(deployment: Deployment, prompt: str, *, model: str | None = None, tenant: str | None = None, max_tokens: int = 256) -> Iterator[str]:
    """Yield the pieces of the answer as they come.

    Raises:
        UsageError: The spec has no such model or tenant.
        KivaError: The platform does not answer; the leaf says how.
    """
    from kivactl.tools.http import open_client

    models = [known.name for known in deployment.platform.models]
    endpoint = endpoint_of(deployment, tenant, timedelta(minutes=10), name="kivactl-chat")
    if model is not None:
        endpoint = replace(endpoint, model=_known("model", model, models))
    with open_client(endpoint) as client:
        yield from client.chat(prompt, max_tokens=max_tokens, temperature=0)


def endpoint_of(deployment: Deployment, tenant: str | None, lifetime: timedelta, name: str) -> Endpoint:
    """The endpoint with a new token for a tenant.

    Raises:
        UsageError: The spec has no such tenant.
        PreconditionError: The machine is not provisioned.
    """
    tenants = [known.name for known in deployment.platform.gateway.tenants]
    if tenant is not None:
        tenant = _known("tenant", tenant, tenants)
    return endpoint_for(deployment.platform, deployment.layout, tenant=tenant, lifetime=lifetime, name=name)


def _known(what: str, name: str, names: list[str]) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    raise UsageError(f"the spec has no {what} named '{name}'", f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(names)}")

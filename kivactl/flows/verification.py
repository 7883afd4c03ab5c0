"""The proof that a platform in a cluster serves: tokens that its models generated, asked for as any client does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

from kivactl.errors import CheckError, KivaError, NotReadyError
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.plan import Outcome, Status
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.metering import OPERATOR
from kivactl.targets.kubernetes.seen import at_once

WITHIN_S = 180.0
"""A pod sees a changed ConfigMap or Secret when its kubelet has written it, which takes two minutes at most, and then Envoy reads it."""

_EVERY_S = 5.0
_STEP = "verification"


def generated(deployment: Deployment, models: Sequence[str], otherwise: str) -> Iterator[Outcome]:
    """Let each model generate a token, through the gateway with TLS and a token as any client's.

    Args:
        deployment: The platform.
        models: Their names.
        otherwise: The hint when it fails.

    Raises:
        CheckError: A model did not generate one in time.
        KivaError: The gateway cannot be reached from here, and waiting does not mend it.
    """
    clock = deployment.clock
    if not models:
        yield Outcome(_STEP, Status.SKIPPED, "every model sleeps until it is asked")
        return
    yield Outcome(_STEP, Status.STARTED, "asking for a token through the gateway")
    left, told = list(models), ""
    for elapsed_s in clock.ticks(WITHIN_S, _EVERY_S):
        try:
            failed = _failed(deployment, left)
        except KivaError as error:
            yield Outcome(_STEP, Status.FAILED, error.message, elapsed_s)
            raise
        if not failed:
            yield Outcome(_STEP, Status.DONE, "a token came through the gateway", elapsed_s)
            return
        left = list(failed)
        message = next(iter(failed.values())).message
        if message != told:
            yield Outcome(_STEP, Status.PROGRESS, f"not yet: {message}", elapsed_s)
            told = message
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    yield Outcome(_STEP, Status.FAILED, f"{told}{more}", WITHIN_S)
    raise CheckError(f"no token came through the gateway within {WITHIN_S:g} s: {told}{more}", otherwise)


def _failed(deployment: Deployment, models: Sequence[str]) -> dict[str, KivaError]:
    """Why models did not answer, for those that did not."""
    try:
        # Anew each time: a port that is forwarded leads to one pod, which may be gone by now.
        endpoint = endpoint_for(deployment, tenant=OPERATOR, lifetime=timedelta(minutes=5))
    except NotReadyError as error:
        return dict.fromkeys(models, error)
    answers = at_once(lambda model: _answer(replace(endpoint, model=model)), models)
    return {model: error for model, error in zip(models, answers, strict=True) if error is not None}


def _answer(endpoint: Endpoint) -> KivaError | None:
    from kivactl.tools.http import open_client

    try:
        with open_client(endpoint) as client:
            client.complete("Hello", max_tokens=1)
    except KivaError as error:
        return error
    return None

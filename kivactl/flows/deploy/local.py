"""Deploying on this machine: models made ready, its memory, cores and GPUs shared out, the processes rolled out, a token generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.flows.provision import provisioned
from kivactl.flows.shares import notes_on, still_held
from kivactl.plan import Change, Difference, Outcome, Plan, Status, Verb, digest
from kivactl.spec.platform import Model, Platform
from kivactl.spec.quantities import format_bytes
from kivactl.stack import sizing, tokens
from kivactl.stack.engine import Share, replica_name
from kivactl.stack.gateway.bootstrap import validation_for
from kivactl.stack.layout import Layout
from kivactl.stack.metering import OPERATOR
from kivactl.targets.desired import Desired, Weights, desired_for, file_hashes, gateway_files
from kivactl.targets.publication import contents, keys_of, publish, unpublished
from kivactl.targets.release import read_release
from kivactl.targets.routing import read_shares, with_shares, write_shares
from kivactl.targets.status import GATEWAY, METER
from kivactl.tools import envoy, machine
from kivactl.tools.machine import Machine
from kivactl.tools.models import ModelStore, Prepared


def plan(deployment: Deployment, title: str) -> Plan:
    """What a deploy would change; reads only.

    Raises:
        PreconditionError: The machine is not provisioned, the port is taken, or the memory does not suffice.
    """
    platform = deployment.platform
    if not provisioned(deployment.layout, platform):
        raise PreconditionError(f"this machine is not provisioned for '{platform.name}'", "kivactl provision")
    prepared = _prepared(deployment)
    missing = [model for model in platform.models if model.name not in prepared]
    if missing:
        found = _plan_before_preparation(title, missing, platform, deployment.layout)
        _refuse_taken_port(deployment)
    else:
        facts = machine.facts()
        sized = _sizing(deployment, prepared, facts)
        found = _with_unpublished(deployment.target.plan(_desired(deployment, prepared, facts, sized), title), deployment)
        if not found.empty:
            _refuse_taken_port(deployment)
            _refuse_what_cannot_fit(deployment, facts, sized)
    held = read_shares(deployment.layout)
    return replace(found, notes=(*found.notes, *notes_on(held, platform)), basis=digest([found.basis, held]))


def steps(deployment: Deployment) -> Iterator[Outcome]:
    """Do it, under the platform's lock.

    Raises:
        ToolError: A process dies at its start.
        NotReadyError: Something did not become ready in time.
    """
    store = ModelStore(deployment.layout.cache)
    for model in deployment.platform.models:
        yield from store.prepare(model, deployment.loaded.folder)
    prepared = _prepared(deployment)
    facts = machine.facts()
    sized = _sizing(deployment, prepared, facts)
    _refuse_what_cannot_fit(deployment, facts, sized)
    held = read_shares(deployment.layout)
    kept = still_held(held, deployment.platform)
    if kept != held:
        write_shares(deployment.layout, kept)
    desired = _desired(deployment, prepared, facts, sized)
    _validate_gateway(deployment, desired)
    publish(deployment.platform, deployment.layout, deployment.clock)
    yield from deployment.target.apply(desired)
    yield from _verify(deployment)
    deployment.target.finish(deployment.loaded.digest, datetime.now(UTC).isoformat(timespec="seconds"))
    if deployment.reload().digest != deployment.loaded.digest:
        yield Outcome("spec", Status.DONE, "the spec changed while this deploy ran: deploy again to take the change over")


def _verify(deployment: Deployment) -> Iterator[Outcome]:
    """A generated token per model, through the gateway with TLS and a token as any client's."""
    from kivactl.tools.http import open_client

    started_s = deployment.clock.now_s()
    yield Outcome("verification", Status.STARTED, "asking for a token through the gateway")
    release = read_release(deployment.layout.release)
    for model in deployment.platform.models:
        if all(name in release.maintenance for name in release.replicas.get(model.name, [""])):
            continue  # nobody is there to generate one; the plan has said so
        endpoint = replace(endpoint_for(deployment, tenant=OPERATOR, lifetime=timedelta(minutes=5)), model=model.name)
        with open_client(endpoint) as client:
            client.complete("Hello", max_tokens=1)
    yield Outcome("verification", Status.DONE, "a token came through the gateway", deployment.clock.now_s() - started_s)


def _prepared(deployment: Deployment) -> dict[str, Prepared]:
    store = ModelStore(deployment.layout.cache)
    found = {model.name: store.prepared(model, deployment.loaded.folder) for model in deployment.platform.models}
    return {name: prepared for name, prepared in found.items() if prepared is not None}


def _with_unpublished(plan: Plan, deployment: Deployment) -> Plan:
    """The plan with what tokens and identity providers change, which is not the target's to know."""
    if any(change.subject == GATEWAY for change in plan.changes):
        return plan
    differences = tuple(Difference(name, "deployed", "changed") for name in unpublished(deployment.platform, deployment.layout))
    return replace(plan, changes=(Change(Verb.UPDATE, GATEWAY, differences), *plan.changes)) if differences else plan


def _plan_before_preparation(title: str, missing: list[Model], platform: Platform, layout: Layout) -> Plan:
    release = read_release(layout.release)
    changes = [Change(Verb.CREATE, f"model {model.name}") for model in missing]
    if not release.processes:
        changes += [Change(Verb.CREATE, GATEWAY), Change(Verb.CREATE, METER)]
    for model in platform.models:
        names = [replica_name(model.name, index) for index in range(model.replicas)]
        changes += [Change(Verb.REPLACE if name in release.processes else Verb.CREATE, f"engine {name}") for name in names]
    return Plan(title, tuple(changes), ("the engines' options are settled once their model is prepared",), digest(release.processes))


def _sizing(deployment: Deployment, prepared: dict[str, Prepared], facts: Machine) -> sizing.Sizing:
    """What each replica gets: from the machine's size, not from what is free now, so that it stays the same."""
    demands = [
        sizing.Demand(
            name=model.name,
            replicas=model.replicas,
            weights_bytes=prepared[model.name].weights_bytes,
            config=prepared[model.name].config,
            max_length=model.max_length,
            concurrency=model.concurrency,
            kv_cache_bytes=model.kv_cache,
            dtype=str(model.engine.get("dtype", "auto")),
            gpus=int(model.engine.get("tensor-parallel-size", model.engine.get("tensor_parallel_size", 1))),
        )
        for model in deployment.platform.models
    ]
    return sizing.plan_memory(demands, memory_bytes=facts.memory_total_bytes, cores=facts.cores, gpus=len(facts.gpus))


def _desired(deployment: Deployment, prepared: dict[str, Prepared], facts: Machine, sized: sizing.Sizing) -> Desired:
    import sys

    platform, layout = with_shares(deployment.platform, read_shares(deployment.layout)), deployment.layout
    shares: dict[str, list[Share]] = {}
    for replica in sized.replicas:
        # The sizing counts GPUs; CUDA names them.
        gpus = tuple(facts.gpus[place].index for place in replica.gpus)
        shares.setdefault(replica.model, []).append(Share(replica.cores, replica.kv_cache_bytes, gpus))
    weights = {
        model.name: Weights(
            prepared[model.name].path,
            prepared[model.name].identity,
            model.ready_within or sizing.startup_budget_s(prepared[model.name].weights_bytes, gpu=bool(sized.gpus), replicas=len(sized.replicas)),
        )
        for model in platform.models
    }
    return desired_for(
        platform,
        layout,
        weights=weights,
        shares=shares,
        jwks=tokens.jwks_for(keys_of(layout)),
        python=Path(sys.executable),
        envoy=envoy.find_envoy(),
        # Engines on CPUs need the cores themselves; beside GPUs they are the gateway's.
        gateway_workers=min(8, len(facts.cores)) if sized.gpus else max(1, min(4, len(facts.cores) // 2)),
    )


def _refuse_taken_port(deployment: Deployment) -> None:
    gateway = deployment.platform.gateway
    release = read_release(deployment.layout.release)
    if GATEWAY in deployment.target.alive() and release.endpoint.endswith(f":{gateway.port}/v1"):
        return
    wanted = ((gateway.address, gateway.port, "gateway.port"), (gateway.metrics.address, gateway.metrics_port, "gateway.metrics.port"))
    for address, port, key in wanted:
        holder = machine.holder_of(address, port)
        if holder is not None:
            raise PreconditionError(f"port {port} on {address} is taken by {holder}", f"stop it, or choose another with `{key}` in kiva.yaml")


def _refuse_what_cannot_fit(deployment: Deployment, facts: Machine, sized: sizing.Sizing) -> None:
    """Refuse before anything starts; what our own engines hold now is theirs again afterwards."""
    free_bytes = facts.memory_available_bytes + deployment.target.memory_bytes()
    if not sized.gpus and sized.need_bytes > free_bytes:
        raise PreconditionError(
            f"not enough memory: the engines of '{deployment.platform.name}' need {format_bytes(sized.need_bytes)}, {format_bytes(free_bytes)} are free",
            "fewer `replicas`, a shorter `max_length` or a smaller `kv_cache` in kiva.yaml",
        )


def _validate_gateway(deployment: Deployment, desired: Desired) -> None:
    """Let Envoy check the whole configuration before a running one reads it."""
    import json

    layout = deployment.layout
    if read_release(layout.release).gateway == file_hashes(desired) and not unpublished(deployment.platform, layout):
        return
    files = gateway_files(layout, deployment.platform)
    whole = validation_for({**desired.files, **desired.first, **contents(deployment.platform, layout)}, files)
    config = layout.gateway / "validation.json"
    config.write_text(json.dumps(whole))
    layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        envoy.validate(envoy.find_envoy(), config)
    finally:
        config.unlink()

"""What should run on this machine: every process and every gateway file, computed from the spec. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kivactl.plan import Change, Difference, Verb, digest
from kivactl.spec.platform import Platform
from kivactl.stack.endpoint import authority_of
from kivactl.stack.engine import Process, Share, engine_for, replica_name
from kivactl.stack.gateway import access, bootstrap, clusters, listener, quota, routes
from kivactl.stack.gateway.files import Files
from kivactl.stack.layout import Layout
from kivactl.stack.metering import orders_for
from kivactl.stack.monitoring import levels_rules_for, scrape_targets_for
from kivactl.targets.release import Release
from kivactl.targets.status import GATEWAY, METER

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model made ready.

    Attributes:
        folder: In Hugging Face layout.
        identity: Hash that says exactly which weights these are.
        ready_within_s: Seconds a replica has until its first token.
    """

    folder: Path
    identity: str
    ready_within_s: float


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be.

    Attributes:
        processes: By name; the gateway and the meter first.
        replicas: Names of the replicas of every model.
        files: Content of the gateway's and the meter's files by path, without the endpoints; in the order of writing.
        first: Content of files that others own once they are there: the tokens' register, the meter.
        endpoint: Base URL for clients.
    """

    processes: dict[str, Process]
    replicas: dict[str, list[str]]
    files: dict[Path, Any]
    first: dict[Path, Any]
    endpoint: str


def endpoints(model: str, layout: Layout, replicas: list[str], draining: frozenset[str] = frozenset(), *, waiting: bool = True) -> Json:
    """Content of a model's endpoints file."""
    known = [clusters.Replica(name, layout.engine_socket(name), name in draining) for name in replicas]
    return clusters.endpoints_for(model, files_of(layout), known, waiting=waiting)


def endpoints_as_known(
    model: str, layout: Layout, release: Release, wanted: list[str], draining: frozenset[str] = frozenset(), *, waiting: bool = True
) -> Json:
    """Content of a model's endpoints file as it should be: the replicas wanted, and those that still run and are not.

    Args:
        model: Its name.
        layout: Where sockets lie.
        release: What is recorded; who is in maintenance gets nothing new.
        wanted: Names of the replicas that should be.
        draining: Others that get nothing new.
        waiting: Whether requests may wait for a replica; in vain when all are in maintenance.
    """
    extra = [name for name in release.replicas.get(model, []) if name not in wanted and name in release.processes]
    out = frozenset(release.maintenance)
    return endpoints(model, layout, [*wanted, *extra], draining | out, waiting=waiting and not out.issuperset(wanted))


def gateway_files(layout: Layout, platform: Platform) -> Files:
    """Where the gateway of this machine has its files."""
    tls = platform.gateway.tls
    return replace(files_of(layout), certificate=Path(tls.certificate), certificate_key=Path(tls.key)) if tls.certificate and tls.key else files_of(layout)


def files_of(layout: Layout) -> Files:
    """The same, with the platform's own certificate."""
    return Files(folder=layout.gateway, run=layout.run, certificate=layout.certificate, certificate_key=layout.certificate_key, access_log=layout.access_log)


def desired_for(
    platform: Platform,
    layout: Layout,
    *,
    weights: Mapping[str, Weights],
    shares: Mapping[str, list[Share]],
    jwks: Mapping[str, Any],
    python: Path,
    envoy: Path,
    gateway_workers: int,
) -> Desired:
    """All that should run for a spec.

    Args:
        platform: The spec.
        layout: Where files lie.
        weights: By model name.
        shares: What each replica gets of the machine, by model name, in the order of the replicas.
        jwks: Public keys that sign tokens.
        python: Interpreter that has the engine.
        envoy: The gateway's program.
        gateway_workers: Threads of the gateway.
    """
    files = gateway_files(layout, platform)
    command = bootstrap.command_for(envoy, files, workers=gateway_workers, drain_s=platform.gateway.request_timeout)
    meter = (str(python), "-m", "kivactl.usage.meter", str(layout.meter_orders))
    processes = {
        GATEWAY: Process(name=GATEWAY, argv=command, stop_within_s=10, settles_within_s=2),
        METER: Process(name=METER, argv=meter, stop_within_s=10, settles_within_s=1),
    }
    replicas: dict[str, list[str]] = {}
    for model in platform.models:
        ready = weights[model.name]
        for index in range(model.replicas):
            name = replica_name(model.name, index)
            replicas.setdefault(model.name, []).append(name)
            processes[name] = engine_for(
                model,
                index,
                python=python,
                weights=ready.folder,
                identity=ready.identity,
                socket=layout.engine_socket(name),
                usage_log=layout.usage_log(name),
                share=shares[model.name][index],
                ready_within_s=ready.ready_within_s,
                traces=platform.gateway.tracing.otlp if platform.gateway.tracing else None,
            )
    known = {model: [clusters.Replica(name, layout.engine_socket(name)) for name in names] for model, names in replicas.items()}
    return Desired(
        processes=processes,
        replicas=replicas,
        # In the order of writing: what a part refers to is there before it.
        files={
            layout.meter_orders: orders_for(platform, layout),
            layout.scrape_targets: scrape_targets_for(platform, replicas),
            layout.levels_rules: levels_rules_for(platform),
            files.bootstrap: bootstrap.bootstrap_for(platform, files),
            files.certificate_secret: listener.certificate_for(files),
            files.admission: access.admission_for(platform),
            files.limits: access.limits_for(platform),
            files.clusters: clusters.clusters_for(platform, files, known),
            files.routes: routes.routes_for(platform),
            files.listeners: listener.listeners_for(platform, files, known),
        },
        first={
            files.authentication: access.authentication_for(platform, jwks),
            files.revoked: access.revocation_for(()),
            files.quota: quota.quota_for({}),
        },
        endpoint=endpoint_url(platform),
    )


def endpoint_url(platform: Platform) -> str:
    """Base URL for clients on this machine; a wildcard address is reached over loopback."""
    return f"https://{authority_of(platform.gateway.address, platform.gateway.port)}/v1"


def definition(process: Process) -> Json:
    """A process as the record keeps it."""
    return {**asdict(process), "argv": list(process.argv), "environment": dict(process.environment)}


def process_from(entry: Mapping[str, Any]) -> Process:
    """A process from the record; keys of a newer version are left out."""
    known = {name: entry[name] for name in Process.__dataclass_fields__ if name in entry}
    return Process(**{**known, "argv": tuple(entry["argv"])})


def desired_from(release: Release) -> Desired:
    """What was deployed, as what should run: for starting again without reading the spec."""
    return Desired(
        processes={name: process_from(entry) for name, entry in release.processes.items()},
        replicas={model: list(names) for model, names in release.replicas.items()},
        files={},
        first={},
        endpoint=release.endpoint,
    )


def file_hashes(desired: Desired) -> dict[str, str]:
    """Hash of every gateway file by its name."""
    return {path.name: digest(content) for path, content in desired.files.items()}


def changes_between(release: Release, alive: frozenset[str], desired: Desired) -> list[Change]:
    """What has to change, in the order of doing.

    Args:
        release: What was deployed.
        alive: Names of the processes that run.
        desired: What should be.
    """
    changes = [_gateway_change(release, alive, desired), _meter_change(release, alive, desired)]
    for model, replicas in desired.replicas.items():
        disruption = _disruption(model, replicas)
        changes += [
            _out_change(replica, release, alive, desired) if replica in release.maintenance else _process_change(replica, release, alive, desired, disruption)
            for replica in replicas
        ]
    gone = [name for name in release.processes if name not in desired.processes]
    changes += [Change(Verb.DELETE, f"engine {name}") for name in gone]
    return [change for change in changes if change is not None]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The differing options and variables of two definitions of one process."""
    old, new = _flat(before), _flat(after)
    return tuple(Difference(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))


def _gateway_change(release: Release, alive: frozenset[str], desired: Desired) -> Change | None:
    hashes = file_hashes(desired)
    changed = [name for name, value in hashes.items() if release.gateway.get(name) != value]
    process = differences(release.processes.get(GATEWAY, {}), definition(desired.processes[GATEWAY]))
    subject = "gateway"
    if GATEWAY not in release.processes:
        return Change(Verb.CREATE, subject, (Difference("endpoint", None, desired.endpoint),))
    if GATEWAY not in alive:
        return Change(Verb.START, subject)
    if process or "bootstrap.json" in changed:
        return Change(Verb.REPLACE, subject, process, "clients cannot connect for about two seconds")
    if changed or release.endpoint != desired.endpoint:
        where = (Difference("endpoint", release.endpoint, desired.endpoint),) if release.endpoint != desired.endpoint else ()
        return Change(Verb.UPDATE, subject, (*where, *(Difference(name, "deployed", "changed") for name in changed)))
    return None


def _meter_change(release: Release, alive: frozenset[str], desired: Desired) -> Change | None:
    after = definition(desired.processes[METER])
    before = release.processes.get(METER)
    if before is None:
        return Change(Verb.CREATE, METER)
    changed = differences(before, after)
    if METER not in alive:
        return Change(Verb.START, METER, changed)
    return Change(Verb.REPLACE, METER, changed) if changed else None


def _process_change(name: str, release: Release, alive: frozenset[str], desired: Desired, disruption: str) -> Change | None:
    after = definition(desired.processes[name])
    before = release.processes.get(name)
    if before is None:
        return Change(Verb.CREATE, f"engine {name}", _summary(after))
    changed = differences(before, after)
    if name not in alive:
        return Change(Verb.START, f"engine {name}", changed)
    return Change(Verb.REPLACE, f"engine {name}", changed, disruption) if changed else None


def _out_change(name: str, release: Release, alive: frozenset[str], desired: Desired) -> Change | None:
    """Of a replica in maintenance: it does not run, and comes back as the spec says by then."""
    changed = differences(release.processes.get(name, {}), definition(desired.processes[name]))
    if name in alive:
        return Change(Verb.STOP, f"engine {name}", changed)
    return Change(Verb.UPDATE, f"engine {name}", changed) if changed else None


def _disruption(model: str, replicas: list[str]) -> str:
    """Of several replicas one always serves: what is missing is started before what runs is replaced."""
    return f"'{model}' has one replica: no answers while it starts again" if len(replicas) == 1 else ""


def _summary(after: Mapping[str, Any]) -> tuple[Difference, ...]:
    flat = _flat(after)
    shown = ("--model", "--max-model-len", "--max-num-seqs", "--kv-cache-memory-bytes", "VLLM_CPU_OMP_THREADS_BIND", "CUDA_VISIBLE_DEVICES")
    return tuple(Difference(name, None, flat[name]) for name in shown if name in flat)


def _flat(process: Mapping[str, Any]) -> dict[str, str]:
    """Options, variables and times of a definition in one level; a flag without a value is `yes`."""
    words: list[str] = list(process.get("argv", []))
    flat: dict[str, str] = {"program": words[0]} if words else {}
    for position, word in enumerate(words):
        if word.startswith("--"):
            following = words[position + 1] if position + 1 < len(words) else "--"
            flat[word] = "yes" if following.startswith("--") else following
    flat |= {name: str(value) for name, value in process.get("environment", {}).items()}
    flat |= {name: f"{process[name]:g}" for name in ("stop_within_s", "settles_within_s", "ready_within_s") if name in process}
    return flat

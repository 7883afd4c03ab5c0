"""Engine replicas: vLLM's command line and environment from the spec, and what its log says about its progress."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from kivactl.spec.platform import Model

GIB = 2**30

MODULE = ("-m", "vllm.entrypoints.openai.api_server")
"""What an interpreter runs to be an engine."""

AFTER_DRAIN_S = 15.0
"""Seconds beyond the drain until a process that does not end is killed."""

_PHASES = (
    ("Application startup complete", "answering"),
    ("Starting vLLM API server", "opening its socket"),
    ("Warming up", "warming up"),
    ("init engine", "engine ready"),
    ("torch.compile takes", "compiled"),
    ("Dynamo bytecode transform", "compiling"),
    ("Start compiling function", "compiling"),
    ("GPU KV cache size", "KV cache reserved"),
    ("CPU KV cache", "KV cache reserved"),
    ("Loading weights took", "weights loaded"),
    ("Loading safetensors checkpoint", "loading weights"),
    ("Starting to load model", "loading weights"),
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("non-default args", "reading its configuration"),
)
"""Text in vLLM's log and the phase it marks, latest phase first. Source: vLLM 0.32's log messages."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a replica gets of the machine.

    Attributes:
        cores: CPU ids its threads are bound to (CPU engine).
        kv_cache_bytes: Memory for the KV cache (CPU engine).
        gpus: GPU indices (GPU engine); empty on a machine without.
    """

    cores: tuple[int, ...]
    kv_cache_bytes: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """A program to keep running.

    Attributes:
        name: Unique on the platform; also the name of its log.
        argv: Program and arguments, absolute; never secrets.
        environment: What is added to a clean environment.
        stop_within_s: Seconds between SIGTERM and SIGKILL.
        settles_within_s: Seconds it must live to count as started; dying earlier delays the next start.
        ready_within_s: Seconds it has until it does its work.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_within_s: float = 10.0
    settles_within_s: float = 1.0
    ready_within_s: float = 30.0


def replica_name(model: str, index: int) -> str:
    """Name of a replica: `smollm2-0`."""
    return f"{model}-{index}"


def engine_for(
    model: Model,
    index: int,
    *,
    python: Path,
    weights: Path,
    identity: str,
    socket: Path,
    usage_log: Path,
    share: Share,
    ready_within_s: float,
    traces: str | None = None,
) -> Process:
    """One engine replica on this machine.

    Args:
        model: From the spec.
        index: Number of the replica, from 0.
        python: Interpreter that has vLLM.
        weights: Folder in Hugging Face layout.
        identity: Hash that says exactly which weights; part of the environment, so that other weights are a change.
        socket: Unix socket to listen on.
        usage_log: File in which it writes down what each request used.
        share: Its part of the machine.
        ready_within_s: Seconds until its first token.
        traces: OTLP/HTTP address of a collector; None for no traces.
    """
    name = replica_name(model.name, index)
    argv = [*launcher(python, socket), str(python), *MODULE, *arguments_for(model, weights, traces=traces), *("--uds", str(socket))]
    environment = environment_for(model, replica=name, identity=identity, usage_log=usage_log, traces=traces)
    if share.gpus:
        # nvidia-smi counts in the order of the bus; CUDA would begin with the fastest.
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in share.gpus)}
    else:
        argv += kv_cache_arguments(share.kv_cache_bytes)
        environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(str(core) for core in share.cores)
    return Process(
        name=name,
        argv=tuple(argv),
        environment=environment,
        stop_within_s=model.drain_within + AFTER_DRAIN_S,
        settles_within_s=20,
        ready_within_s=ready_within_s,
    )


def arguments_for(model: Model, weights: PurePath, *, traces: str | None = None) -> tuple[str, ...]:
    """vLLM's arguments, the same wherever it runs; where it listens and what it gets of the machine comes after them.

    Args:
        model: From the spec.
        weights: Folder in Hugging Face layout.
        traces: OTLP/HTTP address of a collector; None for no traces.
    """
    return (
        *("--model", str(weights)),
        *("--served-model-name", model.name),
        *("--max-model-len", str(model.max_length)),
        *("--max-num-seqs", str(model.concurrency)),
        # The one named last is the outermost: counting does not see the probes of generation.
        *("--middleware", "kivactl.stack.inside.Inside"),
        *("--middleware", "kivactl.usage.count.CountUsage"),
        *("--scheduling-policy", "priority"),
        *("--shutdown-timeout", str(round(model.drain_within))),
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
        "--disable-uvicorn-access-log",
        *option_arguments(model.engine),
        *(("--otlp-traces-endpoint", f"{traces.rstrip('/')}/v1/traces") if traces is not None else ()),
    )


def environment_for(model: Model, *, replica: str, identity: str, usage_log: PurePath, traces: str | None = None) -> dict[str, str]:
    """An engine's environment, the same wherever it runs.

    Args:
        model: From the spec.
        replica: Name of the replica, or what stands for it.
        identity: Says exactly which weights these are.
        usage_log: File in which it writes down what each request used.
        traces: As for the arguments.
    """
    environment = {
        "KIVA_MODEL_IDENTITY": identity,
        "KIVA_REPLICA": replica,
        "KIVA_MODEL": model.name,
        "KIVA_USAGE_LOG": str(usage_log),
        # Below the gateway's patience with a check, which is a little less than half of the whole.
        "KIVA_PROBE_S": f"{probe_s(model):g}",
        # Aliases are the gateway's business: it has checked the name before it chose this engine.
        "VLLM_SKIP_MODEL_NAME_VALIDATION": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_LOGGING_COLOR": "0",
    }
    if traces is not None:
        environment |= {"OTEL_SERVICE_NAME": replica, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    return environment


def kv_cache_arguments(kv_cache_bytes: int) -> tuple[str, ...]:
    """The KV cache of an engine on CPUs, which would take a fixed part of the machine otherwise."""
    return ("--kv-cache-memory-bytes", str(kv_cache_bytes))


def probe_s(model: Model) -> float:
    """Seconds that an engine's own proof of generation may take."""
    return model.stalled_after / 3


def launcher(python: Path, socket: Path) -> tuple[str, ...]:
    """What stands before an engine's command line: removes a stale socket, gives way to the gateway, becomes the engine."""
    return (str(python), "-m", "kivactl.targets.launch", str(socket))


def option_arguments(options: Mapping[str, str | int | float | bool]) -> list[str]:
    """Engine options as arguments: `{"dtype": "auto", "enforce-eager": True}` gives `--dtype auto --enforce-eager`."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        match value:
            case True:
                arguments.append(flag)
            case False:
                arguments.append(flag.replace("--", "--no-", 1))
            case _:
                arguments += [flag, str(value)]
    return arguments


def parse_phase(log: str) -> str:
    """The phase a starting engine is in, from the text it has logged since it was started."""
    best = len(_PHASES)
    for line in log.splitlines():
        for rank, (text, _) in enumerate(_PHASES[:best]):
            if text in line:
                best = rank
                break
    return _PHASES[best][1] if best < len(_PHASES) else "loading libraries"


_NO_CAUSE = (" WARNING ", "Traceback", "  raise ", "See root cause above", "See stack trace (above)", "RuntimeError: cancelled")
"""In lines of vLLM that name an exception but not what went wrong: it did elsewhere."""

_DEAD = "died unexpectedly"


def parse_failure(log: str) -> str:
    """The line of an engine's log that says why it died: the last exception, a process that a signal ended, or the last line."""
    words = last_words(log, 1)
    return re.sub(rf"^.*?(?=\b\w+(Error|Exception): |\bWorker proc \S+ {_DEAD})", "", words[-1] if words else "it logged nothing").strip()


def last_words(log: str, count: int = 15) -> tuple[str, ...]:
    """The lines of an engine's log that end with the one that says why it died; what processes say at their ends comes after it.

    Args:
        log: Its text.
        count: Of lines, at most.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if re.search(r"\b\w*(Error|Exception|error:)", line) and not any(words in line for words in _NO_CAUSE)]
    dead = [at for at, line in enumerate(lines) if _DEAD in line]
    end = (errors or dead or [len(lines) - 1])[-1] + 1
    return tuple(lines[max(0, end - count) : end])

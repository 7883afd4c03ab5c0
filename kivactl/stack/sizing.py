"""What fits a machine: memory for weights and KV cache, cores and GPUs for every replica. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.spec.quantities import format_bytes
from kivactl.stack.engine import GIB

_OVERHEAD_BYTES = int(2.2 * GIB)
"""What a CPU replica holds besides weights and KV cache: libraries, the API server's and the engine's own processes.
Measured with vLLM 0.32 (see benchmarks/memory.py), with a margin."""

_WEIGHTS_FACTOR = 1.25
"""Loaded weights over their size on disk: CPU kernels keep some of them in a second, packed form while they load."""

_SHARE_OF_MACHINE = 0.8
"""Part of the machine's memory that engines may plan with; the rest is for the system and everything else."""

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks for.

    Attributes:
        name: Of the model.
        replicas: How many.
        weights_bytes: Size of the weights on disk.
        config: Its config.json.
        max_length: Longest sequence, in tokens.
        concurrency: Sequences at once per replica.
        kv_cache_bytes: As asked for in the spec; None to derive it.
    """

    name: str
    replicas: int
    weights_bytes: int
    config: Mapping[str, Any]
    max_length: int
    concurrency: int
    kv_cache_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ReplicaShare:
    """What one replica gets: cores (CPU engine) or gpus (GPU engine), and its memory."""

    model: str
    cores: tuple[int, ...]
    gpus: tuple[int, ...]
    kv_cache_bytes: int
    need_bytes: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """The shares of all replicas, model by model in the order of the demands."""

    replicas: tuple[ReplicaShare, ...]

    @property
    def need_bytes(self) -> int:
        """Main memory of all replicas together."""
        return sum(replica.need_bytes for replica in self.replicas)

    @property
    def gpus(self) -> bool:
        """Whether the engines run on GPUs, whose memory they manage themselves."""
        return any(replica.gpus for replica in self.replicas)


def plan_memory(demands: Sequence[Demand], *, memory_bytes: int, cores: tuple[int, ...], gpus: int = 0) -> Sizing:
    """Give every replica its share of a machine.

    Args:
        demands: What the models ask for.
        memory_bytes: The machine's main memory; of its size, not of what is free now, so that the shares stay the same.
        cores: CPU ids that may be used.
        gpus: How many GPUs there are; with any, engines run on GPUs.

    Raises:
        PreconditionError: It cannot fit; the hint says what would.
    """
    count = sum(demand.replicas for demand in demands)
    if gpus:
        return _on_gpus(demands, count, gpus)
    fixed_bytes = sum(demand.replicas * _fixed_bytes(demand) for demand in demands)
    budget_bytes = int(memory_bytes * _SHARE_OF_MACHINE)
    left_bytes = budget_bytes - fixed_bytes
    least_bytes = sum(demand.replicas * _whole_gib(_least_kv_bytes(demand)) for demand in demands)
    if left_bytes < least_bytes:
        raise _does_not_fit(demands, fixed_bytes + least_bytes, budget_bytes)
    shares: list[ReplicaShare] = []
    for demand in demands:
        kv_bytes = _kv_bytes(demand, left_bytes // count)
        for _ in range(demand.replicas):
            bound = _cores_of(len(shares), count, cores)
            shares.append(ReplicaShare(demand.name, bound, (), kv_bytes, _fixed_bytes(demand) + kv_bytes))
    if sum(share.need_bytes for share in shares) > budget_bytes:
        raise _does_not_fit(demands, sum(share.need_bytes for share in shares), budget_bytes)
    return Sizing(tuple(shares))


def kv_bytes_per_token(config: Mapping[str, Any]) -> int:
    """Memory the KV cache takes for one token.

    Source: two tensors (key, value) per layer of key-value heads times head size, in the model's number format.
    """
    text = config.get("text_config", config)
    heads = text["num_attention_heads"]
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    kv_heads = text.get("num_key_value_heads") or heads
    return int(2 * text["num_hidden_layers"] * kv_heads * head_dim * dtype_bytes(config))


def dtype_bytes(config: Mapping[str, Any]) -> int:
    """Bytes of one number in the model's format; 2 when the configuration does not say."""
    text = config.get("text_config", config)
    name = str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or "bfloat16")
    return _DTYPE_BYTES.get(name, 2)


def weights_bytes_from_config(config: Mapping[str, Any]) -> int:
    """Size of a model's weights from its shape alone: embeddings, attention and MLP of a dense transformer."""
    text = config.get("text_config", config)
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    head_dim = text.get("head_dim") or hidden // heads
    kv_heads = text.get("num_key_value_heads") or heads
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    mlp = 3 * hidden * text.get("intermediate_size", 4 * hidden)
    embeddings = text["vocab_size"] * hidden * (1 if text.get("tie_word_embeddings", config.get("tie_word_embeddings")) else 2)
    return int((text["num_hidden_layers"] * (attention + mlp) + embeddings) * dtype_bytes(config))


def startup_budget_s(weights_bytes: int, *, gpu: bool, replicas: int) -> float:
    """Time a replica may take until its first token.

    Args:
        weights_bytes: Size of the weights.
        gpu: Whether it runs on a GPU.
        replicas: How many start at the same time and share disk and cores.

    Source: a 32B model (64 GB) on an H100 took 4 min 38 s, a small one on a CPU core under a minute; budgets are several
    times that, for a budget that stops a slow but healthy start does harm.
    """
    per_gib_s = 15.0 if gpu else 30.0
    return 300.0 + 60.0 * (replicas - 1) + per_gib_s * weights_bytes / GIB


def _fixed_bytes(demand: Demand) -> int:
    return _OVERHEAD_BYTES + int(demand.weights_bytes * _WEIGHTS_FACTOR)


def _least_kv_bytes(demand: Demand) -> int:
    return max(demand.kv_cache_bytes or 0, kv_bytes_per_token(demand.config) * demand.max_length)


def _kv_bytes(demand: Demand, share_bytes: int) -> int:
    """Enough for every sequence at its longest, within the share; never less than one whole sequence needs."""
    if demand.kv_cache_bytes:
        return _whole_gib(demand.kv_cache_bytes)
    wanted = kv_bytes_per_token(demand.config) * demand.max_length * demand.concurrency
    return max(_whole_gib(_least_kv_bytes(demand)), min(_whole_gib(wanted), share_bytes // GIB * GIB))


def _whole_gib(size_bytes: int) -> int:
    """Rounded up to what vLLM's VLLM_CPU_KVCACHE_SPACE takes: whole GiB."""
    return max(1, -(-size_bytes // GIB)) * GIB


def _cores_of(index: int, count: int, cores: tuple[int, ...]) -> tuple[int, ...]:
    """Cores of the index-th of `count` replicas: its own, for replicas on the same cores starve each other."""
    if count >= len(cores):
        return (cores[index % len(cores)],)
    return cores[index * len(cores) // count : (index + 1) * len(cores) // count]


def _on_gpus(demands: Sequence[Demand], count: int, gpus: int) -> Sizing:
    if count > gpus:
        raise PreconditionError(f"{count} replicas need {count} GPUs, this machine has {gpus}", "fewer `replicas` in kiva.yaml")
    each = gpus // count
    shares: list[ReplicaShare] = []
    for demand in demands:
        for _ in range(demand.replicas):
            wanted = int(demand.config.get("tensor_parallel_size", 1))
            first = len(shares) * each
            shares.append(ReplicaShare(demand.name, (), tuple(range(first, first + min(each, wanted))), 0, _OVERHEAD_BYTES))
    return Sizing(tuple(shares))


def _does_not_fit(demands: Sequence[Demand], need_bytes: int, budget_bytes: int) -> PreconditionError:
    names = ", ".join(f"{demand.replicas} x {demand.name}" for demand in demands)
    hints = []
    if len(demands) == 1:
        demand = demands[0]
        one_bytes = _fixed_bytes(demand) + _whole_gib(_least_kv_bytes(demand))
        if fitting := budget_bytes // one_bytes:
            hints.append(f"`replicas: {fitting}` would fit")
    hints.append("a smaller model, a shorter `max_length` or a smaller `kv_cache` needs less")
    return PreconditionError(
        f"not enough memory: {names} need {format_bytes(need_bytes)}, engines may use {format_bytes(budget_bytes)} of this machine", "; ".join(hints)
    )

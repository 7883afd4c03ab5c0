"""What fits a machine: memory for weights and KV cache, cores and GPUs for every replica. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.spec.quantities import format_bytes, write_bytes
from kivactl.stack.engine import GIB

KV_STEP_BYTES = 2**20
"""KV caches are whole multiples of this: finer steps would only make plans harder to read."""

_OVERHEAD_BYTES = int(2.2 * GIB)
"""What a CPU replica holds besides weights and KV cache: libraries, the API server's, the engine's and the worker's own data.
Measured with vLLM 0.32 as proportional set size of the process tree, KV cache taken off: a two-layer model 1.3 GiB, with
torch.compile's cache empty 1.8 GiB at its peak; a model of 0.25 GiB 1.9 GiB eager and 2.2 GiB compiled. The KV cache itself
is resident in full from the start."""

_WEIGHTS_FACTOR = 1.25
"""Loaded weights over their size on disk: CPU kernels keep some of them in a second, packed form."""

_SHARE_OF_MACHINE = 0.8
"""Part of the machine's memory that engines may plan with; the rest is for the system and everything else."""

_BLOCK_TOKENS = 128
"""The KV cache is given out in blocks of this many tokens, and one block is kept back. Source: vLLM's CPU platform."""

_SHORTEST = 16
"""Smallest `max_length` that a spec may ask for."""

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_MLP = ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size", "n_inner")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


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
        dtype: The number format the engine is told to compute in.
        gpus: How many GPUs one replica is spread over, on a machine that has any.
    """

    name: str
    replicas: int
    weights_bytes: int
    config: Mapping[str, Any]
    max_length: int
    concurrency: int
    kv_cache_bytes: int | None = None
    dtype: str = "auto"
    gpus: int = 1


@dataclass(frozen=True, slots=True)
class ReplicaShare:
    """What one replica gets.

    Attributes:
        model: Its model.
        cores: Ids of its CPU cores; empty on GPUs.
        gpus: Its GPUs by their place in the machine's list, from 0; empty on a CPU.
        kv_cache_bytes: Of main memory; 0 on GPUs, where the engine takes what the GPU has left.
        need_bytes: Main memory in all.
    """

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

    What is left after weights and one longest sequence for everyone is shared out evenly, up to what each can use.

    Args:
        demands: What the models ask for.
        memory_bytes: The machine's main memory; its size, not what is free now, so that the shares stay the same.
        cores: CPU ids that may be used, at least one.
        gpus: How many GPUs there are; with any, engines run on GPUs.

    Raises:
        PreconditionError: It cannot fit; the hint says what would.
    """
    if gpus:
        return _on_gpus(demands, gpus)
    for demand in demands:
        _refuse_small_kv_cache(demand)
    budget_bytes = int(memory_bytes * _SHARE_OF_MACHINE)
    if least_need_bytes(demands) > budget_bytes:
        raise _does_not_fit(demands, budget_bytes)
    fixed_bytes = sum(demand.replicas * _fixed_bytes(demand) for demand in demands)
    shares: list[ReplicaShare] = []
    count = sum(demand.replicas for demand in demands)
    for demand, kv_bytes in zip(demands, _kv_bytes(demands, budget_bytes - fixed_bytes), strict=True):
        for _ in range(demand.replicas):
            shares.append(ReplicaShare(demand.name, cores_of(len(shares), count, cores), (), kv_bytes, _fixed_bytes(demand) + kv_bytes))
    return Sizing(tuple(shares))


def least_need_bytes(demands: Sequence[Demand]) -> int:
    """Main memory without which the replicas cannot start on CPUs: each with room for one longest sequence."""
    return sum(demand.replicas * (_fixed_bytes(demand) + _least_kv_bytes(demand)) for demand in demands)


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str = "auto") -> int:
    """Memory the KV cache takes for one token.

    Source: two tensors (key, value) per layer of key-value heads times head size; with latent attention (DeepSeek) one
    of latent plus rotary size. For models whose layers differ (sliding windows, state spaces) it is an upper bound.

    Args:
        config: A model's config.json.
        dtype: The number format the engine is told to compute in.

    Raises:
        PreconditionError: The configuration lacks what it takes.
    """
    text = _text(config)
    layers = _number(text, _LAYERS)
    if rank := text.get("kv_lora_rank"):
        return layers * (int(rank) + int(text.get("qk_rope_head_dim") or 0)) * dtype_bytes(dtype)
    return 2 * layers * _kv_heads(text) * _head_dim(text) * dtype_bytes(dtype)


def dtype_bytes(dtype: str = "auto") -> int:
    """Bytes of one number as the engine computes. Source: vLLM's `--dtype auto`, which takes float32 models down to 16 bits."""
    return 4 if dtype in {"float", "float32"} else 2


def weights_bytes_from_config(config: Mapping[str, Any]) -> int:
    """Size of a model's weights from its shape alone: embeddings, attention and MLP, with all its experts.

    Raises:
        PreconditionError: The configuration lacks what it takes.
    """
    text = _text(config)
    hidden = _number(text, _HIDDEN)
    attention = hidden * _head_dim(text) * (2 * _number(text, _HEADS) + 2 * _kv_heads(text))
    mlp = 3 * hidden * _number(text, _MLP, 4 * hidden) * _number(text, _EXPERTS, 1)
    embeddings = _number(text, ("vocab_size",)) * hidden * (1 if text.get("tie_word_embeddings", config.get("tie_word_embeddings")) else 2)
    return (_number(text, _LAYERS) * (attention + mlp) + embeddings) * dtype_bytes()


def startup_budget_s(weights_bytes: int, *, gpu: bool, replicas: int) -> float:
    """Time a replica may take until its first token.

    Args:
        weights_bytes: Size of the weights.
        gpu: Whether it runs on a GPU.
        replicas: How many start at the same time and share disk and cores.

    Source: a 32B model (64 GB) on an H100 took 4 min 38 s. On a CPU core a small one took 26 s to itself, 112 s when it had
    to compile, and 217 s on cores that others kept busy. Budgets are several times that, for one that stops a slow but
    healthy start does harm.
    """
    base_s, per_gib_s = (300.0, 15.0) if gpu else (600.0, 30.0)
    return base_s + 60.0 * (replicas - 1) + per_gib_s * weights_bytes / GIB


def cores_of(index: int, count: int, cores: tuple[int, ...]) -> tuple[int, ...]:
    """Cores of the index-th of `count` replicas: its own while there are enough, for replicas on the same cores starve each other.

    Raises:
        ValueError: There are no cores.
    """
    if not cores:
        msg = "no cores to share out"
        raise ValueError(msg)
    if count >= len(cores):
        return (cores[index % len(cores)],)
    return cores[index * len(cores) // count : (index + 1) * len(cores) // count]


def _kv_bytes(demands: Sequence[Demand], left_bytes: int) -> list[int]:
    """KV cache of one replica of each demand: the same level for all, but never below its least nor above its use."""
    bounds = [(demand.replicas, _least_kv_bytes(demand) // KV_STEP_BYTES, _most_kv_bytes(demand) // KV_STEP_BYTES) for demand in demands]

    def fits(level: int) -> bool:
        return KV_STEP_BYTES * sum(replicas * min(most, max(least, level)) for replicas, least, most in bounds) <= left_bytes

    level = _largest(fits, 0, max((most for _, _, most in bounds), default=0)) or 0
    return [KV_STEP_BYTES * min(most, max(least, level)) for _, least, most in bounds]


def fixed_bytes(weights_bytes: int) -> int:
    """Main memory of a replica on CPUs besides its KV cache.

    Args:
        weights_bytes: Size of the weights on disk.
    """
    return _OVERHEAD_BYTES + int(weights_bytes * _WEIGHTS_FACTOR)


def _fixed_bytes(demand: Demand) -> int:
    return fixed_bytes(demand.weights_bytes)


def _least_kv_bytes(demand: Demand) -> int:
    """As asked for, or one sequence at its longest."""
    return _in_steps(demand.kv_cache_bytes or _tokens_bytes(demand, 1))


def _most_kv_bytes(demand: Demand) -> int:
    """As asked for, or every sequence at its longest."""
    return _in_steps(demand.kv_cache_bytes or _tokens_bytes(demand, demand.concurrency))


def _tokens_bytes(demand: Demand, sequences: int) -> int:
    blocks = sequences * -(-demand.max_length // _BLOCK_TOKENS) + 1
    try:
        return blocks * _BLOCK_TOKENS * kv_bytes_per_token(demand.config, demand.dtype)
    except PreconditionError as error:
        raise PreconditionError(f"the memory of '{demand.name}' cannot be planned: {error.message}", error.hint) from None


def _in_steps(size_bytes: int) -> int:
    return max(1, -(-size_bytes // KV_STEP_BYTES)) * KV_STEP_BYTES


def _refuse_small_kv_cache(demand: Demand) -> None:
    one_bytes = _tokens_bytes(demand, 1)
    if demand.kv_cache_bytes and _in_steps(demand.kv_cache_bytes) < one_bytes:
        raise PreconditionError(
            f"`kv_cache: {write_bytes(demand.kv_cache_bytes)}` of '{demand.name}' is too small: one sequence of {demand.max_length} tokens takes "
            f"{format_bytes(one_bytes)}",
            f"`kv_cache: {write_bytes(_in_steps(one_bytes))}`, or a shorter `max_length` in kiva.yaml",
        )


def _on_gpus(demands: Sequence[Demand], gpus: int) -> Sizing:
    need = sum(demand.replicas * demand.gpus for demand in demands)
    if need > gpus:
        raise PreconditionError(f"the replicas need {need} GPUs, this machine has {gpus}", "fewer `replicas` or GPUs per replica in kiva.yaml")
    shares: list[ReplicaShare] = []
    first = 0
    for demand in demands:
        for _ in range(demand.replicas):
            shares.append(ReplicaShare(demand.name, (), tuple(range(first, first + demand.gpus)), 0, _OVERHEAD_BYTES))
            first += demand.gpus
    return Sizing(tuple(shares))


def _does_not_fit(demands: Sequence[Demand], budget_bytes: int) -> PreconditionError:
    names = " and ".join(f"{demand.replicas} replica{'s' if demand.replicas > 1 else ''} of {demand.name}" for demand in demands)
    hints = [hint for _, hint in changes_that_fit(demands, budget_bytes)]
    return PreconditionError(
        f"not enough memory: {names} need {format_bytes(least_need_bytes(demands))}, engines may use {format_bytes(budget_bytes)} of this machine",
        f"in kiva.yaml, {' or '.join(hints)} would fit" if hints else "fewer or smaller models, or a machine with more memory",
    )


def changes_that_fit(demands: Sequence[Demand], budget_bytes: int) -> Iterator[tuple[tuple[Demand, ...], str]]:
    """Single changes to one demand after which all fit, each with its words; of each kind the one with the largest value."""
    for place, demand in enumerate(demands):
        of = f" of {demand.name}" if len(demands) > 1 else ""
        if fewer := _largest_fitting(demands, place, "replicas", range(1, demand.replicas), budget_bytes):
            yield fewer, f"`replicas: {fewer[place].replicas}`{of}"
        if demand.kv_cache_bytes:
            steps = range(_in_steps(_tokens_bytes(demand, 1)), _in_steps(demand.kv_cache_bytes), KV_STEP_BYTES)
            if smaller := _largest_fitting(demands, place, "kv_cache_bytes", steps, budget_bytes):
                yield smaller, f"`kv_cache: {write_bytes(smaller[place].kv_cache_bytes or 0)}`{of}"
        elif shorter := _largest_fitting(demands, place, "max_length", range(_SHORTEST, demand.max_length), budget_bytes):
            yield shorter, f"`max_length: {shorter[place].max_length}`{of}"


def _largest_fitting(demands: Sequence[Demand], place: int, name: str, values: range, budget_bytes: int) -> tuple[Demand, ...] | None:
    """The demands with the largest of these values for one of them so that all fit; None when none does."""

    def changed(position: int) -> tuple[Demand, ...]:
        changes: dict[str, Any] = {name: values[position]}
        return (*demands[:place], replace(demands[place], **changes), *demands[place + 1 :])

    best = _largest(lambda position: least_need_bytes(changed(position)) <= budget_bytes, 0, len(values) - 1)
    return None if best is None else changed(best)


def _largest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number in low..high for which something holds that holds below it too; None when there is none."""
    if low > high or not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) and nested else config


def _kv_heads(text: Mapping[str, Any]) -> int:
    if text.get("multi_query") and not text.get("new_decoder_architecture"):  # Falcon's words for a single one
        return 1
    return _number(text, _KV_HEADS, _number(text, _HEADS))


def _head_dim(text: Mapping[str, Any]) -> int:
    return _number(text, ("head_dim",), max(1, _number(text, _HIDDEN, 1) // _number(text, _HEADS)))


def _number(text: Mapping[str, Any], names: tuple[str, ...], default: int | None = None) -> int:
    """The first of these keys that has a positive number."""
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    if default is None:
        raise PreconditionError(f"its config.json lacks {names[0]}", "choose a language model in Hugging Face layout")
    return default

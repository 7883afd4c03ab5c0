"""What the engines say of themselves while they are under load: one sample of one replica at a time, one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

METRICS: Mapping[str, str] = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_cache_ratio": "vllm:kv_cache_usage_perc",
    "preemptions": "vllm:num_preemptions_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "queue_s": "vllm:request_queue_time_seconds_sum",
    "queue_count": "vllm:request_queue_time_seconds_count",
    "prefill_s": "vllm:request_prefill_time_seconds_sum",
    "decode_s": "vllm:request_decode_time_seconds_sum",
    "request_count": "vllm:e2e_request_latency_seconds_count",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
}
"""Where each figure comes from. Source: vLLM's metrics, vllm/v1/metrics/loggers.py."""


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One replica at one moment. A figure is None where the engine does not say; all but the first three count since its start.

    Attributes:
        at_ns: Of the monotonic clock, the same as records have.
        replica: Its name.
        running: Requests that it works on.
        waiting: Requests in its queue.
        kv_cache_ratio: Of its KV cache that is in use, 0..1.
        preemptions: Requests that had to give their place in the KV cache away.
        prompt_tokens: Tokens of prompts.
        generation_tokens: Tokens of answers.
        queue_s: Seconds that requests waited in its queue, all together.
        queue_count: How many requests that were.
        prefill_s: Seconds from being scheduled to the first token, all together.
        decode_s: Seconds from the first token to the last, all together.
        request_count: Requests that ended.
        prefix_hits: Prompt tokens found in the prefix cache.
        prefix_queries: Prompt tokens looked for in it.
    """

    at_ns: int
    replica: str
    running: float | None = None
    waiting: float | None = None
    kv_cache_ratio: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    queue_s: float | None = None
    queue_count: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    request_count: float | None = None
    prefix_hits: float | None = None
    prefix_queries: float | None = None

    def to_json(self) -> str:
        """One line of JSON, without its line end."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, separators=(",", ":"))


def parse_sample(line: str) -> EngineSample:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is no such line.
    """
    try:
        return EngineSample(**json.loads(line))
    except TypeError as error:
        msg = f"not a sample of an engine: {error}"
        raise ValueError(msg) from error


def read_samples(path: Path) -> list[EngineSample]:
    """All samples of a file in their order; a half-written last line is left out, a missing file is empty."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [parse_sample(line) for line in whole.split("\n") if line]


def growth(samples: Iterable[EngineSample], name: str) -> float | None:
    """By how much a counter grew, over all replicas; a replica that was started anew counts from nought again.

    Args:
        samples: By time.
        name: Of the counter.

    Returns:
        None where no replica says it twice.
    """
    total: float | None = None
    before: dict[str, float] = {}
    for sample in samples:
        value = getattr(sample, name)
        if value is None:
            continue
        if sample.replica in before:
            grown = value - before[sample.replica]
            total = (total or 0.0) + (grown if grown >= 0 else value)
        before[sample.replica] = value
    return total


def within(samples: Iterable[EngineSample], start_ns: int, end_ns: int) -> Sequence[EngineSample]:
    """The samples of a stretch of time."""
    return [sample for sample in samples if start_ns <= sample.at_ns < end_ns]

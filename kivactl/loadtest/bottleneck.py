"""Where the time of an answer goes, and what therefore limits the platform; pure, with the evidence for what it says.

Client and engine measure the same requests from two sides. What the engine does not account for lies between them: the
gateway, the network, and the engine's own front. Without the engine's figures only the client's side can be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kivactl.loadtest.engine_samples import EngineSample, growth, within
from kivactl.loadtest.metrics import Summary, Window
from kivactl.loadtest.wording import time_text

GENERATOR, GATEWAY, QUEUE, PREFILL, DECODE, MEMORY = "generator", "gateway", "queue", "prefill", "decode", "memory"

_SENTENCES = {
    GENERATOR: "The load generator limits: what was measured is not the platform.",
    GATEWAY: "Most of the time goes by between client and engine: the gateway, the network, or the engine's front.",
    QUEUE: "Requests wait in front of the engines: more replicas, or a higher concurrency where memory allows it, would carry more.",
    PREFILL: "The engines spend most of the time on reading prompts: shorter prompts, prefix caching, or more computing power would help.",
    DECODE: "The engines spend most of the time on generating, token by token: memory bandwidth, speculative decoding or shorter answers would help.",
    MEMORY: "The KV cache is full: requests wait for room or lose it; more memory for it, a shorter context or fewer at a time would help.",
}
_FULL_RATIO = 0.95
_FEWEST_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What limits.

    Attributes:
        name: `generator`, `gateway`, `queue`, `prefill`, `decode` or `memory`.
        sentence: What it means.
        evidence: What was measured, in sentences.
        parts_s: Mean seconds of an answer by where they go, in their order; empty without successes.
    """

    name: str
    sentence: str
    evidence: tuple[str, ...]
    parts_s: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready data."""
        return asdict(self)


def bottleneck_of(summary: Summary, samples: Sequence[EngineSample], window: Window | None) -> Bottleneck | None:
    """Name what limits; None without a success to tell it from.

    Args:
        summary: Of the run.
        samples: Of the engines; may be empty.
        window: The measured phase.
    """
    if summary.e2e_s is None or window is None:
        return None
    # A little longer than the window: requests of its end are counted when they end.
    seen = within(samples, window.start_ns, window.end_ns + round(summary.e2e_s.p95 * 1e9))
    parts = _parts_s(summary, seen)
    evidence = list(_evidence(summary, seen, parts))
    if summary.invalid and "generator" in summary.invalid:
        return Bottleneck(GENERATOR, _SENTENCES[GENERATOR], (summary.invalid, *evidence), parts)
    name = max(parts, key=lambda part: parts[part])
    if name == QUEUE and _is_full(seen):
        name = MEMORY
    return Bottleneck(name, _SENTENCES[name], tuple(evidence), parts)


def _parts_s(summary: Summary, seen: Sequence[EngineSample]) -> dict[str, float]:
    """Mean seconds of an answer by where they go."""
    assert summary.e2e_s is not None
    due = summary.e2e_due_s if summary.send_lag_p99_ms is not None else None
    generator_s = max(0.0, due.mean - summary.e2e_s.mean) if due else 0.0
    queue_s = _mean(seen, "queue_s", "queue_count")
    prefill_s, decode_s = _mean(seen, "prefill_s", "request_count"), _mean(seen, "decode_s", "request_count")
    if queue_s is None or prefill_s is None or decode_s is None:
        first_s = summary.ttft_s.mean if summary.ttft_s else summary.e2e_s.mean
        return {GENERATOR: generator_s, PREFILL: first_s, DECODE: summary.e2e_s.mean - first_s}
    between_s = max(0.0, summary.e2e_s.mean - queue_s - prefill_s - decode_s)
    return {GENERATOR: generator_s, GATEWAY: between_s, QUEUE: queue_s, PREFILL: prefill_s, DECODE: decode_s}


def _mean(seen: Sequence[EngineSample], total: str, count: str) -> float | None:
    grown, number = growth(seen, total), growth(seen, count)
    return grown / number if grown is not None and number else None


def _is_full(seen: Sequence[EngineSample]) -> bool:
    preemptions = growth(seen, "preemptions")
    known = sorted(sample.kv_cache_ratio for sample in seen if sample.kv_cache_ratio is not None)
    return bool(preemptions) or (len(known) >= _FEWEST_SAMPLES and known[len(known) // 2] >= _FULL_RATIO)


def _evidence(summary: Summary, seen: Sequence[EngineSample], parts: dict[str, float]) -> Sequence[str]:
    assert summary.e2e_s is not None
    total_s = sum(parts.values())
    names = {GENERATOR: "before it was sent", GATEWAY: "between client and engine", QUEUE: "in the engines' queue", PREFILL: "prefill", DECODE: "decode"}
    if QUEUE not in parts:
        names[PREFILL] = "to the first token (gateway, queue and prefill: the engines' own figures are not there)"
    shares = [f"{names[name]} {time_text(part_s)} ({part_s / total_s:.0%})" for name, part_s in parts.items() if total_s and part_s / total_s >= 0.005]
    found = [f"Of a whole answer's {time_text(total_s)} on average: {', '.join(shares)}."]
    waiting = sorted(sample.waiting for sample in seen if sample.waiting is not None)
    running = sorted(sample.running for sample in seen if sample.running is not None)
    if waiting and running:
        found.append(
            f"A replica worked on {running[len(running) // 2]:.0f} requests and had {waiting[len(waiting) // 2]:.0f} waiting (median of {len(waiting)})."
        )
    known = [sample.kv_cache_ratio for sample in seen if sample.kv_cache_ratio is not None]
    if known:
        preemptions = growth(seen, "preemptions") or 0
        found.append(f"The KV cache was used up to {max(known):.0%}; {preemptions:.0f} requests lost their place in it.")
    hits, queries = growth(seen, "prefix_hits"), growth(seen, "prefix_queries")
    if hits is not None and queries:
        found.append(f"{hits / queries:.0%} of the prompts' tokens were in the prefix cache.")
    return found

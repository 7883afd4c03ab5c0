from __future__ import annotations

from dataclasses import replace

import pytest

from kivactl.loadtest.bottleneck import bottleneck_of
from kivactl.loadtest.engine_samples import EngineSample, growth, parse_sample, read_samples
from kivactl.loadtest.levels import levels_from
from kivactl.loadtest.metrics import Conditions, Summary, Window, summary_for
from kivactl.loadtest.record import Record

S, MS = 1_000_000_000, 1_000_000
WINDOW = Window(0, 10 * S)


def summary(ttft_ms: int = 500, e2e_ms: int = 1000, late_ms: int | None = None, **known: object) -> Summary:
    records = []
    for index in range(20):
        due_ns = index * 500 * MS
        sent_ns = due_ns + (late_ms or 0) * MS
        stamps = (sent_ns + ttft_ms * MS, sent_ns + e2e_ms * MS)
        scheduled_ns = None if late_ms is None else due_ns
        records.append(Record(index, sent_ns, stamps[-1], sent_ns=sent_ns, token_ns=stamps, completion_tokens=2, scheduled_ns=scheduled_ns))
    return summary_for(records, WINDOW, levels_from({"ttft_p95": 5.0}), Conditions("s", "m", 1, **known))  # type: ignore[arg-type]


def samples(queue_s: float, prefill_s: float, decode_s: float, kv: float = 0.3, preemptions: float = 0) -> list[EngineSample]:
    """What two replicas say at the window's begin and end, after ten requests each."""
    begin = EngineSample(1, "m-0", 4, 2, kv, 0, 100, 100, 5, 50, 5, 5, 50, 0, 100)
    end = replace(
        begin,
        at_ns=9 * S,
        queue_s=5 + 10 * queue_s,
        queue_count=60,
        prefill_s=5 + 10 * prefill_s,
        decode_s=5 + 10 * decode_s,
        request_count=60,
        preemptions=preemptions,
        prefix_hits=25,
        prefix_queries=150,
    )
    return [begin, replace(begin, replica="m-1"), end, replace(end, replica="m-1")]


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (samples(0.6, 0.1, 0.2), "queue"),
        (samples(0.6, 0.1, 0.2, kv=0.99), "memory"),
        (samples(0.6, 0.1, 0.2, preemptions=3), "memory"),
        (samples(0.1, 0.6, 0.2), "prefill"),
        (samples(0.1, 0.1, 0.7), "decode"),
        (samples(0.1, 0.1, 0.1), "gateway"),
        (samples(0.1, 0.1, 0.1, kv=0.99), "gateway"),
    ],
)
def test_what_takes_most_of_the_time_is_named(seen: list[EngineSample], name: str) -> None:
    found = bottleneck_of(summary(), seen, WINDOW)
    assert found is not None
    assert found.name == name
    assert sum(found.parts_s.values()) == pytest.approx(1.0)
    assert found.sentence
    assert any("prefix cache" in line for line in found.evidence)


def test_without_the_engines_figures_only_the_clients_side_is_told() -> None:
    found = bottleneck_of(summary(ttft_ms=900), [], WINDOW)
    assert found is not None
    assert (found.name, found.parts_s) == ("prefill", {"generator": 0.0, "prefill": pytest.approx(0.9), "decode": pytest.approx(0.1)})
    assert "the engines' own figures are not there" in found.evidence[0]


def test_a_generator_that_was_late_is_the_bottleneck() -> None:
    found = bottleneck_of(summary(late_ms=3000), samples(0.1, 0.1, 0.7), WINDOW)
    assert found is not None
    assert found.name == "generator"
    assert "late" in found.evidence[0]


def test_nothing_is_said_of_nothing() -> None:
    empty = summary_for([], WINDOW, (), Conditions("s", "m", 1))
    assert bottleneck_of(empty, [], WINDOW) is None


def test_a_counter_of_a_replica_that_was_started_anew_counts_from_nought() -> None:
    told = [EngineSample(at, "m-0", preemptions=value) for at, value in enumerate((5, 8, 1, 2))]
    assert growth(told, "preemptions") == 3 + 1 + 1
    assert growth(told, "queue_s") is None
    assert growth(told[:1], "preemptions") is None


def test_samples_survive_their_lines(tmp_path) -> None:
    path = tmp_path / "engines.jsonl"
    assert read_samples(path) == []
    told = samples(1, 2, 3)
    path.write_text("".join(sample.to_json() + "\n" for sample in told) + told[0].to_json()[:9])
    assert read_samples(path) == told
    with pytest.raises(ValueError, match="not a sample"):
        parse_sample('{"x": 1}')

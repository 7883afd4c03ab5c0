from __future__ import annotations

import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kivactl.errors import NotReadyError
from kivactl.flows import engine_watch
from kivactl.flows.engine_watch import EngineWatch, asking, sample_of
from kivactl.loadtest.engine_samples import EngineSample, read_samples
from kivactl.targets.release import Release, write_release

METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 120.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 30.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="m"} 1.5
vllm:request_queue_time_seconds_count{engine="0",model_name="m"} 10.0
"""


def test_a_sample_from_what_vllm_offers() -> None:
    found = sample_of(METRICS, "m-0", 7)
    assert found == EngineSample(7, "m-0", running=3, waiting=2, kv_cache_ratio=0.25, preemptions=1, prompt_tokens=150, queue_s=1.5, queue_count=10)


def test_samples_are_written_as_they_come_and_by_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_watch, "_EVERY_S", 0.001)
    seen, number = threading.Event(), iter(range(10**6))

    def ask() -> list[EngineSample]:
        at = next(number)
        if at == 5:
            seen.set()
        return [EngineSample(at, "m-0", running=at)]

    path = tmp_path / "engines.jsonl"
    with EngineWatch(ask, path):
        assert seen.wait(20)
    found = read_samples(path)
    assert [sample.at_ns for sample in found] == list(range(len(found)))
    assert len(found) >= 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_engines_that_say_nothing_leave_no_file(tmp_path: Path) -> None:
    with EngineWatch(tuple, tmp_path / "engines.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    with EngineWatch(lambda: [EngineSample(1, "m-0")], tmp_path / "gone" / "engines.jsonl"):
        pass


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    release = tmp_path / "release.json"
    write_release(release, Release("kiva", replicas={"m": ["m-0", "m-1"], "other": ["other-0"]}))
    gateway = SimpleNamespace(metrics=SimpleNamespace(address="0.0.0.0"), metrics_port=9100)
    return SimpleNamespace(platform=SimpleNamespace(gateway=gateway, kubernetes=None), layout=SimpleNamespace(release=release))


def test_the_replicas_of_a_model_are_asked_at_the_gateway(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def scrape(authority: str, path: str, timeout_s: float) -> str:
        asked.append((authority, path))
        if path.endswith("m-1"):
            raise NotReadyError("no metrics are to be had")
        return METRICS

    monkeypatch.setattr(engine_watch, "scrape", scrape)
    found = asking(deployment, ["m"])()
    assert asked == [("127.0.0.1:9100", "/metrics/engines/m-0"), ("127.0.0.1:9100", "/metrics/engines/m-1")]
    assert [(sample.replica, sample.running) for sample in found] == [("m-0", 3.0)]


def test_in_a_cluster_nobody_is_asked(deployment: Any) -> None:
    deployment.platform.kubernetes = object()
    assert list(asking(deployment, ["m"])()) == []

"""What ended a replica, what is wrong with its GPUs, and the emergency stop, by logs as they are written."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import NotReadyError, PreconditionError, UsageError
from kivactl.flows import troubles
from kivactl.flows.diagnosis import Cause
from kivactl.flows.troubles import End, Start, cause_of, gpu_faults, gpus_of, parse_ends, parse_starts
from kivactl.stack.layout import Layout
from kivactl.targets.processes import known_replica
from kivactl.targets.release import Release, write_release
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools.gpu import Condition, Fault, Remedy
from kivactl.tools.kernel import Kill

SUPERVISOR = """\
2026-11-23 09:00:00,123 INFO supervisord started with pid 10
2026-11-23 09:00:01,000 INFO spawned: 'm-0' with pid 100
2026-11-23 09:00:01,001 INFO spawned: 'm-00' with pid 101
2026-11-23 09:00:02,000 INFO success: m-0 entered RUNNING state, process has stayed up for > than 1 seconds (startsecs)
2026-11-23 09:10:00,500 WARN exited: m-0 (terminated by SIGKILL; not expected)
2026-11-23 09:10:01,000 INFO spawned: 'm-0' with pid 110
2026-11-23 09:20:00,000 INFO stopped: m-0 (exit status 0)
a line cut in
"""
KILLED = End(1000.0, "terminated by SIGKILL; not expected")
EXITED = End(1000.0, "exit status 1; not expected")


def local_s(text):
    return datetime.fromisoformat(text).astimezone().timestamp()


def found(log="", ends=(KILLED,), reaper="", kills=(), counted=None):
    return cause_of("m-0", log, [Start(10.0, 100)], ends, reaper, kills, counted)


def test_starts_and_ends_are_read_from_the_supervisors_log():
    assert parse_starts(SUPERVISOR, "m-0") == [Start(local_s("2026-11-23 09:00:01"), 100), Start(local_s("2026-11-23 09:10:01"), 110)]
    assert parse_ends(SUPERVISOR, "m-0") == [End(local_s("2026-11-23 09:10:00.500"), "terminated by SIGKILL; not expected")]
    assert parse_ends(SUPERVISOR, "m-00") == []


@given(st.text())
def test_any_text_is_a_log_without_starts(text):
    assert parse_starts(text, "m-0") == []


def test_nothing_ended_it():
    assert found(ends=()).cause is Cause.NONE


@pytest.mark.parametrize(
    "kill",
    [
        Kill(100, "python3", in_group=True, up_s=0),  # by its id
        Kill(7, "VLLM::EngineCor", in_group=False, up_s=0),  # in a container ids differ: by its name and time
    ],
)
def test_the_kernels_own_word_comes_first(kill):
    diagnosis = found(log="CUDA out of memory", kills=[(999.0, kill)])
    assert diagnosis.cause is Cause.KERNEL
    assert kill.name in diagnosis.evidence[0]
    assert "kv_cache" in diagnosis.advice


@pytest.mark.parametrize(("at_s", "name"), [(100.0, "VLLM::EngineCor"), (999.0, "chromium"), (1010.0, "VLLM::EngineCor")])
def test_a_kill_of_something_else_or_at_another_time_is_not_its_cause(at_s, name):
    assert found(kills=[(at_s, Kill(7, name, in_group=False, up_s=0))]).cause is Cause.KILLED


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", Cause.GPU_FULL),
        ("ValueError: To serve at least one request, 9.0 GiB KV cache is needed, which is larger than the available KV cache memory", Cause.CACHE_TOO_SMALL),
        ("ValueError: No available memory for the cache blocks.", Cause.CACHE_TOO_SMALL),
        ("ValueError: Free memory on device (3/8 GiB) on startup is less than desired GPU memory utilization (0.9, 7.2 GiB).", Cause.MEMORY_TAKEN),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried 1 bytes", Cause.CACHE_TOO_LARGE),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", Cause.SHARED_MEMORY),
        ("ValueError: something else", Cause.OTHER),
    ],
)
def test_what_its_log_says(line, cause):
    assert found(log=f"INFO starting\n{line}\n", ends=(EXITED,)).cause is cause


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"reaper": "2026-11-23 m-0 generates nothing any more: ended\n"}, Cause.STALLED),
        ({"reaper": "2026-11-23 m-1 generates nothing any more: ended\n"}, Cause.KILLED),
        ({"counted": 2}, Cause.KERNEL),
        ({"kills": None}, Cause.KILLED),
        ({"ends": (End(1.0, "terminated by SIGBUS; not expected"),)}, Cause.SHARED_MEMORY),
    ],
)
def test_what_else_tells(values, cause):
    assert found(**values).cause is cause


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    layout.state.mkdir()
    processes = {"m-0": {"environment": {"CUDA_VISIBLE_DEVICES": "0,2"}}, "m-1": {"environment": {}}}
    write_release(layout.release, Release(replicas={"m": ["m-0", "m-1"]}, processes=processes))
    return layout


def gpu(index, *faults):
    return Condition(index, f"0000:0{index}:00.0" if index >= 0 else "", "H200", "", faults)


LOST, ROWS = Fault("lost", "gone", Remedy.REBOOT), Fault("memory", "rows", Remedy.EXCHANGE)


def test_a_replica_that_is_not_deployed_is_told_with_the_nearest(layout, tmp_path):
    with pytest.raises(UsageError, match="no replica named 'm-2'") as caught:
        known_replica(layout, "m-2")
    assert "did you mean" in caught.value.hint
    with pytest.raises(PreconditionError, match="nothing is deployed"):
        known_replica(Layout(tmp_path / "none", tmp_path), "m-0")


def test_the_gpus_of_a_replica_are_those_it_was_given(layout):
    assert gpus_of(layout, "m-0") == (0, 2)
    assert gpus_of(layout, "m-1") == ()


def test_only_the_faults_of_its_own_gpus_count_for_a_replica(layout):
    seen = [gpu(0), gpu(1, ROWS), gpu(2, ROWS)]
    assert [one.index for one, _ in gpu_faults(layout, "m-0", seen)] == [2]
    assert gpu_faults(layout, "m-1", seen) == []
    assert [one.index for one, _ in gpu_faults(layout, None, seen)] == [1, 2]


def test_a_lost_gpu_counts_for_each_replica_with_gpus_and_a_missing_number_too(layout):
    faults = gpu_faults(layout, "m-0", [gpu(0), gpu(-1, LOST)])
    assert [fault.remedy for _, fault in faults] == [Remedy.REBOOT, Remedy.REBOOT]
    assert "no GPU 2 any more" in faults[1][1].message
    assert gpu_faults(layout, "m-1", [gpu(-1, LOST)]) == []


def test_gpus_are_not_diagnosed_where_there_are_none(layout, monkeypatch):
    monkeypatch.setattr(troubles.gpu, "conditions", lambda _: (gpu(0), gpu(1), gpu(2, ROWS)))
    deployment = SimpleNamespace(platform=SimpleNamespace(target="local"), layout=layout)
    with pytest.raises(PreconditionError, match="uses no GPU"):
        list(troubles.diagnose_gpus(deployment, "m-1"))
    (outcome,) = troubles.diagnose_gpus(deployment, "m-0")
    assert outcome.data == {"gpus": "0, 2", "faults": "GPU 2 (0000:02:00.0): rows", "remedy": "exchange", "node": ""}


def test_the_emergency_stop_ends_what_carries_the_mark_and_nothing_else(tmp_path):
    from kivactl.tools.clock import Clock

    layout = Layout(tmp_path / "state", tmp_path / "cache")
    layout.run.mkdir(parents=True)
    command = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"]
    ours, others = (
        subprocess.Popen(command, env={**os.environ, STATE_VARIABLE: str(state)}, stdout=subprocess.PIPE) for state in (layout.state, tmp_path / "other")
    )
    try:
        for child in (ours, others):
            child.stdout.readline()
        outcomes = troubles.kill(SimpleNamespace(platform=SimpleNamespace(target="local"), layout=layout, clock=Clock(sleep=lambda _: ours.wait())))
        assert list(outcomes)[-1].data == {"processes": 1}
        assert ours.wait() < 0
        assert others.poll() is None
        assert not layout.run.exists()
    finally:
        for child in (ours, others):
            child.kill()
            child.wait()
            child.stdout.close()


def test_what_does_not_end_is_told(tmp_path, monkeypatch):
    from kivactl.tools.clock import Clock

    now = iter(range(1000))
    monkeypatch.setattr(troubles.leftovers, "marked", lambda *_: [2**22 + 1])
    deployment = SimpleNamespace(
        platform=SimpleNamespace(target="local"), layout=Layout(tmp_path, tmp_path), clock=Clock(lambda: float(next(now)), lambda _: None)
    )
    with pytest.raises(NotReadyError, match="do not end"):
        list(troubles.kill(deployment))

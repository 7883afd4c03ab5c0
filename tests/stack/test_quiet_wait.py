"""The plugin of vLLM that changes how its processes wait for each other."""

import importlib.metadata
from types import SimpleNamespace

import pytest

from kivactl.stack import quiet_wait

EVENTS = 15


class Condition:
    def __init__(self, is_reader, context, notify_address, busy_loop_s=1):
        self.seen = is_reader, context, notify_address, busy_loop_s
        self.done = []
        self.local_notify_socket = SimpleNamespace(getsockopt=self.done.append)

    def notify(self):
        self.done.append("notify")


class Renamed:
    def __init__(self, is_reader):
        pass

    def notify(self):
        pass


class Mute:
    def __init__(self, is_reader, busy_loop_s=1):
        pass


@pytest.fixture
def vllm(monkeypatch):
    """Gives what stands for vLLM: its platform, and its module with the condition."""
    platform = SimpleNamespace(is_cpu=lambda: True)
    broadcast = SimpleNamespace(SpinCondition=type("SpinCondition", (Condition,), {}))
    modules = {
        "vllm.platforms": SimpleNamespace(current_platform=platform),
        "vllm.distributed.device_communicators.shm_broadcast": broadcast,
        "zmq": SimpleNamespace(EVENTS=EVENTS),
    }
    monkeypatch.setattr(quiet_wait, "import_module", modules.__getitem__)
    return SimpleNamespace(platform=platform, broadcast=broadcast)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_on_cpus_a_reader_sleeps_at_once_and_no_notice_is_lost_however_often_vllm_asks(vllm, times):
    for _ in range(times):
        quiet_wait.register()
    by_name = vllm.broadcast.SpinCondition(is_reader=True, context="c", notify_address="a")
    assert by_name.seen == vllm.broadcast.SpinCondition(True, "c", "a").seen == (True, "c", "a", 0)
    by_name.notify()
    assert by_name.done == [EVENTS, "notify"]


def test_on_gpus_it_waits_as_vllm_does(vllm):
    vllm.platform.is_cpu = lambda: False
    quiet_wait.register()
    condition = vllm.broadcast.SpinCondition(True, "c", "a")
    condition.notify()
    assert (condition.seen, condition.done) == ((True, "c", "a", 1), ["notify"])


@pytest.mark.parametrize("condition", [None, Renamed, Mute])
def test_a_vllm_that_waits_otherwise_is_left_alone(vllm, condition):
    vars(vllm.broadcast).clear()
    if condition is not None:
        vllm.broadcast.SpinCondition = condition
    before = dict(vars(condition)) if condition is not None else {}
    quiet_wait.register()
    assert condition is None or dict(vars(condition)) == before
    assert vars(vllm.broadcast) == ({} if condition is None else {"SpinCondition": condition})


def test_vllm_finds_it():
    [plugin] = importlib.metadata.entry_points(group="vllm.general_plugins", name="kiva-quiet-wait")
    assert plugin.load() is quiet_wait.register

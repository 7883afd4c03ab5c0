"""Processes found by their environment, and what they hold."""

import os
import subprocess
import sys
from multiprocessing import shared_memory

import pytest

from kivactl.tools import leftovers


@pytest.fixture
def child():
    process = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(99)"],
        env={**os.environ, "KIVA_TEST": "mine"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_a_process_is_found_by_its_variable(child):
    assert leftovers.marked("KIVA_TEST", "mine") == [child.pid]
    assert leftovers.marked("KIVA_TEST", "min") == []
    assert leftovers.in_group(child.pid) == [child.pid]
    assert leftovers.memory_bytes("KIVA_TEST", "mine") > 2**20


def test_such_processes_are_ended(child):
    import threading

    threading.Thread(target=child.wait).start()  # or it would stay as a zombie
    assert leftovers.end_marked("KIVA_TEST", "mine") == 1
    assert leftovers.marked("KIVA_TEST", "mine") == []


def test_shared_memory_is_found_by_who_maps_it():
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        assert any(path.name == segment.name.lstrip("/") for path in leftovers.segments_of([os.getpid()]))
    finally:
        segment.close()
        segment.unlink()

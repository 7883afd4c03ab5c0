"""Processes found by their environment, or by what is left of them without, and what they hold."""

import os
import subprocess
import sys
import threading
from multiprocessing import shared_memory
from pathlib import Path

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


def test_a_process_whose_program_is_just_being_loaded_is_found(monkeypatch):
    for _ in range(300):  # most have loaded it before anybody looks
        with subprocess.Popen(["sleep", "600"], env={"KIVA_TEST": "new", "PATH": os.environ["PATH"]}) as child:
            with monkeypatch.context() as patched:
                patched.setattr(os, "listdir", lambda _, pid=child.pid: [str(pid)])  # the quickest look there is
                found = leftovers.marked("KIVA_TEST", "new")
            child.kill()
        assert found == [child.pid]


def test_such_processes_are_ended(child):
    threading.Thread(target=child.wait).start()  # or it would stay as a zombie
    assert leftovers.end_marked("KIVA_TEST", "mine") == 1
    assert leftovers.marked("KIVA_TEST", "mine") == []


TITLED = "import os, setproctitle, time; os.environ['KIVA_LAST'] = '2'; setproctitle.setproctitle('VLLM::EngineCore'); print(1, flush=True); time.sleep(99)"


@pytest.fixture
def start(tmp_path):
    """Start a child in a folder, wait for its first word, and end it after the test."""
    children = []

    def started(code, folder, environment):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        children.append(child)
        assert child.stdout.readline() == b"1\n"
        threading.Thread(target=child.wait, daemon=True).start()  # or it would stay as a zombie
        return child.pid

    yield started
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_process_that_wrote_its_title_over_its_environment_is_found_by_the_folder_it_works_in(start, tmp_path):
    mine, others = tmp_path / "mine", tmp_path / "mine" / "others"
    others.mkdir(parents=True)
    pids = {folder: start(TITLED, folder, {**os.environ, "KIVA_TEST": str(folder), "KIVA_LAST": "1"}) for folder in (mine, others)}
    for folder, pid in pids.items():
        left = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"KIVA_TEST" not in left
        assert b"KIVA_LAST=1" in left, "what the program had set anew stays, as in an engine core"
        assert leftovers.marked("KIVA_TEST", str(folder)) == [pid]
        assert leftovers.memory_bytes("KIVA_TEST", str(folder)) > 2**20
    assert leftovers.end_marked("KIVA_TEST", str(mine)) == 1
    assert leftovers.marked("KIVA_TEST", str(mine)) == []
    assert leftovers.marked("KIVA_TEST", str(others)) == [pids[others]]


def test_it_is_found_when_the_folder_is_gone_and_through_a_link(start, tmp_path):
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.mkdir()
    link.symlink_to(mine)
    pid = start(TITLED, mine, {**os.environ})
    assert leftovers.marked("KIVA_TEST", str(link)) == [pid]
    mine.rmdir()
    assert leftovers.marked("KIVA_TEST", str(mine)) == [pid]


def test_who_only_works_in_the_folder_is_none_of_ours(start, tmp_path):
    code = "import time; print(1, flush=True); time.sleep(99)"
    start(code, tmp_path, {**os.environ})
    start(code, tmp_path, {**os.environ, "KIVA_TEST": "another"})
    start(code, tmp_path, {})
    assert leftovers.marked("KIVA_TEST", str(tmp_path)) == []


def test_a_title_need_not_cost_the_environment(start, tmp_path):
    pid = start(TITLED, tmp_path, {**os.environ, **leftovers.KEEPS_ENVIRONMENT, "KIVA_TEST": "no folder"})
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"VLLM::EngineCore\0")
    assert leftovers.marked("KIVA_TEST", "no folder") == [pid]


def test_shared_memory_is_found_by_who_maps_it():
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        assert any(path.name == segment.name.lstrip("/") for path in leftovers.segments_of([os.getpid()]))
    finally:
        segment.close()
        segment.unlink()

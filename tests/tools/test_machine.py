from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.tools import machine
from kivactl.tools.machine import Gpu, MemoryLimit, ordered_cores, parse_gpus, parse_limit, parse_membership

GIB = 2**30

TWO = "0, GPU-5a0d6c1e-1111-2222-3333-444455556666, NVIDIA H200, 143771\n1, GPU-77fe0001-1111-2222-3333-444455556666, NVIDIA H200, 143771\n"
SHARED = "0, GPU-0f3c, NVIDIA GB10, [N/A]\n"
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n"


def test_gpus_are_parsed():
    assert parse_gpus(TWO) == (Gpu("NVIDIA H200", 143771 * 2**20, 0), Gpu("NVIDIA H200", 143771 * 2**20, 1))


@pytest.mark.parametrize(
    ("visible", "indexes"), [(None, [0, 1]), ("", []), ("1", [1]), ("1,0", [0, 1]), ("GPU-77fe", [1]), ("-1", []), ("7", []), (" 0 , ", [0])]
)
def test_only_visible_gpus_count(visible, indexes):
    assert [gpu.index for gpu in parse_gpus(TWO, visible)] == indexes


def test_memory_shared_with_the_processor_is_not_told():
    assert parse_gpus(SHARED) == (Gpu("NVIDIA GB10", 0, 0),)


@pytest.mark.parametrize("text", ["", NO_DRIVER, "No devices were found\n"])
def test_no_gpus(text):
    assert parse_gpus(text) == ()


def test_neighbouring_cores_share_a_core_then_a_socket():
    topology = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1), 4: (0, 0), 5: (0, 1), 6: (1, 0), 7: (1, 1)}
    assert ordered_cores(range(8), topology) == (0, 4, 1, 5, 2, 6, 3, 7)
    assert ordered_cores({5, 1, 6}, topology) == (1, 5, 6)


def test_cores_of_unknown_place_come_last_in_their_order():
    assert ordered_cores({3, 1, 2}, {}) == (1, 2, 3)
    assert ordered_cores({3, 1, 2}, {3: (0, 0)}) == (3, 1, 2)


@given(st.sets(st.integers(0, 500)), st.dictionaries(st.integers(0, 500), st.tuples(st.integers(0, 3), st.integers(0, 127))))
def test_no_core_is_lost(cores, topology):
    assert sorted(ordered_cores(cores, topology)) == sorted(cores)


@pytest.mark.parametrize(
    ("limit", "usage", "stat", "expected"),
    [
        ("max\n", "4096\n", "", None),
        ("9223372036854771712\n", "4096\n", "", None),
        ("", "", "", None),
        (f"{8 * GIB}\n", f"{3 * GIB}\n", f"anon 1\nfile 2\ninactive_file {GIB}\n", MemoryLimit(8 * GIB, 2 * GIB)),
        (f"{8 * GIB}\n", f"{3 * GIB}\n", f"inactive_file 5\ntotal_inactive_file {GIB}\n", MemoryLimit(8 * GIB, 2 * GIB)),
        (f"{8 * GIB}\n", "100\n", "inactive_file 200\n", MemoryLimit(8 * GIB, 0)),
        (f"{8 * GIB}\n", "", "", MemoryLimit(8 * GIB, 0)),
    ],
    ids=["v2 without", "v1 without", "no files", "v2", "v1", "more cache than use", "no usage"],
)
def test_memory_limits_are_parsed(limit, usage, stat, expected):
    assert parse_limit(limit, usage, stat) == expected


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("0::/user.slice/session-1.scope\n", [(2, "/user.slice/session-1.scope")]),
        ("9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/\n0::/\n", [(1, "/docker/abc"), (2, "/")]),
        ("7:hugetlb,memory:/x\n", [(1, "/x")]),
        ("", []),
    ],
)
def test_membership_is_parsed(text, groups):
    assert parse_membership(text) == groups


def _group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_limits_of_all_groups_above_hold(tmp_path):
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    _group(tmp_path / "fs", memory__current=1)
    _group(tmp_path / "fs/a", memory__max=4 * GIB, memory__current=GIB, memory__stat="inactive_file 0")
    _group(tmp_path / "fs/a/b", memory__max="max", memory__current=GIB)
    assert machine.memory_limits(tmp_path / "cgroup", tmp_path / "fs") == [MemoryLimit(4 * GIB, GIB)]


def test_in_a_container_the_top_is_our_group(tmp_path):
    (tmp_path / "cgroup").write_text("4:memory:/docker/0123\n0::/\n")
    _group(tmp_path / "fs/memory", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB, memory__stat=f"total_inactive_file {GIB // 2}")
    assert machine.memory_limits(tmp_path / "cgroup", tmp_path / "fs") == [MemoryLimit(2 * GIB, GIB // 2)]


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert machine.memory_limits(tmp_path / "nothing", tmp_path) == []


def test_this_machine_has_what_it_must():
    facts = machine.facts()
    assert set(facts.cores) == os.sched_getaffinity(0)
    assert 0 < facts.memory_available_bytes <= facts.memory_total_bytes


def test_the_limit_is_the_memory(monkeypatch):
    monkeypatch.setattr(machine, "memory_limits", lambda *_: [MemoryLimit(GIB, GIB // 4), MemoryLimit(2 * GIB, 2 * GIB - 5)])
    facts = machine.facts()
    assert (facts.memory_total_bytes, facts.memory_available_bytes) == (GIB, 5)


@pytest.mark.parametrize(("script", "count"), [(f"cat <<'E'\n{TWO}E", 2), (f'echo "{NO_DRIVER.strip()}"; exit 9', 0)], ids=["two", "no driver"])
def test_gpus_come_from_nvidia_smi(tmp_path, monkeypatch, script, count):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(machine.facts().gpus) == count


def test_disk_free_of_what_is_not_there_yet(tmp_path):
    assert machine.disk_free(tmp_path / "a" / "b") == pytest.approx(machine.disk_free(tmp_path), abs=2**30)


@pytest.fixture
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(("where", "exposed"), [("127.0.0.1", False), ("127.0.0.2", False), ("0.0.0.0", True)])
def test_a_port_beyond_the_loopback_interface_is_exposed(where, exposed):
    with socket.create_server((where, 0)) as server:
        assert machine.is_exposed(server.getsockname()[1]) is exposed


def test_a_port_on_which_nobody_listens_is_not_exposed():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        assert not machine.is_exposed(taken.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_taken_port_names_its_holder(listening, address):
    holder = machine.holder_of(address, listening)
    assert holder is not None
    assert f"(pid {os.getpid()}, user " in holder


def test_a_port_of_another_process():
    code = "import socket,sys; s=socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        port = int(child.stdout.readline())
        holder = machine.holder_of("127.0.0.1", port)
        child.stdin.close()
        child.wait()
        assert f"(pid {child.pid}, user " in holder
    assert machine.holder_of("127.0.0.1", port) is None


def test_a_holder_that_cannot_be_seen(listening, monkeypatch):
    monkeypatch.setattr("psutil.net_connections", lambda kind: [])
    assert machine.holder_of("127.0.0.1", listening) == "another process (not visible to you)"


def test_a_denied_look_at_other_processes(listening, monkeypatch):
    import psutil

    def denied(kind):
        raise psutil.AccessDenied

    monkeypatch.setattr("psutil.net_connections", denied)
    assert machine.holder_of("127.0.0.1", listening) == "another process (not visible to you)"


def test_an_address_of_another_machine():
    with pytest.raises(PreconditionError, match=r"'192\.0\.2\.7' is not an address of this machine"):
        machine.holder_of("192.0.2.7", 4000)


def test_a_name_that_stands_for_no_address(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PreconditionError, match="'nowhere' is not an address of this machine"):
        machine.holder_of("nowhere", 4000)


def test_a_privileged_port(monkeypatch):
    def denied(self, where):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)
    with pytest.raises(PreconditionError, match="no permission to listen on port 443"):
        machine.holder_of("127.0.0.1", 443)

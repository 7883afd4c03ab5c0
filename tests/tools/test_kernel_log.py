"""Whom the kernel killed for want of memory: its log and its counters as it writes them."""

from __future__ import annotations

import pytest

from kivactl.tools import kernel
from kivactl.tools.kernel import Kill, kills_counted, parse_count, parse_kills

LOG = """\
[    0.000000] Linux version 6.8.0-45-generic (buildd@lcy02) (gcc 13.2.0)
[ 8123.401233] VLLM::EngineCor invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
[ 8123.401901] oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/kiva,task_memcg=/kiva,task=VLLM::EngineCor,pid=4711,uid=1000
[ 8123.402050] Memory cgroup out of memory: Killed process 4711 (VLLM::EngineCor) total-vm:48121340kB, anon-rss:16012332kB, file-rss:10240kB, shmem-rss:0kB
[ 9000.000001] Out of memory: Killed process 815 (python3) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0
[ 9001.500000] Memory cgroup out of memory (oom_kill_allocating_task): Killed process 816 (a (b)) total-vm:1kB
[ 9002.000000] someone wrote: Out of memory: Killed process 1 (init) total-vm:1kB
"""
EVENTS = "low 0\nhigh 12\nmax 30\noom 3\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


def test_kills_are_read_with_their_reason():
    assert parse_kills(LOG.splitlines()) == [
        Kill(4711, "VLLM::EngineCor", in_group=True, up_s=8123.40205),
        Kill(815, "python3", in_group=False, up_s=9000.000001),
        Kill(816, "a (b", in_group=True, up_s=9001.5),
    ]


@pytest.mark.parametrize("text", ["", "dmesg: read kernel buffer failed: Operation not permitted", "[ x] Out of memory: Killed process 1 (a)"])
def test_nothing_is_read_out_of_other_words(text):
    assert parse_kills(text.splitlines()) == []


@pytest.mark.parametrize(("text", "count"), [(EVENTS, 2), (CONTROL, 5), ("", None), ("oom_kill x", None), ("oom_kill_disable 0", None)])
def test_counters_of_both_versions(text, count):
    assert parse_count(text) == count


def test_the_count_of_our_own_group_is_found_in_version_2(tmp_path):
    (tmp_path / "membership").write_text("0::/kiva.slice\n")
    (tmp_path / "kiva.slice").mkdir()
    (tmp_path / "kiva.slice" / "memory.events").write_text(EVENTS)
    assert kills_counted(tmp_path / "membership", tmp_path) == 2


def test_in_a_container_the_group_lies_at_the_root(tmp_path):
    (tmp_path / "membership").write_text("12:memory:/docker/4f2c\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.oom_control").write_text(CONTROL)
    assert kills_counted(tmp_path / "membership", tmp_path) == 5


def test_where_nothing_counts_there_is_no_number(tmp_path):
    assert kills_counted(tmp_path / "none", tmp_path) is None
    (tmp_path / "membership").write_text("0::/\n")
    assert kills_counted(tmp_path / "membership", tmp_path) is None


def test_without_dmesg_there_is_no_log(monkeypatch):
    monkeypatch.setattr(kernel.shutil, "which", lambda _: None)
    assert kernel.log() is None

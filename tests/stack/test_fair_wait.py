"""The plugin of vLLM that changes how its processes wait for each other."""

import importlib.metadata
import os
from types import SimpleNamespace

import pytest

from kivactl.stack import fair_wait


@pytest.mark.parametrize(
    ("release", "unfair"),
    [
        ("6.18.44-fc-v857", True),
        ("6.18", True),
        ("6.19.0-rc1", True),
        ("7.0.3", True),
        ("10.1-custom", True),
        ("6.17.9-generic", False),
        ("6.8.0-64-generic", False),
        ("5.14.0-570.el9.x86_64", False),
        ("custom", False),
        ("", False),
    ],
)
def test_which_kernels(release, unfair):
    assert fair_wait.yields_unfairly(release) is unfair


@pytest.mark.parametrize(("system", "release", "yields"), [("Linux", "6.18.1", False), ("Linux", "6.12.0", True), ("Darwin", "24.1.0", True)])
def test_vllm_yields_where_that_is_fair(monkeypatch, system, release, yields):
    vllm = SimpleNamespace(USE_SCHED_YIELD=True)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname=system, release=release))
    monkeypatch.setattr(fair_wait, "import_module", lambda name: {"vllm.distributed.utils": vllm}[name])
    fair_wait.register()
    fair_wait.register()
    assert vllm.USE_SCHED_YIELD is yields


def test_a_vllm_that_waits_otherwise_is_left_alone(monkeypatch):
    vllm = SimpleNamespace()
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname="Linux", release="6.18.1"))
    monkeypatch.setattr(fair_wait, "import_module", lambda _: vllm)
    fair_wait.register()
    assert vars(vllm) == {}


def test_vllm_finds_it():
    [plugin] = importlib.metadata.entry_points(group="vllm.general_plugins", name="kiva-fair-wait")
    assert plugin.load() is fair_wait.register

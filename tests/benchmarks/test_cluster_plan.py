"""The benchmark of a plan with nothing changed: it runs, and its figures are of what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from cluster_platform import helm_on_path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "cluster_plan.py"


@pytest.mark.real
@pytest.mark.alone
def test_it_measures_a_deploy_three_plans_and_helm(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("cluster_plan", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cluster_plan", module)  # where a dataclass looks for its annotations
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(module)
    helm_on_path(tmp_path, monkeypatch)
    found = module.measure(tmp_path, 2, 1)
    assert found.models == 2
    assert min(found.deploy_s, found.plan_s, found.plan_cpu_s, found.changed_plan_s, found.all_changed_plan_s, found.helm_s, found.helm_cpu_s) > 0
    assert found.ratio == found.plan_s / found.helm_s

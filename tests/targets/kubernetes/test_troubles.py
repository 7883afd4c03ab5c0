"""Pods that do not start or stay, each as the API shows it, and the one sentence that is to be said of it.

The files have the form of recorded objects. They are put together from the texts of Kubernetes, containerd and vLLM, not recorded from one cluster.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from kivactl.targets.kubernetes.creation import trouble_of_workload
from kivactl.targets.kubernetes.trouble import Cause, Logs, Where
from kivactl.targets.kubernetes.troubles import trouble_of
from kivactl.tools.kube_objects import Event

CASES = sorted((Path(__file__).parent / "troubles").glob("*.json"))
WHERE = Where("prod", "kiva")


def found(case):
    events = [Event(**{field.name: one[field.name] for field in fields(Event)}) for one in case["events"]]
    if "workload" in case:
        return trouble_of_workload(case["workload"], events, WHERE)
    logs = {name: Logs(tuple(lines.get("now", ())), tuple(lines.get("before", ()))) for name, lines in case["logs"].items()}
    return trouble_of(case["pod"], events, WHERE, logs)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_what_is_wrong_is_said_in_one_sentence(path):
    case = json.loads(path.read_text())
    trouble = found(case)
    if case["trouble"] is None:
        assert trouble is None
        return
    assert trouble is not None
    shown = {"cause": trouble.cause.value, "sentence": trouble.sentence, "hint": trouble.hint, "hopeless": trouble.hopeless}
    assert shown == case["trouble"]


def test_every_cause_has_a_case():
    named = {(json.loads(path.read_text())["trouble"] or {}).get("cause") for path in CASES}
    assert {cause.value for cause in Cause} <= named


def test_an_object_that_is_only_half_there_is_no_trouble():
    assert trouble_of({}, (), WHERE) is None
    assert trouble_of({"metadata": {"name": "x"}, "spec": None, "status": None}, (), WHERE) is None
    assert trouble_of_workload({}, (), WHERE) is None


def test_the_last_lines_come_along():
    case = json.loads((Path(__file__).parent / "troubles" / "crash-gpu-memory.json").read_text())
    trouble = found(case)
    assert trouble is not None
    assert any("CUDA out of memory" in line for line in trouble.details)

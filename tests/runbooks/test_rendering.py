"""The sheet that people read."""

from __future__ import annotations

import json

import pytest
from own_runbooks import spec

from kivactl.runbooks.binding import bind
from kivactl.runbooks.format import Objectives
from kivactl.runbooks.rendering import _OBJECTIVES, _WORDS, as_dict, plan_lines, role_text, sheet


def text_of(lines) -> str:
    return "\n".join(line for line, _ in lines)


def test_the_sheet_of_a_drill_says_everything_in_german():
    text = text_of(sheet(bind("failover-killed"), {"operator": "Team A, 4711"}, "de"))
    for part in (
        "verantwortlich für die Durchführung: Betrieb (Team A, 4711)",
        "--set users=INTEGER",
        "Vorgabe 8, mindestens 1, höchstens 1000",
        "Voraussetzungen",
        "  !  1. Replikat gewaltsam beenden  [kill]",
        "führt aus: replica.kill (replica: <replica>)",
        "rückgängig: replica.repair (replica: <replica>)",
        "6-mal in Folge",
        "vor dem ersten Token verlorene Anfragen: ≤ 0",
        "Eskalation",
    ):
        assert part in text


def test_an_approval_stands_on_the_sheet_and_in_the_plan():
    approved = [name for name in ("disk-full", "key-rotation", "emergency-stop", "gpu-fault", "node-maintenance") if bind(name).runbook.approval]
    for name in approved:
        bound = bind(name)
        assert "Approval by a second person" in text_of(sheet(bound, {}, "en"))
        assert "Approval by a second person" in text_of(plan_lines(bound, bound.steps, (), {}, "en"))


def test_the_plan_marks_what_takes_something_away_and_says_who_is_told():
    bound = bind("stop", None, {})
    lines = list(plan_lines(bound, bound.steps, ("be quick",), {"service-desk": "4711"}, "en"))
    assert text_of(lines).splitlines() == [
        "Stop the platform (stop)",
        "  !  1. Finish requests, stop engines and gateway  [processes]",
        "        destructive: takes something away",
        "        users notice: no answers until the platform is started again",
        "     2. Check that no process and no port is left  [nothing-left]",
        "  informed: Service desk (4711)",
        "  be quick",
        "steps: 2, destructive: 1",
    ]
    assert lines[-1][1] == "red"


def test_a_plan_from_a_later_step_keeps_the_numbers():
    bound = bind("stop", None, {})
    text = text_of(plan_lines(bound, bound.starting_from("nothing-left"), (), {}, "de"))
    assert "   2. Prüfen" in text
    assert text.endswith("Schritte: 1, davon einschneidend: 0")


def test_every_word_and_objective_has_two_languages():
    assert set(_OBJECTIVES) == set(Objectives.model_fields)
    assert all(len(pair) == 2 and all(pair) for pair in (*_WORDS.values(), *_OBJECTIVES.values()))


@pytest.mark.parametrize(("role", "called"), [("controller", "Controlling"), ("auditor", "auditor (Revision)")])
def test_a_role_is_called_by_its_name(role, called, tmp_path):
    assert role_text(role, spec(tmp_path).platform.runbooks.contacts, "de") == called


def test_as_data_it_has_what_actions_mean():
    data = as_dict(bind("stop", None, {}), {})
    assert json.loads(json.dumps(data))["steps"][0] | {"destructive": True, "repeatable": True} == data["steps"][0]
    assert data["title"]["de"] == "Plattform stoppen"

"""Runs from the command line: confirmed, answered, approved, interrupted, resumed, reported, verified."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from own_runbooks import SPEC, written

from kivactl import root
from kivactl.errors import PreconditionError

TRUE, FALSE, SLEEP, TEST, TOUCH, RM = (Path(shutil.which(name)).resolve() for name in ("true", "false", "sleep", "test", "touch", "rm"))
HEAD = """title: {en: Mine, de: Meins}
purpose: {en: Tries., de: Probiert.}
roles: {responsible: [operator], accountable: platform-lead, informed: [service-desk]}
"""


def step(name: str, program: Path, *args: str, more: str = "") -> str:
    params = f"{{program: {program}, args: {json.dumps(args)}, repeatable: true}}"
    return f"  - {{name: {name}, title: {{en: {name.title()}, de: {name.title()}!}}, action: command, params: {params}{more}}}\n"


ASK = "  - {name: sure, title: {en: Sure, de: Sicher}, ask: {en: Is it?, de: Ist es so?}}\n"
PLAIN = f"{HEAD}steps:\n{step('one', TRUE)}{ASK}{step('two', TRUE)}"


@pytest.fixture
def platform(tmp_path):
    approved = ", ".join(map(str, {TRUE, FALSE, SLEEP, TEST, TOUCH, RM}))
    (tmp_path / "kiva.yaml").write_text(SPEC.replace("runbooks: {", f"runbooks: {{commands: [{approved}], "))
    return tmp_path


def test_a_run_from_its_plan_to_its_evidence(kivactl, platform):
    written(platform, PLAIN, "mine")
    planned = kivactl("runbook", "mine", "--plan", "--lang", "de")
    assert (planned.code, planned.stderr) == (0, "")
    assert planned.stdout.splitlines()[0] == "Meins (mine)"
    assert planned.stdout.splitlines()[-1] == "Schritte: 3, davon einschneidend: 0"
    assert json.loads(kivactl("runbook", "mine", "--plan", "-o", "json").stdout)["title"] == "Mine"
    assert not (platform / ".kiva/runs").exists()

    seen = kivactl("runbook", "mine", "--yes", "--answer", "sure=yes", "--as", "Zoë")
    assert seen.code == 0
    run = seen.stdout.partition(":")[0]
    assert seen.stdout == f"{run}: passed\nevidence: {platform}/.kiva/runs/{run}\n"
    assert "✔ two" in seen.stderr.lower()

    (facts,) = json.loads(kivactl("runbook", "history", "-o", "json").stdout)["runs"]
    assert (facts["run"], facts["operator"], facts["verdict"], [one["state"] for one in facts["steps"]]) == (run, "Zoë", "passed", ["done"] * 3)
    assert kivactl("runbook", "history", "other").stdout.count("\n") == 1
    assert kivactl("runbook", "history").stdout.splitlines()[1].split()[0] == run


def test_report_in_both_languages_and_forms(kivactl, platform):
    written(platform, PLAIN, "mine")
    kivactl("runbook", "mine", "--yes", "--answer", "sure=yes")
    english, german = kivactl("runbook", "report", "latest").stdout, kivactl("runbook", "report", "mine", "--lang", "de").stdout
    assert "Mine" in english
    assert "Meins" in german
    told = kivactl("runbook", "report", "latest", "--format", "html", "--to", "out.html")
    assert (told.code, told.stdout) == (0, "wrote out.html\n")
    assert (platform / "out.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert json.loads(kivactl("runbook", "report", "latest", "-o", "json").stdout)["format"] == "md"


def test_a_run_that_has_not_ended_has_a_report_that_says_so(kivactl, platform):
    path = written(platform, PLAIN, "mine")
    kivactl("runbook", "mine", "--yes")
    path.unlink()
    seen = kivactl("runbook", "report", "latest")
    assert seen.code == 0
    assert "has not ended (waiting for an answer): nothing of this is signed" in seen.stderr
    assert "Mine" in seen.stdout
    assert kivactl("runbook", "verify", "latest").code == 6


def test_one_run_cannot_stand_for_another(kivactl, platform):
    written(platform, PLAIN, "mine")
    kivactl("runbook", "mine", "--yes", "--answer", "sure=yes")
    (folder,) = (platform / ".kiva/runs").glob("mine-*")
    folder.rename(folder.with_name("mine-20200101T000000Z-1"))
    assert kivactl("runbook", "verify", "mine-2020").code == 6


def test_evidence_is_verified_here_and_as_a_copy_elsewhere(kivactl, platform, tmp_path_factory):
    written(platform, PLAIN, "mine")
    kivactl("runbook", "mine", "--yes", "--answer", "sure=yes")
    here = kivactl("runbook", "verify", "latest")
    assert (here.code, "genuine" in here.stdout) == (0, True), here
    (folder,) = (platform / ".kiva/runs").glob("mine-*")
    elsewhere = tmp_path_factory.mktemp("auditor")
    copy, key = shutil.copytree(folder, elsewhere / folder.name), shutil.copy(platform / ".kiva/evidence/trusted.pem", elsewhere / "key.pem")
    shutil.rmtree(platform / ".kiva")
    (platform / "kiva.yaml").unlink()
    assert kivactl("runbook", "verify", str(copy), "--trust", str(key)).code == 0
    unsaid = kivactl("runbook", "verify", str(copy))
    assert unsaid.code == 6
    journal = copy / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"yes"', b'"no!"'))
    changed = kivactl("runbook", "verify", str(copy), "--trust", str(key), "-o", "json")
    assert (changed.code, json.loads(changed.stdout)["genuine"]) == (6, False)
    assert any(finding["path"] == "journal.jsonl" for finding in json.loads(changed.stdout)["findings"])


def test_a_question_without_a_person_waits_for_its_answer(kivactl, platform):
    written(platform, PLAIN, "mine")
    seen = kivactl("runbook", "mine", "--yes")
    assert seen.code == 3
    run = json.loads(kivactl("runbook", "history", "-o", "json").stdout)["runs"][0]
    assert run["state"] == "waiting for an answer"
    assert f"hint: kivactl runbook resume {run['run']} --answer sure=yes\n" in seen.stderr
    assert kivactl("runbook", "resume", run["run"][:8], "--answer", "one=yes").code == 2
    resumed = kivactl("runbook", "resume", "latest", "--answer", "sure=yes", "-o", "json")
    facts = json.loads(resumed.stdout)
    assert (resumed.code, facts["verdict"], facts["resumed"], [one["attempts"] for one in facts["steps"]]) == (0, "passed", 1, [1, 0, 1])
    again = kivactl("runbook", "resume", "latest")
    assert (again.code, "is done (passed)" in again.stderr) == (3, True)


def test_a_no_fails_the_step(kivactl, platform):
    written(platform, PLAIN, "mine")
    seen = kivactl("runbook", "mine", "--yes", "--answer", "sure=no")
    assert seen.code not in {0, 1}
    assert json.loads(kivactl("runbook", "history", "-o", "json").stdout)["runs"][0]["verdict"] == "failed"


def test_destructive_steps_need_the_platforms_name(kivactl, platform):
    destructive = PLAIN.replace("repeatable: true", "repeatable: true, destructive: true", 1)
    written(platform, destructive, "mine")
    seen = kivactl("runbook", "mine")
    assert (seen.code, seen.stdout) == (2, "")
    assert "needs its name typed, and there is no terminal to ask\nhint: add --yes\n" in seen.stderr
    assert "  !  1. One  [one]" in seen.stderr
    assert not (platform / ".kiva/runs").exists()


def test_one_that_only_looks_is_not_confirmed(kivactl, platform):
    written(platform, PLAIN.replace("steps:", "confirm: never\nsteps:").replace(ASK, ""), "mine")
    assert kivactl("runbook", "mine").code == 0


def test_a_failed_step_is_undone_told_and_resumed(kivactl, platform):
    mark = platform / "mark"
    undo = f", undo: {{action: command, params: {{program: {RM}, args: [{mark}]}}}}"
    written(platform, f"{HEAD}steps:\n{step('one', TOUCH, str(mark), more=undo)}{step('two', TEST, '-e', str(platform / 'cured'))}", "mine")
    seen = kivactl("runbook", "mine", "--yes")
    run = json.loads(kivactl("runbook", "history", "-o", "json").stdout)["runs"][0]["run"]
    assert (seen.code, seen.stdout, mark.exists()) == (4, "", False)
    assert f"kivactl runbook resume {run}" in seen.stderr
    (platform / "cured").touch()
    assert kivactl("runbook", "resume", run).code == 0
    assert mark.exists(), "what was undone is done again"


def test_resume_is_refused_when_the_runbook_was_edited(kivactl, platform):
    path = written(platform, PLAIN, "mine")
    kivactl("runbook", "mine", "--yes")
    path.write_text(PLAIN + "nonsense: [\n")
    seen = kivactl("runbook", "resume", "latest", "--answer", "sure=yes")
    assert seen.code == 3
    assert "was edited since the run" in seen.stderr


def test_a_second_person_approves(kivactl, platform):
    written(platform, PLAIN.replace(ASK, "").replace("steps:", "approval: {by: [platform-lead], within: 1ms}\nsteps:"), "mine")
    seen = kivactl("runbook", "mine", "--yes", "--as", "Ada")
    assert seen.code == 3
    assert "kivactl runbook approve" in seen.stderr
    assert "Approval by a second person: Platform lead" in seen.stderr
    own = kivactl("runbook", "approve", "latest", "--as", " ADA ", "--yes")
    assert (own.code, "four eyes" in own.stderr) == (3, True)
    assert kivactl("runbook", "approve", "latest", "--as", "Bo", "--role", "operator", "--yes").code == 2
    assert kivactl("runbook", "approve", "latest", "--as", "Bo").code == 2, "nobody to ask"
    agreed = kivactl("runbook", "approve", "latest", "--as", "Bo", "--yes", "-o", "json")
    assert (agreed.code, json.loads(agreed.stdout)["approved_by"]) == (0, "Bo")
    facts = json.loads(kivactl("runbook", "resume", "latest", "-o", "json").stdout)
    assert (facts["verdict"], [(one["by"], one["role"]) for one in facts["approvals"]]) == ("passed", [("Bo", "platform-lead")])


def test_a_missed_check_ends_with_six_and_says_why(kivactl, platform):
    after = f"steady_state: {{after: [{{title: {{en: Good, de: Gut}}, probe: command.exit-code, params: {{program: {FALSE}}}, tolerance: {{equals: 0}}}}]}}\n"
    written(platform, PLAIN.replace(ASK, "").replace("steps:", f"{after}steps:"), "mine")
    seen = kivactl("runbook", "mine", "--yes")
    assert seen.code == 6
    assert "objectives missed: Good: 1, not = 0" in seen.stdout
    for_programs = kivactl("runbook", "mine", "--yes", "-o", "json")
    assert (for_programs.code, json.loads(for_programs.stdout)["verdict"]) == (6, "objectives missed")


def test_from_a_later_step(kivactl, platform):
    written(platform, PLAIN, "mine")
    facts = json.loads(kivactl("runbook", "mine", "--yes", "--from", "two", "-o", "json").stdout)
    assert [one["state"] for one in facts["steps"]] == ["skipped", "skipped", "done"]


def test_an_interrupt_says_how_to_go_on(platform):
    written(platform, f"{HEAD}steps:\n{step('one', SLEEP, '600')}", "mine")
    argv = [sys.executable, "-m", "kivactl", "runbook", "mine", "--yes"]
    with subprocess.Popen(argv, cwd=platform, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if line.startswith("… sleep"):
                break
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
        child.wait(timeout=60)
    assert child.returncode == 130, rest
    assert "was interrupted\nhint: kivactl runbook resume mine-" in rest


def test_where_there_is_no_spec_it_is_taken_out_of_the_backup(kivactl, platform, tmp_path, monkeypatch):
    import types

    text = (platform / "kiva.yaml").read_text()
    (platform / "kiva.yaml").unlink()
    written(platform, PLAIN.replace(ASK, "").replace("steps:", "spec: recovered\nsteps:"), "mine")
    written(platform, PLAIN, "other")
    content = root.content
    monkeypatch.setattr(root, "content", lambda folder: tmp_path / "runbooks" if folder == "runbooks" else content(folder))
    taken = []

    def recover_spec(folder, parameters, _):
        taken.append((folder, dict(parameters)))
        (folder / "kiva.yaml").write_text(text)
        return folder / "kiva.yaml"

    monkeypatch.setitem(sys.modules, "kivactl.flows.restore", types.SimpleNamespace(recover_spec=recover_spec))
    assert kivactl("runbook", "other", "--yes").code == 2
    assert kivactl("runbook", "mine", "--plan").code == 0
    assert kivactl("runbook", "mine").code == 2, "nobody to ask"
    assert taken == []
    seen = kivactl("runbook", "mine", "--yes")
    assert (seen.code, taken) == (0, [(tmp_path, {})]), seen
    assert f"{tmp_path}/kiva.yaml was taken out of the backup" in seen.stderr


def test_a_backup_that_is_not_there_is_told(kivactl, tmp_path, monkeypatch):
    import types

    def refuse(folder, parameters, _):
        raise PreconditionError("there is no backup", "kivactl backup list")

    written(tmp_path, PLAIN.replace("steps:", "spec: recovered\nsteps:"), "mine")
    content = root.content
    monkeypatch.setattr(root, "content", lambda folder: tmp_path / "runbooks" if folder == "runbooks" else content(folder))
    monkeypatch.setitem(sys.modules, "kivactl.flows.restore", types.SimpleNamespace(recover_spec=refuse))
    seen = kivactl("runbook", "mine", "--yes")
    assert (seen.code, seen.stderr) == (3, "error: there is no backup\nhint: kivactl backup list\n")

"""One's own programs: approved, without a shell, without kivactl's environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from own_runbooks import SPEC, faults_in, spec, written

from kivactl.errors import PreconditionError, ToolError
from kivactl.flows.deployment import Deployment
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.binding import bind_file
from kivactl.spec.load import paths
from kivactl.stack.layout import Layout

BOOK = """
title: {{en: Own, de: Eigenes}}
purpose: {{en: Runs a program., de: Startet ein Programm.}}
roles: {{responsible: [operator], accountable: platform-lead}}
steps:
  - name: own
    title: {{en: Run it, de: Starten}}
    action: command
    params: {{program: {program}{more}}}
"""


@pytest.fixture
def program(tmp_path_factory) -> Path:
    """A program that only its owner may change, where nobody else can put another one."""
    path = tmp_path_factory.mktemp("bin") / "own"
    path.write_text('#!/bin/sh\nfor word in "$@"; do echo "[$word]"; done\n[ -n "$CODE" ] && exit "$CODE"\nexit 0\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def site(tmp_path, program) -> Site:
    return site_for(tmp_path, program)


def site_for(folder: Path, *programs: Path) -> Site:
    approved = ", ".join(map(str, programs))
    loaded = spec(folder, SPEC.replace("runbooks: {", f"runbooks: {{commands: [{approved}], "))
    return Site(Deployment(loaded, Layout(*paths(loaded)), lambda: loaded), folder / "run", "own-1")


def run(site, program, **more):
    action = ACTIONS["command"]
    return list(action.act(site, action.params(program=str(program), **more)))


def test_no_shell_reads_the_arguments(site, program, tmp_path):
    words = ("$(touch gone)", "a b", "; touch gone", "*", "--", "")
    *_, last = run(site, program, args=words)
    assert last.data["lines"] == [f"[{word}]" for word in words]
    assert last.data["result"] == {"output": "[]", "exit_code": 0}
    assert not (tmp_path / "gone").exists()


def test_it_gets_a_small_environment(site, tmp_path_factory, monkeypatch):
    env = Path("/usr/bin/env").resolve()
    monkeypatch.setenv("KIVA_BACKUP_PASSWORD", "correct-horse")
    site = site_for(tmp_path_factory.mktemp("other"), env)
    lines = run(site, env, environment={"MINE": "1"})[-1].data["lines"]
    names = {line.partition("=")[0] for line in lines}
    assert {"KIVA_PLATFORM", "KIVA_RUN", "MINE"} <= names
    assert "KIVA_BACKUP_PASSWORD" not in names


def test_what_looks_like_a_secret_is_not_kept(site, program):
    outcomes = run(site, program, args=("password=correct-horse",))
    assert not any("correct-horse" in str(outcome.as_dict()) for outcome in outcomes)


def test_an_exit_code_that_means_failure(site, program):
    with pytest.raises(ToolError) as caught:
        run(site, program, args=("why",), environment={"CODE": "3"})
    assert "[why]" in caught.value.details
    assert run(site, program, environment={"CODE": "3"}, exit_codes=(0, 3))[-1].data["result"]["exit_code"] == 3


def test_one_that_does_not_end_is_ended(site):
    sleep = Path("/bin/sleep").resolve()
    with pytest.raises(ToolError):
        run(site_for(site.folder.parent, sleep), sleep, args=("600",), timeout="50ms")


def test_approval_is_looked_at_again_when_it_runs(site, program):
    program.chmod(0o777)
    with pytest.raises(PreconditionError, match="can be changed by others"):
        run(site, program)
    program.unlink()
    with pytest.raises(PreconditionError, match="cannot be looked at"):
        run(site, program)
    with pytest.raises(PreconditionError, match=r"not among `runbooks\.commands`"):
        run(site, "/bin/true")


def test_a_text_that_is_no_program(site, tmp_path_factory):
    broken = tmp_path_factory.mktemp("bin") / "broken"
    broken.write_bytes(b"\x7fELF nothing")
    broken.chmod(0o755)
    with pytest.raises(ToolError):
        run(site_for(site.folder.parent, broken), broken)


def test_probes(site, program):
    code, output = PROBES["command.exit-code"], PROBES["command.output"]
    assert code.read(site, code.params(program=str(program), environment={"CODE": "4"})) == 4
    assert output.read(site, output.params(program=str(program), args=("x",))) == "[x]"
    with pytest.raises(ToolError):
        output.read(site, output.params(program=str(program), environment={"CODE": "4"}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", ""),
        (", environment: {LD_PRELOAD: /x.so}", "'LD_PRELOAD' could make the program run another one"),
        (", environment: {PATH: /x}", "'PATH' could make"),
        (", environment: {'a b': x}", "must match"),
        (", args: just-text", "steps[0].params.args"),
        (", exit_codes: []", "steps[0].params.exit_codes"),
        (", shell: true", "unknown key 'shell'"),
    ],
)
def test_faults_are_told_at_binding(site, program, tmp_path, more, said):
    found = faults_in(written(tmp_path, BOOK.format(program=program, more=more)), site.deployment.loaded)
    assert said in found
    assert bool(found) == bool(said), found


def test_an_unapproved_program_gets_the_nearest(site, program, tmp_path):
    found = faults_in(written(tmp_path, BOOK.format(program=f"{program}s", more="")), site.deployment.loaded)
    assert f"did you mean '{program}'?" in found


def test_a_program_behind_a_folder_that_others_may_change(site, program, tmp_path):
    program.parent.chmod(0o777)
    assert "could be replaced by others" in faults_in(written(tmp_path, BOOK.format(program=program, more="")), site.deployment.loaded)


def test_a_program_of_someone_else(site, program, tmp_path, monkeypatch):
    real, given_away = Path.stat, program.resolve()

    def stat(self, **options):
        found = real(self, **options)
        return os.stat_result((*found[:4], 12345, *found[5:10])) if self == given_away else found

    monkeypatch.setattr(Path, "stat", stat)
    assert "belongs to someone else" in faults_in(written(tmp_path, BOOK.format(program=program, more="")), site.deployment.loaded)


def test_it_says_itself_whether_it_may_be_repeated_and_what_it_takes_away(site, program, tmp_path):
    def step(more):
        return bind_file(written(tmp_path, BOOK.format(program=program, more=more)), site.deployment.loaded).steps[0]

    assert (step("").do.action.repeatable, step("").destructive) == (False, False)
    both = step(", repeatable: true, destructive: true")
    assert (both.do.action.repeatable, both.destructive) == (True, True)
    assert (ACTIONS["command"].repeatable, ACTIONS["command"].destructive) == (False, False)

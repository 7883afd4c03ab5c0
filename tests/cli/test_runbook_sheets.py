"""What `kivactl runbook list`, `show` and `check` say, what the shell offers, and how a run is confirmed."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from own_runbooks import GOOD, SPEC, written

from kivactl import root
from kivactl.cli.output import Mode, Sink
from kivactl.cli.runbook_group import assigned
from kivactl.cli.runbook_running import answers_of
from kivactl.cli.runbook_sheets import summary_lines
from kivactl.errors import UsageError
from kivactl.plan import Outcome, Status
from kivactl.runbooks.binding import bind
from kivactl.runbooks.format import Objectives
from kivactl.runbooks.record import Person, Record, State, Verdict


@pytest.fixture
def platform(tmp_path):
    (tmp_path / "kiva.yaml").write_text(SPEC)
    return tmp_path


def test_list_says_which_are_ones_own(kivactl, platform):
    written(platform, GOOD)
    seen = kivactl("runbook", "list", "--lang", "de")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in seen.stdout.splitlines()[1:]}
    assert (seen.code, seen.stderr) == (0, "")
    assert rows["greet"].split() == ["own", "Grüßen"]
    assert rows["stop"] == "Plattform stoppen"
    listed = {row["name"]: row for row in json.loads(kivactl("runbook", "list", "-o", "json").stdout)["runbooks"]}
    assert (listed["greet"]["shipped"], listed["stop"]["shipped"], listed["greet"]["title"]) == (False, True, "Greet")


def test_list_and_show_work_without_a_spec_and_with_a_broken_one(kivactl, tmp_path):
    assert kivactl("runbook", "list").code == kivactl("runbook", "show", "stop").code == 0
    (tmp_path / "kiva.yaml").write_text("{")
    seen = kivactl("runbook", "show", "emergency-stop")
    assert seen.code == 0
    assert seen.stderr.startswith("warning: ")
    assert "shown are only the runbooks that come with kivactl" in seen.stderr


def test_show_in_german_and_for_programs(kivactl, platform):
    seen = kivactl("runbook", "show", "stop", "--lang", "de")
    assert (seen.code, seen.stderr) == (0, "")
    assert seen.stdout.startswith("Plattform stoppen (stop)\n")
    assert "Betrieb (Team A)" in seen.stdout
    data = json.loads(kivactl("runbook", "show", "stop", "-o", "json").stdout)
    assert (data["name"], data["steps"][0]["destructive"], data["contacts"]["operator"]) == ("stop", True, "Team A")


def test_check_tells_every_fault(kivactl, platform):
    path = written(platform, GOOD.replace("platform.answer", "platform.anwser").replace("30s", "30"))
    seen = kivactl("runbook", "check", str(path))
    assert (seen.code, seen.stdout) == (2, "")
    assert seen.stderr.splitlines()[0] == f"error: the runbook {path} has 2 faults"
    assert "  greet.yaml:8: steps[0].action: there is no action 'platform.anwser'; did you mean 'platform.answer'?" in seen.stderr.splitlines()
    assert len(json.loads(kivactl("runbook", "check", str(path), "-o", "json").stdout)["error"]["details"]) == 2


def test_check_by_file_and_by_name(kivactl, platform):
    path = written(platform, GOOD)
    assert kivactl("runbook", "check", "runbooks/greet.yaml").stdout.endswith("greet.yaml: no faults (steps: 1)\n")
    assert kivactl("runbook", "check", "greet").stdout == f"{path}: no faults (steps: 1)\n"
    assert kivactl("runbook", "check", "stop").stdout.endswith("stop.yaml: no faults (steps: 2, destructive)\n")
    assert json.loads(kivactl("runbook", "check", "greet", "-o", "json").stdout)["steps"] == 1
    assert kivactl("runbook", "check", "absent.yaml").code == 2
    (platform / "kiva.yaml").unlink()
    assert "names of models, tenants and roles are not checked" in kivactl("runbook", "check", "stop").stderr


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (("strat",), "there is no runbook named 'strat'", "kivactl runbook start"),
        (("histroy",), "there is no runbook named 'histroy'", "kivactl runbook history"),
        (("show", "strat"), "there is no runbook named 'strat'", "kivactl runbook start"),
        (("start", "--set", "model"), "'--set model' is not of the form NAME=VALUE", "for instance --set model=smollm2"),
        (("start", "--set", "a=1", "--set", "a=2"), "the parameter 'a' is set twice", ""),
        (("start", "--set", "a=1"), "the runbook 'start' was given a parameter that does not fit", "kivactl runbook show start"),
        (("scale",), "the runbook 'scale' was given ", "--set"),
        (("start", "--from", "answr"), "the runbook 'start' has no step 'answr'", "did you mean --from answer?"),
        (("start", "--answer", "answer=yes"), "the step 'answer' asks nothing", "no step of it asks anything"),
        (("start", "--answer", "maybe"), "'--answer maybe' is not of the form STEP=yes or STEP=no", ""),
        (("start", "--answer", "answr=yes"), "--answer: there is no step 'answr'", "did you mean 'answer'?"),
        (("start", "--lang", "fr"), "", "--help"),
        (("resume", "nothing"), "there is no run named 'nothing'", "kivactl runbook history"),
        (("approve", "latest"), "no runbook has been run here yet", "kivactl runbook list"),
        (("report", "x"), "there is no run named 'x'", "kivactl runbook history"),
        (("verify", "x"), "there is no run named 'x'", "kivactl runbook history"),
    ],
)
def test_wrong_words(kivactl, platform, words, error, hint):
    seen = kivactl("runbook", *words)
    assert (seen.code, seen.stdout) == (2, "")
    assert error in seen.stderr
    assert hint in seen.stderr
    assert not (platform / ".kiva").exists(), "nothing was begun"


def test_a_runbook_that_needs_a_spec_says_so(kivactl):
    seen = kivactl("runbook", "start", "--yes")
    assert seen.code == 2
    assert "there is no kiva.yaml" in seen.stderr


def test_history_of_nothing(kivactl, platform):
    assert kivactl("runbook", "history").stdout == "RUN  BEGAN (UTC)  TOOK  BY  END\n"
    assert json.loads(kivactl("runbook", "history", "-o", "json").stdout) == {"runs": []}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kivactl runbook st", {"start", "status-check", "stop"}),
        ("kivactl runbook show gre", {"greet"}),
        ("kivactl runbook restart --set ", {"model=", "replica="}),
        ("kivactl runbook restart --set model=", {"model=m"}),
        ("kivactl runbook run restart --set replica=", {"replica=m-0", "replica=m-1"}),
        ("kivactl runbook start --from an", {"answer"}),
        ("kivactl runbook report ", set()),
        ("kivactl runbook report latest --lang ", {"en", "de"}),
    ],
)
def test_bash_completes(completed, platform, words, offered):
    written(platform, GOOD)
    seen = completed(words)
    assert (set(seen.stdout.split()), seen.stderr) == (offered, "")


def test_every_shipped_runbook_is_offered(completed, platform):
    seen = completed("kivactl runbook ")
    assert {path.stem for path in root.content("runbooks").glob("*.yaml")} <= set(seen.stdout.split())


def test_what_was_measured_stands_against_what_was_allowed():
    person, now = Person("Ada", "ada", "here"), datetime(2026, 1, 1, tzinfo=UTC)
    measured = {"degraded": 90.0, "lost_requests": 0, "error_ratio": 0.25, "recovery": 3.0}
    record = Record("mine-1", "mine", "kiva", person, "en", now, now, State.DONE, Verdict.MISSED, "too long", {}, "", "", "", (), (), (), measured, 0)
    limits = Objectives(degraded="1m", lost_requests=0, error_ratio=0.5).limits
    assert list(summary_lines(record, limits, "/runs/mine-1")) == [
        ("mine-1: objectives missed: too long", "yellow"),
        ("  degraded: 1m30s, allowed 1m", "red"),
        ("  error ratio: 25.00%, allowed 50.00%", "green"),
        ("  lost requests: 0, allowed 0", "green"),
        ("  recovery: 3s", ""),
        ("evidence: /runs/mine-1", "dim"),
    ]


def test_answers():
    steps = bind("token-revocation").steps
    assert answers_of(["successors=yes", "assessed=Nein", "successors=ja"], steps) == {"successors": "yes", "assessed": "no"}
    with pytest.raises(UsageError, match="with yes and with no"):
        answers_of(["assessed=yes", "assessed=no"], steps)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def sink(typed: str, mode: Mode = Mode.HUMAN, *, terminal: bool = True) -> tuple[Sink, io.StringIO]:
    err = Terminal()
    return Sink(mode, out=io.StringIO(), err=err, stdin=(Terminal if terminal else io.StringIO)(typed)), err


@pytest.mark.parametrize(("typed", "goes_on"), [("kiva\n", True), ("  kiva \n", True), ("yes\n", False), ("Kiva\n", False), ("\n", False), ("", False)])
def test_only_who_types_the_name_goes_on(typed, goes_on):
    asking, err = sink(typed)
    assert asking.confirm_by_name("kiva", "This runs 'stop' on") is goes_on
    assert err.getvalue() == "This runs 'stop' on 'kiva'. Type its name to go on: "
    assert asking.confirm_by_name("kiva", "x", assume_yes=True)


@pytest.mark.parametrize(("mode", "terminal"), [(Mode.JSON, True), (Mode.HUMAN, False)])
def test_without_a_person_nothing_is_confirmed(mode, terminal):
    asking, _ = sink("kiva\n", mode, terminal=terminal)
    assert not asking.asks
    with pytest.raises(UsageError) as caught:
        asking.confirm_by_name("kiva", "This runs 'stop' on")
    assert caught.value.hint == "add --yes"


@pytest.mark.parametrize(("typed", "answer"), [("y\n", True), ("ja\n", True), ("what?\n\nno\n", False)])
def test_a_question_in_the_middle_of_a_run_is_asked_until_it_is_answered(typed, answer):
    asking, err = sink(typed)
    given = []

    def flow():
        yield Outcome("look", Status.STARTED, "looking")
        given.append(asking.ask("Look", "Is it green?"))
        yield Outcome("look", Status.DONE, "seen")

    asking.outcomes(flow())
    assert given == [answer]
    assert "Look: Is it green?" in err.getvalue()
    assert "✔ look: seen" in err.getvalue()


def test_an_end_of_the_input_is_no_answer():
    asking, _ = sink("")
    with pytest.raises(EOFError):
        asking.ask("Look", "Is it green?")


def test_a_ctrl_c_while_something_is_drawn_reaches_the_flow(monkeypatch):
    asking, _ = sink("")
    undone = []

    def flow():
        try:
            yield Outcome("one", Status.STARTED, "interrupting")
        except KeyboardInterrupt:
            undone.append("one")
            yield Outcome("undo: one", Status.DONE)
            raise

    from kivactl.cli.progress import Live

    show = Live.show

    def interrupted(self, outcome):
        if outcome.message == "interrupting":
            raise KeyboardInterrupt
        show(self, outcome)

    monkeypatch.setattr(Live, "show", interrupted)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        asking.outcomes(flow(), seen)
    assert undone == ["one"]
    assert [outcome.step for outcome in seen] == ["one", "undo: one"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["restore", "--replace"], ["restore", "--set", "replace=true"]),
        (["restore", "--password-file=/x=y", "--yes"], ["restore", "--set", "password_file=/x=y", "--yes"]),
        (["restore", "--set", "a=b", "--plan", "-o", "json", "--"], ["restore", "--set", "a=b", "--plan", "-o", "json", "--"]),
        (["restore", "--", "--replace"], ["restore", "--", "--replace"]),
        (["restore", "--empty="], ["restore", "--set", "empty="]),
    ],
)
def test_a_parameter_may_be_given_as_an_option(words, meant):
    assert assigned(words, {"--set", "--plan", "--yes", "--output"}) == meant


def test_an_option_that_neither_the_command_nor_the_runbook_has_is_told_with_the_nearest(kivactl, platform):
    seen = kivactl("runbook", "restore", "--plan", "--repalce")
    assert seen.code == 2
    assert "there is no parameter 'repalce'; did you mean 'replace'?" in seen.stderr
    assert kivactl("runbook", "restore", "--plan", "--replace", "--snapshot=abc").code == 0
    assert kivactl("runbook", "--replace").code == 2

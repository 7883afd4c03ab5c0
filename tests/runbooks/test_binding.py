"""A runbook is read and bound whole before anything runs: names, parameters, placeholders, tolerances, roles."""

from __future__ import annotations

import hashlib

import pytest
from own_runbooks import GOOD, faults_in, spec, written

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.runbooks.actions import ACTIONS
from kivactl.runbooks.actions.action import Action, Params
from kivactl.runbooks.binding import bind, bind_file
from kivactl.runbooks.rendering import sheet
from kivactl.spec.quantities import Duration

SHIPPED = sorted(path.stem for path in root.content("runbooks").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_runbook_binds_and_renders_in_german(name):
    bound = bind(name)
    german, english = (["\n".join(line for line, _ in sheet(bound, {}, language))] for language in ("de", "en"))
    assert bound.runbook.title.de in german[0]
    assert german != english
    assert "Schritte" in german[0]
    assert bound.runbook.escalation, "says whom to call"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_sentence_of_a_shipped_runbook_is_there_in_two_languages(name):
    def sentences(value, where=""):
        if isinstance(value, dict) and set(value) == {"en", "de"}:
            yield where, value
        elif isinstance(value, dict):
            for key, child in value.items():
                yield from sentences(child, f"{where}.{key}")
        elif isinstance(value, list):
            for index, child in enumerate(value):
                yield from sentences(child, f"{where}[{index}]")

    found = dict(sentences(bind(name).runbook.model_dump(mode="json")))
    assert found
    assert [where for where, text in found.items() if text["en"] == text["de"] or not text["de"].strip()] == []


def test_the_very_bytes_that_were_read_are_kept(tmp_path):
    path = written(tmp_path, GOOD.replace("\n", "\r\n") + "# ü\n")
    bound = bind_file(path)
    assert (bound.text, bound.text_sha256) == (path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest())


def test_ones_own_are_found_beside_the_spec_and_hide_shipped_ones(tmp_path):
    loaded = spec(tmp_path)
    path = written(tmp_path, GOOD, "stop")
    assert (bind("stop", loaded).path, bind("stop", None).path) == (path, root.content("runbooks") / "stop.yaml")


@pytest.mark.parametrize(("name", "hint"), [("strat", "kivactl runbook start"), ("histroy", "kivactl runbook history"), ("xyzzy", "kivactl runbook list")])
def test_a_mistyped_name_gets_the_nearest(name, hint):
    with pytest.raises(UsageError, match=f"no runbook named '{name}'") as caught:
        bind(name)
    assert caught.value.hint == hint


def test_all_faults_are_told_at_once_with_file_and_line(tmp_path):
    path = written(
        tmp_path,
        GOOD.replace("platform.answer", "platform.anwser")
        + """
  - name: two
    title: {en: Two, de: Zwei}
    action: platform.answer
    params: {promt: Hello, max_tokens: 0}
    undo: {action: platform.undo-it}
    check: {title: {en: Ok, de: Gut}, probe: platform.healt, tolerance: {equals: serving}}
""",
    )
    with pytest.raises(SpecError) as caught:
        bind_file(path)
    details = "\n".join(caught.value.details)
    assert "greet.yaml:8: steps[0].action: there is no action 'platform.anwser'; did you mean 'platform.answer'?" in details
    assert "unknown key 'promt'; did you mean 'prompt'?" in details
    assert "max_tokens: must be at least 1, not 0" in details
    assert "steps[1].undo.action" in details
    assert "there is no probe 'platform.healt'; did you mean 'platform.health'?" in details
    assert caught.value.message.endswith("has 5 faults")
    assert caught.value.hint == f"correct it, then: kivactl runbook check {path}"


CHECK = "    check: {title: {en: Ok, de: Gut}, probe: disk.free, tolerance: {at_least: 1GiB}}\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps:", "stepz:"), "unknown key 'stepz'; did you mean 'steps'?"),
        (("timeout: 30s", "timeout: 30"), "has no unit"),
        (("timeout: 30s", "timeout: -3s"), "steps[0].timeout"),
        ((", de: Grüßen", ""), "title.de: is missing"),
        (("name: hello", "name: Hello World"), "must match"),
        (("name: hello", "name: run"), "'run' is kept for ${run.name}"),
        (("timeout: 30s", "timeout: 30s\n    timeout: 40s"), "timeout"),
        (("{prompt: Hello}", "{prompt: '${who}'}"), "there is no parameter 'who'; declare it under `parameters`"),
        (("{prompt: Hello}", "{prompt: '${hello.text}'}"), "does not come before it"),
        (("{prompt: Hello}", "{prompt: '${helo.text}'}"), "there is no step 'helo'"),
        (("{prompt: Hello}", "{prompt: '${run.nam}'}"), "'run' has no result 'nam'; did you mean '${run.name}'?"),
        (("{prompt: Hello}", "{prompt: [a]}"), "steps[0].params.prompt"),
        (("{prompt: Hello}", "Hello"), "steps[0].params"),
        (("action: platform.answer", "ask: {en: Well?, de: Gut?}"), "a question has none"),
        (("    timeout: 30s\n", "    ask: {en: Well?, de: Gut?}\n"), "needs either `action`, or `ask` with the question"),
        (("    timeout: 30s\n", CHECK.replace("at_least: 1GiB", "at_least: 1GiB, at_most: 2GiB")), "needs exactly one of"),
        (("    timeout: 30s\n", CHECK.replace("1GiB", "1")), ""),
        (("    timeout: 30s\n", CHECK.replace("at_least: 1GiB", "matches: a")), "does not go with a size"),
        (("    timeout: 30s\n", CHECK.replace("at_least: 1GiB", "between: [3GiB, 1GiB]")), "the first must not be more than the second"),
        (("    timeout: 30s\n", CHECK.replace("1GiB", "lots")), "steps[0].check.tolerance.at_least"),
        (("    timeout: 30s\n", CHECK.replace("disk.free", "platform.health").replace("at_least: 1GiB", "matches: '('")), "is no regular expression"),
        (("responsible: [operator]", "responsible: [operater]"), "there is no role 'operater'; did you mean 'operator'?"),
        (("responsible: [operator]", "responsible: []"), "roles.responsible"),
        (("roles:", "load: {scenario: nowhere}\nroles:"), "load.scenario"),
        (("roles:", "load: {users: 0}\nroles:"), "must be a whole number from 1 to 10000, not 0"),
        (("roles:", "parameters: {a: {description: {en: A, de: A.}, type: duration, default: 3}}\nroles:"), ""),
        (("roles:", "parameters: {a: {description: {en: A, de: A.}, type: duration, default: soon}}\nroles:"), "parameters.a.default"),
        (("roles:", "parameters: {a: {description: {en: A, de: A.}, type: text, minimum: 3}}\nroles:"), "goes with numbers"),
        (("roles:", "parameters: {a: {description: {en: A, de: A.}, optional: true, default: x}}\nroles:"), "never absent"),
        (("roles:", "parameters: {a: {description: {en: A, de: A.}, choices: []}}\nroles:"), "must not be empty"),
        (("roles:", "parameters: {A: {description: {en: A, de: A.}}}\nroles:"), "must match"),
    ],
)
def test_faults_of_form_and_meaning(tmp_path, change, said):
    assert change[0] in GOOD
    details = faults_in(written(tmp_path, GOOD.replace(*change)), spec(tmp_path))
    assert said in details
    assert bool(details) == bool(said), details


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "- a list", "just text", "{", "a: &x [*x]\n", "\0", "title: !!python/object:os.system x"])
def test_files_that_are_no_runbook(tmp_path, text):
    path = tmp_path / "greet.yaml"
    path.write_bytes(text.encode())
    assert faults_in(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"title: \xe9", b"[" * 1_000])
def test_bytes_that_are_no_text(tmp_path, content):
    path = tmp_path / "greet.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        bind_file(path)


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "folder.yaml", tmp_path / "absent.yaml", tmp_path / "absent" / "x.yaml"):
        with pytest.raises(SpecError):
            bind_file(path)


@pytest.mark.parametrize("name", ["list", "resume", "run", "Grüße", "two words", "-x"])
def test_names_that_a_runbook_cannot_have(tmp_path, name):
    assert "name" in faults_in(written(tmp_path, GOOD, name))


def test_two_steps_of_one_name(tmp_path):
    assert "'hello' is the name of an earlier step already" in faults_in(written(tmp_path, GOOD + GOOD[GOOD.index("  - name") :]))


class Given(Params):
    """What the action of these tests takes."""

    text: str = ""
    seconds: Duration = 0.0
    count: int = 0


@pytest.fixture
def actions(monkeypatch):
    """Two actions: one that hands something on, one that must not be repeated."""
    monkeypatch.setitem(ACTIONS, "test.tell", Action(Given, lambda site, params: iter(()), "Tells.", results={"who": "someone", "count": 1}))
    monkeypatch.setitem(ACTIONS, "test.once", Action(Given, lambda site, params: iter(()), "Once.", repeatable=False))


CHAIN = """
title: {en: Chain, de: Kette}
purpose: {en: Hands on., de: Gibt weiter.}
roles: {responsible: [operator], accountable: platform-lead}
steps:
  - {name: one, title: {en: One, de: Eins}, action: test.tell}
  - {name: two, title: {en: 'Two: ${one.who}', de: 'Zwei: ${one.who}'}, action: test.tell, params: {text: '${one.who}', count: '${one.count}'}}
  - {name: three, title: {en: Three, de: Drei}, action: test.tell}
"""


@pytest.mark.usefixtures("actions")
def test_results_of_earlier_steps(tmp_path):
    bound = bind_file(written(tmp_path, CHAIN))
    step = bound.steps[1]
    assert step.title("de") == "Zwei: <one.who>"
    again = step.with_results({"one": {"who": "Zoë ${two.who}", "count": 7}})
    assert (again.title("en"), again.do.params.text, again.do.params.count) == ("Two: Zoë ${two.who}", "Zoë ${two.who}", 7)
    with pytest.raises(SpecError):
        step.with_results({"one": {"who": "x", "count": "many"}})
    assert step.with_results({"one": {"count": 3}}).do.params.count == 3, "a fault of one binding is none of the next"


@pytest.mark.usefixtures("actions")
def test_beginning_in_the_middle(tmp_path):
    bound = bind_file(written(tmp_path, CHAIN))
    assert [step.name for step in bound.starting_from("three")] == ["three"]
    with pytest.raises(UsageError, match="'two' needs what the step 'one' hands on"):
        bound.starting_from("two")
    with pytest.raises(UsageError) as caught:
        bound.starting_from("tree")
    assert caught.value.hint == "did you mean --from three?"


@pytest.mark.usefixtures("actions")
def test_what_must_not_be_repeated_is_not_retried(tmp_path):
    text = GOOD.replace("platform.answer", "test.once").replace("{prompt: Hello}", "{}").replace("timeout: 30s", "retries: {times: 2}")
    assert "the action 'test.once' must not be repeated" in faults_in(written(tmp_path, text))


PARAMETERS = """
title: {en: 'Wait ${time}', de: '${time} warten'}
purpose: {en: Waits., de: Wartet.}
roles: {responsible: [operator], accountable: platform-lead}
parameters:
  time: {type: duration, default: 90s, minimum: 1s, maximum: 1h, description: {en: How long., de: Wie lange.}}
  model: {type: model, description: {en: Which., de: Welches.}}
  colour: {choices: [red, green], optional: true, description: {en: Which., de: Welche.}}
objectives: {rto: '${time}'}
steps:
  - {name: one, title: {en: One, de: Eins}, action: test.tell, params: {text: '${colour}', seconds: '${time}'}, timeout: '${time}'}
"""


@pytest.mark.usefixtures("actions")
def test_parameters_keep_their_type_wherever_they_stand(tmp_path):
    bound = bind_file(written(tmp_path, PARAMETERS), spec(tmp_path), {"time": "2m", "model": "m"})
    assert bound.parameters == {"time": 120.0, "model": "m", "colour": None}
    step = bound.steps[0]
    assert (step.timeout_s, step.do.params.seconds, step.do.params.text, bound.runbook.objectives.rto) == (120.0, 120.0, "", 120.0)
    assert bound.runbook.title.de == "2m warten"
    again = bind_file(bound.path, spec(tmp_path), bound.parameters)
    assert again.parameters == bound.parameters, "as a journal kept them"
    assert bind_file(bound.path).runbook.title.en == "Wait 1m30s"


@pytest.mark.usefixtures("actions")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "model is missing: Which."),
        ({"model": "n"}, "model: there is no model 'n'; valid here: m"),
        ({"model": "m", "tiem": "2m"}, "there is no parameter 'tiem'; did you mean 'time'?"),
        ({"model": "m", "time": "2"}, "time: "),
        ({"model": "m", "time": "2h"}, "time: must be at most 1h, not 2h"),
        ({"model": "m", "time": "1ms"}, "time: must be at least 1s, not 1ms"),
        ({"model": "m", "colour": "gren"}, "colour: must be one of red, green, not 'gren'; did you mean 'green'?"),
        ({"model": ""}, "model: must be text"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path, given, said):
    with pytest.raises(UsageError) as caught:
        bind_file(written(tmp_path, PARAMETERS), spec(tmp_path), given)
    assert said in "\n".join(caught.value.details)
